"""Bias against KL with and without the centred score, and the MSE of the two: what centring buys (ours).

A centred correction (arXiv 2609.20807) subtracts from each token's term its mean over the actor's law. It is measured
exactly where whole laws are known: on noise on the logits, on the paper's additive noise, and on every sequence of
small language models. Figures are ratios, centred over not centred, cell by cell; a comparison is won where the
interval of the mean log ratio over seeds lies below 0 and the ratio is below 0.99, and lost in the mirror case.

    python -m paper_figures.centring
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core.intervals import student

from . import style
from .command import Made, report_table, run
from .records import Loaded

NAME = "centring"

ENVIRONMENTS = {
    "lm-like": ("noise on the logits", "logits"),
    "dirichlet": ("additive noise (Fig. 2)", "additive"),
    "small-lm": ("sequences of small LMs", "sequences"),
}
"""The title and the short name of each environment, by the origin of its policies."""
PLAIN = ("none", "tis", "mis", "jackpot", "rao-blackwell(jackpot)")
NAMES = {
    "none": "none",
    "tis": "TIS",
    "mis": "MIS",
    "jackpot": "Jackpot",
    "rao-blackwell(jackpot)": "RB-Jackpot",
}
FIGURES = {"bias": "bias", "variance": "variance", "mse": "MSE"}
RIVALS = ("tis", "mis", "jackpot")
"""The corrections that the centred update without weights competes with."""
NEAR = 0.01
"""The relative difference up to which two figures are a tie."""
_ROUNDING = 1e-9
"""A bias that is rounding: a correction that has none, nearly, can be neither won against nor lost to."""


class Outcome(NamedTuple):
    """One comparison on one environment at one KL."""

    ratio: float
    """The geometric mean over seeds of the first figure over the second."""
    low: float
    high: float
    """Its interval."""

    @property
    def sign(self) -> int:
        """−1 where the first is lower, 1 where it is higher, 0 for a tie."""
        if self.high < 1 and self.ratio < 1 - NEAR:
            return -1
        return int(self.low > 1 and self.ratio > 1 + NEAR)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure and says where centring is worth it."""
    return run(NAME, "The effect of a centred score on bias, variance and MSE.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure, its tables and the verdict."""
    rows = loaded.records
    figure, axes = style.canvas(3, 4.9, rows=2)
    for (base, (title, _)), above, below in zip(ENVIRONMENTS.items(), axes[:3], axes[3:], strict=True):
        own = rows[rows["base_kind"] == base]
        _draw_bias(above, own, title)
        _draw_error(below, own)
    low, high = np.array([each.get_ylim() for each in axes[3:]]).T
    for below in axes[3:]:
        below.set_ylim(low.min(), high.max())
    axes[0].set_ylabel("bias, ‖E[update] − g‖ / ‖g‖")
    axes[3].set_ylabel(f"MSE at n = {rows['n_samples'].iloc[0]}, centred / not")
    handles = [
        axes[0].plot([], [], color=style.LOOKS[name].color, marker=style.LOOKS[name].marker, label=NAMES[name])[0]
        for name in PLAIN
    ]
    handles += [axes[0].plot([], [], color="#555555", linestyle=line, label=label)[0] for label, line in _LINES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.2)
    off = _largest_difference_of_laws(rows)
    return Made(figure, [_table(rows)], _verdict(rows, off), off < 1e-12)


# ------------------------------------------------------------------------------------------- comparisons


def outcomes(rows: pd.DataFrame, base: str, first: str, second: str, figure: str) -> list[Outcome]:
    """One comparison of two estimators for each KL of an environment, in ascending order of the KL."""
    own, found = rows[(rows["base_kind"] == base) & rows["estimator"].isin([first, second])], []
    values = own.pivot(index=["target_kl", "seed"], columns="estimator", values=figure)[[first, second]]
    for _, at in values.groupby(level="target_kl"):
        pair = at.to_numpy()
        if np.any(pair < _ROUNDING):
            continue
        logs = np.log(pair[:, 0] / pair[:, 1])
        interval = student(logs)
        found.append(Outcome(*np.exp([logs.mean(), interval.low, interval.high]).tolist()))
    return found


def comparisons() -> Iterator[tuple[str, str]]:
    """The pairs that are compared: each correction's two forms, and the centred update without weights with rivals."""
    yield from ((f"centred({name})", name) for name in PLAIN)
    yield from (("centred(none)", name) for name in RIVALS)


def _range(found: Sequence[Outcome]) -> str:
    """The least and the largest ratio."""
    if not found:
        return "no bias"
    low, high = (f"{value:.3f}" for value in (min(each.ratio for each in found), max(each.ratio for each in found)))
    return low if low == high else f"{low}–{high}"


def _largest_difference_of_laws(rows: pd.DataFrame) -> float:
    """The largest change of acceptance or effective KL by centring, which changes neither."""
    keys, figures = ["cell", "estimator"], ["acceptance_rate", "kl_effective"]
    values = rows.set_index(keys)[figures].unstack("estimator")
    return max(
        float((values[figure][f"centred({name})"] - values[figure][name]).abs().max())
        for figure in figures
        for name in PLAIN
    )


# ------------------------------------------------------------------------------------------- report


def _table(rows: pd.DataFrame) -> Table:
    table = report_table(
        "Ratios, least to largest over the KLs; KLs at which the first is lower (<) or higher (>), 95 % over seeds",
        "first / second",
        *FIGURES.values(),
    )
    for base, (title, _) in ENVIRONMENTS.items():
        table.add_row(title)
        for first, second in comparisons():
            cells = [outcomes(rows, base, first, second, figure) for figure in FIGURES]
            table.add_row(f"  {_name(first)} / {_name(second)}", *(_told(found) for found in cells))
        table.add_section()
    return table


def _told(found: Sequence[Outcome]) -> str:
    signs = [each.sign for each in found]
    marks = [f"{mark}{signs.count(sign)}" for mark, sign in (("<", -1), (">", 1)) if sign in signs]
    return f"{_range(found)} {' '.join(marks) or '=':>5}"


def _name(estimator: str) -> str:
    if not estimator.startswith("centred("):
        return NAMES[estimator]
    return f"centred {NAMES[estimator.removeprefix('centred(').removesuffix(')')]}"


def _verdict(rows: pd.DataFrame, off: float) -> str:
    """The measured sentence: where centred forms win, and what centring does to Jackpot."""
    n = rows["n_samples"].iloc[0]
    labels = {**FIGURES, "mse": f"MSE at n = {n}"}
    changes = [(name, {each: _range(_everywhere(rows, name, each)) for each in FIGURES}) for name in PLAIN[3:]]

    def against(first: str, second: str) -> str:
        told = (f"in {labels[each]} {_where(rows, first, second, each)}" for each in FIGURES)
        return f"{NAMES[second]} {', '.join(told)}"

    def by(name: str, ranges: dict[str, str]) -> str:
        return f"{NAMES[name]}'s {', '.join(f'{labels[each]} by {ratio}' for each, ratio in ranges.items())}"

    bare = "; ".join(against("centred(none)", name) for name in RIVALS)
    own = "; ".join(against(f"centred({name})", name) for name in PLAIN[:3])
    return (
        f"VERDICT: centred and without weights, the update beats {bare}. Centring improves {own}; it multiplies "
        f"{' and '.join(by(*each) for each in changes)}; acceptance and effective laws stay (largest change {off:.0e})."
    )


def _where(rows: pd.DataFrame, first: str, second: str, figure: str) -> str:
    """The environments where a comparison is won, with the number of KLs, and how often it is lost."""
    signs = {
        short: [each.sign for each in outcomes(rows, base, first, second, figure)]
        for base, (_, short) in ENVIRONMENTS.items()
    }
    won = [f"{short} ({each.count(-1)} of {len(each)} KLs)" for short, each in signs.items() if -1 in each]
    every = [sign for each in signs.values() for sign in each]
    lost = f", worse at {every.count(1)} of {len(every)}" if 1 in every else ""
    return (f"on {' and '.join(won)}" if won else "nowhere") + lost


def _everywhere(rows: pd.DataFrame, name: str, figure: str) -> list[Outcome]:
    return [each for base in ENVIRONMENTS for each in outcomes(rows, base, f"centred({name})", name, figure)]


# ------------------------------------------------------------------------------------------- panels

_LINES = {"not centred": "-", "centred": (0, (3, 1.5))}
"""The line of each form."""


def _draw_bias(axes: Axes, rows: pd.DataFrame, title: str) -> None:
    for name in PLAIN:
        look = style.LOOKS[name]
        for form, line in zip((name, f"centred({name})"), _LINES.values(), strict=True):
            kls, means, low, high = _over_seeds(rows[rows["estimator"] == form])
            if kls:
                bars = np.abs(np.array([low, high]) - np.array(means))
                axes.errorbar(kls, means, bars, color=look.color, marker=look.marker, linestyle=line, elinewidth=0.8)
    axes.set(xscale="log", yscale="log")
    axes.set_title(title)


def _over_seeds(rows: pd.DataFrame) -> tuple[list[float], list[float], list[float], list[float]]:
    """KL, the geometric mean of the bias over seeds, and the ends of its interval; without biases of rounding alone."""
    found: list[tuple[float, float, float, float]] = []
    for kl, at in rows.groupby("target_kl"):
        if (at["bias"] > _ROUNDING).all():
            logs = np.log(at["bias"].to_numpy())
            interval = student(logs)
            found.append((float(str(kl)), *np.exp([logs.mean(), interval.low, interval.high]).tolist()))
    return ([], [], [], []) if not found else tuple(list(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def _draw_error(axes: Axes, rows: pd.DataFrame) -> None:
    base = str(rows["base_kind"].iloc[0])
    kls = np.array(sorted(rows["target_kl"].unique()))
    for place, name in enumerate(PLAIN):
        look = style.LOOKS[name]
        found = outcomes(rows, base, f"centred({name})", name, "mse")
        mean = np.array([each.ratio for each in found])
        bars = np.abs(np.array([[each.low for each in found], [each.high for each in found]]) - mean)
        aside = kls * 1.06 ** (place - 2)  # so that equal points do not hide one another
        axes.errorbar(aside, mean, bars, color=look.color, marker=look.marker, linestyle="-", elinewidth=0.8)
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    axes.set(xscale="log", xlabel="KL(policy‖actor), nats")


if __name__ == "__main__":
    sys.exit(main())
