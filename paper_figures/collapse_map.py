"""The step at which training is lost, by the first distance of a frozen actor and by method.

(a) the median step at which runs are lost, and how many are; "kept" where none is. (b) the boundary between runs that
are kept and lost: the first KL(p‖q) of the actor that a run bears, and (c) the 5th percentile of the overlap there,
below which it is lost; means over seeds with 95 % intervals. The paper shows single distances only. It leads one to
expect that a farther actor is lost sooner, and Jackpot later than others. All runs of a seed begin with the same
policy, so that distances are no repetitions: only the number of seeds decides.

A seed's boundary is Spearman's and Kärber's: x_0 + Σ_i (1 − (lost_i + lost_{i+1})/2)(x_{i+1} − x_i) over its distances
x in ascending danger. It cannot lie beyond the distances tried, so that an arrow marks a mean of which at least half of
the seeds lie at the end.

    python -m paper_figures.collapse_map
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table
from scipy import stats

from jackpot_sim.core.arrays import Floats

from . import style
from .command import Made, report_table
from .training import curves
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import (
    CONFIDENCE,
    Claim,
    Difference,
    difference,
    group,
    interval,
    lost_in_words,
    mostly,
    of,
    per_run,
    verdict,
)

NAME = "collapse_map"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether distance and method decide when training is lost."""
    return draw(NAME, "When training collapses, by initial KL and method.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    trained.need(("none",), trained.settings)
    trained.need((_ours(trained),), trained.settings)
    runs = _with_survival(per_run(trained))
    found = {danger: boundaries(trained, runs, danger) for danger in (KL, OVERLAP)}
    found = {danger: each for danger, each in found.items() if each}  # records of other versions lack the overlap's
    report = curves.tables(trained, runs, "Frozen actors")
    widths = [2.3, *([1.0] * len(found))]
    figure, (left, *others) = style.canvas(len(widths), 0.36 * len(trained.settings) + 1.8, widths)
    _map(left, trained, runs, "survived", _when)
    left.set(title="(a) Step at which runs are lost", ylabel="KL of the actor at first, nats")
    for place, (axes, (danger, of_methods)) in enumerate(zip(others, found.items(), strict=True)):
        _boundaries(axes, of_methods, danger)
        axes.set_title(f"({'bc'[place]}) {danger.title}")
        if place:
            axes.set_yticklabels([])
        report.append(_table(of_methods, danger))
    sentence, agrees = verdict(trained, claims_of(trained))
    return Made(figure, report, sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The expectations of the distance and of Jackpot, each with what these runs say of it."""
    runs, ours = _with_survival(per_run(trained)), _ours(trained)
    later = [_later(runs, ours, other) for other in ("none", "tis") if other in trained.methods]
    return [_sooner(trained, runs), *later]


def longer_than(trained: Trained, runs: pd.DataFrame, other: str) -> dict[str, Difference]:
    """The share of the steps that runs survive, less that of another method, by "method − other".

    It is the mean over distances, paired by seed; the intervals hold simultaneously at 95 % (Bonferroni).
    """
    runs = _with_survival(runs)
    methods = [method for method in trained.methods if method != other]
    level = 1 - (1 - CONFIDENCE) / len(methods)
    return {
        f"{name_of(method)} − {name_of(other)}": difference(
            of(runs, method, "survived"), of(runs, other, "survived"), level
        )
        for method in methods
    }


def _ours(trained: Trained) -> str:
    return next((each for each in ("jackpot", "rao-blackwell") if each in trained.methods), "jackpot")


def _with_survival(runs: pd.DataFrame) -> pd.DataFrame:
    """The figures of each run, with the share of the steps asked that it survived."""
    return runs.assign(survived=runs["lost_at"].fillna(runs["asked"]) / runs["asked"])


def distance(trained: Trained, setting: str) -> float | None:
    """The KL to which the frozen actor of a setting was distilled, nats; None unless all methods share one."""
    asked = {training["actor"].get("kl") for training in trained.grid[setting].values()} - {None}
    return float(asked.pop()) if len(asked) == 1 else None


class Danger(NamedTuple):
    """A figure of the first step that tells how far the actor is."""

    column: str
    """Its column in the steps."""
    name: str
    """Its name in the report."""
    title: str
    """The title of its panel."""
    rises: bool
    """True where large values are dangerous."""
    log: bool
    """True where means over seeds are geometric."""


KL = Danger("kl_policy_actor", "KL(p‖q) at first", "KL borne, nats", rises=True, log=True)
OVERLAP = Danger("overlap_p5", "5th percentile of the overlap at first", "p5 of overlap", rises=False, log=False)


class Boundary(NamedTuple):
    """The figure at which runs of a method begin to be lost."""

    mean: Difference
    """The mean over seeds, with its interval."""
    least: int
    """Seeds that lost their runs at all distances."""
    most: int
    """Seeds that lost none."""


def boundaries(trained: Trained, runs: pd.DataFrame, danger: Danger) -> dict[str, Boundary]:
    """The boundary of each method whose runs have the figure.

    Args:
        trained: the records.
        runs: the figures of each run, see `per_run`.
        danger: the figure; its value for a distance and a seed is the mean over methods in the first step.
    """
    if danger.column not in trained.steps:
        return {}
    first = trained.steps[trained.steps["step"] == 0]
    at = first.groupby(["setting", "seed"])[danger.column].mean().dropna()
    out = {}
    for method in trained.methods:
        lost = of(runs, method, "lost_at").notna()
        cells = pd.DataFrame({"at": at, "lost": lost}).dropna()
        seeds = {seed: cell for seed, cell in cells.groupby(level="seed") if len(cell) > 1}
        if not seeds:
            continue
        borne = pd.Series({seed: _borne(cell, danger) for seed, cell in seeds.items()})
        mean = interval(borne)
        if danger.log:
            mean = Difference(math.exp(mean.mean), math.exp(mean.low), math.exp(mean.high), mean.pairs)
        every = [bool(cell["lost"].all()) for cell in seeds.values()]
        none = [not cell["lost"].any() for cell in seeds.values()]
        out[method] = Boundary(mean, sum(every), sum(none))
    return out


def _borne(cell: pd.DataFrame, danger: Danger) -> float:
    """The boundary of one seed, from the figure at each distance and whether the run was lost."""
    ordered = cell.sort_values("at", ascending=danger.rises)
    x, kept = ordered["at"].to_numpy(dtype=np.float64), 1.0 - ordered["lost"].to_numpy(dtype=np.float64)
    x = np.log(x) if danger.log else x
    return float(x[0] + ((kept[:-1] + kept[1:]) / 2 * np.diff(x)).sum())


def _boundaries(axes: Axes, found: Mapping[str, Boundary], danger: Danger) -> None:
    looks = style.of_methods([*found])
    for place, (method, boundary) in enumerate(found.items()):
        mean, low, high, pairs = boundary.mean
        error = None if pairs < 2 else [[mean - low], [high - mean]]
        look = looks[method]
        axes.errorbar([mean], [place], xerr=error, color=look.color, marker=look.marker, markersize=4.5, capsize=2)
        beyond = -1 if 2 * boundary.least >= pairs else 1 if 2 * boundary.most >= pairs else 0
        if beyond:
            sign = beyond if danger.rises else -beyond
            axes.annotate(
                "→" if sign > 0 else "←", (mean, place), va="center", xytext=(sign * 9, 0), textcoords="offset points"
            )
    axes.set_yticks(range(len(found)), [name_of(each) for each in found], fontsize=7)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _table(found: Mapping[str, Boundary], danger: Danger) -> Table:
    title = f"{danger.name}: the boundary between kept and lost, with its interval over seeds"
    table = report_table(title, "method", "boundary", "seeds", "all lost", "none lost")
    for method, (mean, least, most) in found.items():
        ends = "" if mean.pairs < 2 else f" [{mean.low:.2f}, {mean.high:.2f}]"
        table.add_row(name_of(method), f"{mean.mean:.2f}{ends}", str(mean.pairs), str(least), str(most))
    return table


def _map(axes: Axes, trained: Trained, runs: pd.DataFrame, column: str, text: Callable[[pd.DataFrame], str]) -> None:
    shades: Floats = np.full((len(trained.settings), len(trained.methods)), np.nan)
    for row, setting in enumerate(trained.settings):
        for place, method in enumerate(trained.methods):
            if method in trained.grid[setting]:
                cell = group(runs, setting, method)
                shades[row, place] = shade = float(cell[column].mean())
                color = "white" if shade > 0.6 else "black"
                axes.text(place, row, text(cell), ha="center", va="center", color=color, fontsize=6.5)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(range(len(trained.methods)), [name_of(each) for each in trained.methods], rotation=35, ha="right")
    labels = [setting if (kl := distance(trained, setting)) is None else f"{kl:g}" for setting in trained.settings]
    axes.set_yticks(range(len(trained.settings)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _when(cell: pd.DataFrame) -> str:
    at = cell["lost_at"].dropna()
    if not len(at):
        return "kept"
    return f"{at.median():.0f}" if len(at) == len(cell) else f"{at.median():.0f}\n{len(at)} of {len(cell)}"


def _sooner(trained: Trained, runs: pd.DataFrame) -> Claim:
    """The claim that runs without a correction are lost sooner the farther the actor, by Kendall's τ in most seeds."""
    survived = of(runs, "none", "survived")
    far = [distance(trained, str(setting)) for setting in survived.index.get_level_values("setting")]
    tau = survived.to_frame().assign(far=pd.Series(far, survived.index, dtype=float)).groupby(level="seed").apply(_tau)
    sooner, later = mostly(tau < 0), mostly(tau > 0)
    each = ", ".join(f"{value:+.2f}" for value in tau)
    lost = lost_in_words(of(runs, "none", "lost_at"))
    because = f"no correction: {lost}; Kendall's τ of distance and survival {each} by seed"
    holds = True if sooner else False if later else None
    return Claim("without a correction a farther actor is lost sooner", holds, because)


def _tau(seed: pd.DataFrame) -> float:
    """Kendall's τ over the settings of a seed; 0 where nothing varies."""
    known = seed.dropna()
    varies = len(known) > 1 and known.nunique().min() > 1
    return float(stats.kendalltau(known["far"], known["survived"]).statistic) if varies else 0.0


def _later(runs: pd.DataFrame, ours: str, other: str) -> Claim:
    gain = difference(of(runs, ours, "survived"), of(runs, other, "survived"))
    because = f"share of the steps that runs survive, {name_of(ours)} − {name_of(other)}, mean over distances: {gain}"
    return Claim(f"{name_of(ours)} is lost later than {name_of(other)}", gain.above, because)


if __name__ == "__main__":
    sys.exit(main())
