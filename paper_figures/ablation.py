"""An ablation of Jackpot: each of its parts, with and without it, on the study of Figure 1.

Points are means over seeds ± one standard error, and small dots the seeds. The differences that decide are paired by
seed, with intervals that hold simultaneously at 95 % (Bonferroni).

    python -m paper_figures.ablation
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.studies.errors import StudyError

from . import style
from .command import Made, report_table
from .style import Look
from .training import curves
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import CONFIDENCE, Difference, difference, of, per_run

NAME = "ablation"

PARTS = (
    ("the mask", "jackpot", "rao-blackwell"),
    ("the weights beside the mask", "p-ref", "obrs"),
    ("the target p_new, not p_ref", "jackpot", "p-ref"),
    ("the clip c1", "jackpot", "no-c1"),
    ("the clip c2", "jackpot", "no-c2"),
    ("the factor Z (and its clip)", "rao-blackwell-p-ref", "tis"),
)
"""The parts, each with a method that has it and one that differs only by lacking it.

The factor Z cannot be separated from its clip: Z·min(r, c1/Z) is clipped at another r than TIS's min(r, c1).
"""

_PANELS = (
    ("accuracy", "At the end", "accuracy"),
    ("best_accuracy", "At best", "accuracy"),
    ("kl", "At the end", "KL(p‖q), nats per token"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which parts make a difference."""
    return draw(NAME, "Jackpot's parts, with and without each.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    runs, looks = per_run(trained), style.of_methods(trained.methods)
    parts = parts_of(runs)
    if not parts:
        raise StudyError(
            f"{trained.root} holds no two methods that differ in one part of Jackpot, as p-ref and obrs do"
        )
    figure, cells = style.canvas(len(_PANELS), 0.24 * len(trained.methods) + 1.1)
    for number, (axes, (column, title, label)) in enumerate(zip(cells, _PANELS, strict=True)):
        _draw(axes, runs, column, looks)
        axes.set(xlabel=label, title=f"({'abc'[number]}) {title}")
        axes.set_yticks(range(len(looks)), [name_of(each) for each in looks] if number == 0 else [""] * len(looks))
        axes.set_ylim(len(looks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    if runs["kl"].notna().any():
        cells[-1].set_xscale("log")
        curves.log_axis(cells[-1].xaxis)
    report = [*curves.tables(trained, runs, "Jackpot in parts"), _table(parts)]
    changes = "".join(f"\n  {part}: {_way(each)} ({each})." for part, each in parts.items())
    start = "NO VERDICT, a quick look, which decides nothing" if trained.quick else "VERDICT"
    return Made(figure, report, f"{start}: in last accuracy{changes}\n  The intervals hold together at 95 %.", True)


def parts_of(runs: pd.DataFrame) -> dict[str, Difference]:
    """The change in last accuracy that each part makes, with simultaneous intervals."""
    methods = {*runs.index.get_level_values("method")}
    asked = [(part, having, lacking) for part, having, lacking in PARTS if {having, lacking} <= methods]
    level = 1 - (1 - CONFIDENCE) / max(len(asked), 1)
    return {
        part: difference(of(runs, having, "accuracy"), of(runs, lacking, "accuracy"), level)
        for part, having, lacking in asked
    }


def _way(change: Difference) -> str:
    return {True: "HELPS", False: "HARMS", None: "LEFT OPEN"}[change.above]


def _table(parts: Mapping[str, Difference]) -> Table:
    table = report_table("With less without, in last accuracy, paired by seed", "part", "difference")
    for part, change in parts.items():
        table.add_row(part, str(change))
    return table


def _draw(axes: Axes, runs: pd.DataFrame, column: str, looks: Mapping[str, Look]) -> None:
    for place, (method, look) in enumerate(looks.items()):
        values = of(runs, method, column).dropna().to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]  # an infinite KL has no place on the axis; the table has it
        if not len(values):
            continue
        scaled = np.log(values) if column == "kl" else values
        error = scaled.std(ddof=1) / np.sqrt(len(scaled)) if len(scaled) > 1 else 0.0
        back = np.exp if column == "kl" else np.asarray
        low, mean, high = (float(back(scaled.mean() + each)) for each in (-error, 0.0, error))
        axes.plot(values, np.full(len(values), place), ".", markersize=3, color=look.color, alpha=0.5)
        bars = [[mean - low], [high - mean]]
        axes.errorbar([mean], [place], xerr=bars, color=look.color, marker=look.marker, markersize=5.5, capsize=2)


if __name__ == "__main__":
    sys.exit(main())
