"""The look of all figures: the width of a text column, one colour and one marker for each estimator.

Figures are drawn without pyplot, so that importing this module sets no backend and opens no display. Files carry no
dates and no versions, so that the same records give the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.looks import LOOKS as LOOKS
from analysis.looks import METHODS as METHODS
from analysis.looks import Look as Look
from analysis.looks import of_methods as of_methods
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import write_atomically

WIDTH = 6.9
"""The width of a figure in inches: the text of a two-column page."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.2,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 220,
}


SOURCES = {
    "quantized-weights": Look("#0072B2", "s"),
    "quantized-kv": Look("#56B4E9", "o"),
    "sliding-window": Look("#CC79A7", "v"),
    "stale": Look("#009E73", "P"),
    "distilled": Look("#E69F00", "D"),
    "separate": Look("#D55E00", "^"),
    "llama-cpp": Look("#000000", "*"),
    "precision": Look("#882255", "h"),
    "temperature": Look("#8C510A", "X"),
    "top-p": Look("#999999", "d"),
    "fewer-layers": Look("#D55E00", "<"),
}
"""The look of each kind of source of a language-model actor."""


LEVELS = ("#92C5DE", "#4393C3", "#2166AC", "#053061")
"""Colours for a few values of a number, from light for the smallest to dark."""

NOISES = {"dirichlet-mixture": Look("#0072B2", "o"), "logit-noise": Look("#882255", "d")}
"""The look of each kind of environment, where one estimator, OBRS, is shown under several."""

POLICY, ACTOR = "#333333", "#BBBBBB"
PUBLISHED: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgecolor": "#000000",
    "markeredgewidth": 0.9,
    "zorder": 5,
}
"""The look of the paper's points: open circles, so that ours show inside them."""
CLOSED_FORM: dict[str, Any] = {"color": "#000000", "linestyle": (0, (4, 2)), "linewidth": 1.0, "zorder": 4}
"""The look of formulas: dashed black lines."""


@contextlib.contextmanager
def context() -> Iterator[None]:
    """A context with matplotlib's own defaults and `STYLE` in place of the user's settings."""
    # The backend is no matter of style, and rc_context would not restore it.
    settings: Any = {key: matplotlib.rcParamsDefault[key] for key in matplotlib.rcParamsDefault if "backend" not in key}
    with matplotlib.rc_context(settings | STYLE):
        yield


def canvas(
    panels: int, height: float, width_ratios: list[float] | None = None, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of the text's width with `panels` side by side in each of its rows, for use inside `context()`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, panels, width_ratios=width_ratios, squeeze=False)
    return figure, list(axes.flat)


def draw_papers_kls(axes: Axes, paper: pd.DataFrame, *, named: bool = False) -> None:
    """A dotted line at each KL that the paper reports, with its cause along the line where they are named.

    Args:
        axes: with the KL along x.
        paper: rows of `kl`, nats, and `cause`.
        named: whether the causes are written.
    """
    for _, row in paper.iterrows():
        axes.axvline(row["kl"], color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        if named:
            axes.annotate(
                row["cause"],
                (row["kl"], 0.015),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-1.5, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=7.5,
                color="#444444",
            )


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes `name`.pdf and `name`.png.

    Raises:
        StudyError: the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, metadata in (("pdf", {"CreationDate": None, "Producer": None}), ("png", {"Software": None})):
            path = folder / f"{name}.{kind}"
            write_atomically(path, lambda to, k=kind, m=metadata: figure.savefig(to, format=k, metadata=m))
            written.append(path)
    except OSError as error:
        raise StudyError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    return written
