"""More corrections beside TIS, with a frozen actor, one of its own PPO, and one that is distilled too.

(a) last accuracy, dotted that of on-policy training, and (b) KL(p‖q) at the end of every cell: means over seeds with
95 % intervals, and the seeds. (c) Last accuracy less that of TIS with the same actor, paired by seed. The tables have
it also less that of Jackpot's whole objective, and of on-policy training. The intervals of a table hold simultaneously
at 95 % (Bonferroni). The runs without a correction, with TIS, Jackpot and RB-Jackpot, and on-policy, are those of
`factorial` with the same seeds, which begin with the same models and see the same prompts and draws.

    python -m paper_figures.corrections
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import pandas as pd
from matplotlib.lines import Line2D
from rich.table import Table

from jackpot_sim.studies.errors import StudyError

from . import factorial, style
from .command import Made, report_table
from .training import cells, curves
from .training.curves import name_of
from .training.records import Trained, draw, load
from .training.statistics import CONFIDENCE, ON_POLICY, Difference, group, interval, per_run

NAME = "corrections"

ACTORS = {"frozen": "frozen actor", "own-ppo": "own PPO alone", "distilled": "trained and distilled"}
"""The settings, with their names in the tables."""
_COLORS = {"frozen": "#000000", "own-ppo": "#777777", "distilled": "#BBBBBB"}


class Base(NamedTuple):
    """The cell, or the method with the same actor, that cells are compared with."""

    name: str
    """Its name in the report."""
    method: str
    """Its method."""
    setting: str | None = None
    """Its setting; None: that of each cell."""


TIS = Base("TIS", "tis")
WHOLE = Base("Jackpot's whole objective", "jackpot", "distilled")
BASES = (TIS, WHOLE, Base("on-policy training", "none", ON_POLICY))

Differences: TypeAlias = Mapping[str, Mapping[str, Difference]]
"""By method and setting."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which corrections differ from TIS."""
    about = "More corrections beside TIS: of sequences, centred, and the authors' lab's form of Jackpot."
    return draw(NAME, about, lambda trained: make(trained, load(factorial.NAME, None, quick=trained.quick)), argv)


def make(trained: Trained, base: Trained) -> Made:
    """The figure and its tables.

    Args:
        trained: the further corrections.
        base: the factorial study.
    """
    for setting in ACTORS:
        trained.need(trained.methods, [setting])
        base.need(factorial.METHODS, [setting])
    runs = together(per_run(base), per_run(trained))
    looks = style.of_methods([*factorial.METHODS, *trained.methods])
    figure, (left, middle, right) = style.canvas(3, 3.3, [1.2, 1.2, 0.9])
    cells.draw_cells(left, runs, "accuracy", looks, factorial.ACTORS, log=False)
    cells.draw_cells(middle, runs, "kl", looks, factorial.ACTORS, log=True)
    cells.draw_level(left, float(group(runs, ON_POLICY, "none")["accuracy"].mean()))
    left.set(title="(a) Last accuracy", xlabel="training of the actor")
    middle.set(title="(b) KL(p‖q) at the end, nats", xlabel="training of the actor", yscale="log")
    curves.log_axis(middle.yaxis)
    found = {base: less_than(runs, base) for base in BASES}
    cells.draw_differences(right, {name_of(method): each for method, each in found[TIS].items()}, _COLORS)
    right.set(title="(c) Less TIS", xlabel="difference in accuracy")
    handles = cells.legend([*looks], looks)
    for setting, label in ACTORS.items():
        color, named = _COLORS[setting], f"(c) {label}"
        handles.append(Line2D([], [], color=color, marker="o", markersize=4, linestyle="none", label=named))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=7)
    tables = [
        *curves.tables(trained, per_run(trained), "More corrections", ACTORS),
        *map(_table, found, found.values()),
    ]
    sentence = "NO VERDICT, a quick look that decides nothing." if trained.quick else _sentence(found, runs)
    return Made(figure, tables, sentence, True)


def together(base: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """The runs of both studies, on-policy and in the settings of `ACTORS`, of the seeds that both have.

    Raises:
        StudyError: they have no seed in common.
    """
    seeds = set(base.index.get_level_values("seed")) & set(more.index.get_level_values("seed"))
    if not seeds:
        raise StudyError("the study has no seed in common with that of factorial, to whose runs it is compared")
    both = pd.concat([base, more]).sort_index()
    settings = both.index.get_level_values("setting").isin([*ACTORS, ON_POLICY])
    return both[settings & both.index.get_level_values("seed").isin(seeds)]


def less_than(runs: pd.DataFrame, base: Base) -> Differences:
    """The last accuracy of every cell less that of the base, paired by seed, with simultaneous intervals."""
    of_cells: dict[str, dict[str, pd.Series[float]]] = {}
    order = [*factorial.METHODS, *sorted(set(runs.index.get_level_values("method")))]
    for method in dict.fromkeys(order):
        for setting in ACTORS:
            other = base.setting or setting, base.method
            if (setting, method) != other:
                change = group(runs, setting, method)["accuracy"] - group(runs, *other)["accuracy"]
                of_cells.setdefault(method, {})[setting] = change.dropna()
    level = 1 - (1 - CONFIDENCE) / sum(map(len, of_cells.values()))
    return {method: {name: interval(each, level) for name, each in by.items()} for method, by in of_cells.items()}


def _table(base: Base, found: Differences) -> Table:
    table = report_table(f"Last accuracy less that of {base.name}, paired by seed", "correction", *ACTORS.values())
    for method, each in found.items():
        table.add_row(name_of(method), *(str(each[setting]) if setting in each else "-" for setting in ACTORS))
    return table


def _sentence(found: Mapping[Base, Differences], runs: pd.DataFrame) -> str:
    lines = []
    for base, less in found.items():
        for setting, label in ACTORS.items():
            of = {name_of(method): each[setting] for method, each in less.items() if setting in each}
            better, worse = (
                [f"{name} {each}" for name, each in of.items() if each.above is way] for way in (True, False)
            )
            rest = [name for name, each in of.items() if each.above is None]
            said = [f"better {', '.join(better) or 'none'}", f"worse {', '.join(worse) or 'none'}"]
            lines.append(f"\n  Beside {base.name}, {label}: {'; '.join(said)}; LEFT OPEN {', '.join(rest) or 'none'}.")
    seeds = runs.index.unique("seed").size
    return f"VERDICT: in last accuracy, {seeds} seeds, intervals of a line with those of its table{''.join(lines)}"


if __name__ == "__main__":
    sys.exit(main())
