"""The findings of training with their seeds and intervals, from the records that ship: a table in docs/claims.md.

A study of one seed has no interval, and so no line here: its figure shows single runs, and decides nothing. Intervals
are Student's over seeds, at 95 %, of differences paired by seed; those of the parts in `ablation` and in `factorial`,
of the cells of `corrections` beside the same other, of all comparisons of `recipes` and of `longer`, of all cells of
`updates`, and of all methods of `collapse_map`, hold together. The rate of an event over seeds has the one-sided
Clopper–Pearson bound by which `training.statistics.mostly` decides.

    python -m paper_figures.findings
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from . import (
    ablation,
    collapse_map,
    command,
    corrections,
    factorial,
    figure1,
    longer,
    no_clipping,
    real_training,
    recipes,
    table1,
    updates,
)
from .training import contrasts, tables
from .training.contrasts import Contrast
from .training.curves import name_of
from .training.records import Trained, load
from .training.statistics import CONFIDENCE, Difference, difference, interval, mostly, of, per_run

STUDIES = (
    *("sizes", "table2", "long_run", "closed_loop"),
    real_training.NAME,
)
"""The studies of training of which a line would need more than one seed, which some have."""


class Finding(NamedTuple):
    """A line of the table."""

    study: str
    seeds: int
    figure: str
    """The figure that was measured."""
    value: str
    """Its value, with the interval."""
    decided: str
    """The answer; "open" where the interval gives none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    about = "The findings of training, with their seeds and 95 % intervals."
    return command.print_text("findings", about, markdown, argv)


def markdown() -> str:
    """The table, and the sentence on studies of one seed, as they stand in docs/claims.md."""
    lines = ["| study | seeds | figure | value [95 % interval] | answer |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(str, finding))} |" for finding in every()]
    single = [name for name in STUDIES if load(name, None).seeds == 1]
    names = ", ".join(f"`{name}`" for name in single)
    return "\n".join([*lines, "", f"One seed, which decides nothing: {names}."])


def every() -> list[Finding]:
    """The lines of all studies with several seeds."""
    parts: dict[str, Callable[[Trained, pd.DataFrame], Iterator[tuple[str, str, str]]]] = {
        figure1.NAME: _figure1,
        factorial.NAME: _factorial,
        corrections.NAME: _corrections,
        recipes.NAME: lambda _, runs: _compared(recipes.COMPARED, runs),
        longer.NAME: lambda _, runs: _compared(longer.COMPARED, runs),
        collapse_map.NAME: _collapse_map,
        updates.NAME: _updates,
        table1.NAME: _table1,
        ablation.NAME: _ablation,
        no_clipping.NAME: _no_clipping,
        real_training.NAME: _real_training,
    }
    out = []
    for name, of_study in parts.items():
        trained = load(name, None)
        if trained.seeds > 1:
            out += [Finding(f"`{name}`", trained.seeds, *line) for line in of_study(trained, per_run(trained))]
    return out


def _figure1(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    yield _rate("no correction: runs lost", of(runs, "none", "lost_at").notna())
    yield _rate("TIS: runs lost", of(runs, "tis", "lost_at").notna())
    log_kl = pd.Series(np.log(of(runs, "jackpot", "kl").to_numpy(dtype=float)), of(runs, "jackpot", "kl").index)
    mean, low, high = (math.exp(each) for each in interval(log_kl)[:3])
    answer = "above the paper's 0.1" if low > 0.1 else "open"
    yield "Jackpot: KL at the end, nats, geometric mean", f"{mean:.2f} [{low:.2f}, {high:.2f}]", answer


def _factorial(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    yield from _several(factorial.effects_of(runs), "parts of the objective", "accuracy")


def _corrections(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    both = corrections.together(per_run(load(factorial.NAME, None)), runs)
    for base in corrections.BASES:
        changes = {
            f"{name_of(method)}, {corrections.ACTORS[setting]}": each
            for method, by_actor in corrections.less_than(both, base).items()
            for setting, each in by_actor.items()
        }
        yield from _several(changes, "corrections", f"accuracy less that of {base.name}")


def _collapse_map(trained: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    gains = collapse_map.longer_than(trained, runs, "tis")
    yield from _several(gains, "methods", "share of the steps survived, mean over distances")


def _compared(asked: Sequence[Contrast], runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    yield from _several(contrasts.contrasted(runs, asked), "comparisons", "last accuracy")


def _updates(trained: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    yield from _several(updates.flat(updates.less_than_clip(trained, runs)), "cells", "accuracy less that of the clip")


def _table1(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    pairs = (("tis", "distillation"), ("jackpot", "tis"), ("rao-blackwell", "jackpot"))
    gains = {
        f"{name_of(first)} − {name_of(second)}": difference(of(runs, first, "mean_at_k"), of(runs, second, "mean_at_k"))
        for first, second in pairs
    }
    yield from _several(gains, "differences of methods", "Mean@k")
    share = interval(tables.shares(runs, "mean_at_k").xs("jackpot", level="method"))
    value = f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}]"
    yield "Jackpot: share of the on-policy Mean@k", value, "below 1" if share.high < 1 else "open"


def _ablation(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    yield from _several(ablation.parts_of(runs), "parts of Jackpot", "with less without: last accuracy")


def _no_clipping(_: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for method in ("none", "tis", "jackpot"):
        yield _rate(f"{name_of(method)}: runs lost", of(runs, method, "lost_at").notna())
    ours = of(runs, "jackpot", "mean_accuracy")
    for other in ("none", "tis"):
        change = difference(ours, of(runs, other, "mean_accuracy"))
        yield f"Jackpot − {name_of(other)}, mean accuracy over the run", str(change), _sign(change)


def _real_training(trained: Trained, runs: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    none = of(runs, "none", "accuracy")
    others = [method for method in trained.methods if method != "none"]
    gains = {name_of(method): difference(of(runs, method, "accuracy"), none) for method in others}
    yield from _several(gains, "methods", "less no correction: last accuracy")


def _several(changes: Mapping[str, Difference], plural: str, label: str) -> Iterator[tuple[str, str, str]]:
    """A line for each change that is decided, and one for all that are open."""
    opened = [change for change in changes.values() if change.above is None]
    for name, change in changes.items():
        if change not in opened:
            yield f"{name}, {label}", str(change), _sign(change)
    if opened:
        means, narrowest = [change.mean for change in opened], min(opened, key=lambda each: each.high - each.low)
        value = f"{min(means):+.3f} to {max(means):+.3f}, narrowest {narrowest}"
        yield f"{len(opened)} {plural}, {label}", value, "open"


def _rate(figure: str, happened: pd.Series[bool]) -> tuple[str, str, str]:
    """A line on an event, with the bound of its rate over all seeds on the side of the answer."""
    count, n = int(happened.sum()), len(happened)
    least = float(stats.beta.ppf(1 - CONFIDENCE, count, n - count + 1)) if count else 0.0
    most = float(stats.beta.ppf(CONFIDENCE, count + 1, n - count)) if count < n else 1.0
    answers = {True: f"more than {least:.0%} of all", False: f"less than {most:.0%} of all", None: "open"}
    return figure, f"{count} of {n}", answers[mostly(happened)]


def _sign(change: Difference) -> str:
    return {True: "above 0", False: "below 0", None: "open"}[change.above]


if __name__ == "__main__":
    sys.exit(main())
