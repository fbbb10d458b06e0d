"""The look of all figures: the width of a text column, beside the colours and markers of `looks`.

Figures are drawn without pyplot, so that importing this module sets no backend and opens no display. Files carry no
dates and no versions, so that the same records give the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from jackpot_sim.commands import in_ascii
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import write_atomically

from .looks import LOOKS as LOOKS
from .looks import METHODS as METHODS
from .looks import Look as Look
from .looks import of_estimators as of_estimators
from .looks import of_methods as of_methods

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


_LONGEST = 36
"""The most letters of a name in a figure; of a longer one the middle is left out."""


def plain(name: str, longest: int = _LONGEST) -> str:
    """A name as figures show it: not too long, and without signs that the font lacks.

    >>> plain("x" * 60), plain("tis 日"), plain("_hidden")
    ('xxxxxxxxxxxxxxxxxxxxx…xxxxxxxxxxxxxx', 'tis ?', ' _hidden')
    """
    shown = "".join(each if _glyphs().get_char_index(ord(each)) else in_ascii(each) for each in name)
    shown = "".join(each if each.isprintable() else " " for each in shown)
    if len(shown) > longest:
        end = (longest - 1) * 2 // 5
        shown = f"{shown[: longest - 1 - end]}…{shown[-end:]}"
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib leaves such entries out of legends


@functools.cache
def _glyphs() -> FT2Font:
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))


def legend_below(figure: Figure, handles: Sequence[Line2D], columns: int = 4) -> None:
    """A legend below all panels, in which names are no formulas."""
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(len(handles), columns)))
    for text in legend.get_texts():
        text.set_parse_math(False)


_FOOT = 6.5
"""The size of the letters of a foot, in points."""
_FOOT_WIDTH = 130
"""The letters of a foot that fit into a line."""


def foot(figure: Figure, text: str) -> None:
    """Writes what a figure shows below everything else, in as many lines as it needs; the figure gets higher.

    Args:
        figure: one of `canvas`, with all its legends.
        text: task, models, steps and seeds, in words.
    """
    lines = textwrap.wrap(text, _FOOT_WIDTH)
    lift = (1.35 * _FOOT * len(lines) + 3) / 72
    height = figure.get_figheight() + lift
    figure.set_figheight(height)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, lift / height, 1, 1 - lift / height))
    for legend in figure.legends:  # a legend outside the axes stands on the edge of the figure, not of the layout
        legend.borderaxespad += 72 * lift / legend.prop.get_size_in_points()
    where: dict[str, Any] = {"va": "bottom", "ha": "left", "linespacing": 1.25, "fontsize": _FOOT, "color": "#555555"}
    figure.text(0.008, 0.03 / height, "\n".join(lines), parse_math=False, **where)


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
