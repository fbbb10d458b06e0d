"""The training claims of [J] taken apart: how the actor is trained × what is done about its mismatch.

In the paper's Figure 1 "Jackpot" is a whole objective: the actor has its own PPO beside the policy, is distilled from
it, and the policy's tokens are masked and weighted. Its lines "no alignment" and TIS seem to lack the distillation. So
our setting `distilled` with Jackpot stands for the first, and `own-ppo` for the others; the other cells say which part
the gain is of.

(a) last accuracy and (b) KL(p‖q) at the end of every cell: means over seeds with 95 % intervals, and the seeds; the
paper's KLs as open marks. (c) What each part changes in last accuracy, paired by seed, with intervals that hold
simultaneously at 95 % (Bonferroni), over parts and looks: the study is looked at after 5, 10 and 16 seeds, and ends at
the first look that leaves no part open, or at the last.

    python -m paper_figures.factorial
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import cast

import pandas as pd
from matplotlib.axes import Axes

from . import figure1, records, style
from .command import Made, report_table
from .style import Look
from .training import cells, claims, curves
from .training.records import Trained, draw
from .training.statistics import (
    CONFIDENCE,
    ON_POLICY,
    Claim,
    Difference,
    detectable,
    group,
    interval,
    per_run,
    verdict,
)

NAME = "factorial"

ACTORS = {"frozen": "frozen", "own-ppo": "PPO", "distilled": "PPO +\ndistilled"}
"""The settings that are crossed with corrections, by their names in the figure."""
ALONE = "distillation-alone"
"""The setting of an actor that is only distilled."""

METHODS = ("none", "tis", "jackpot", "rao-blackwell")
"""The methods that each of these settings has."""

PAPERS = {"none": "own-ppo", "tis": "own-ppo", "jackpot": "distilled"}
"""The setting that stands for each line of the paper's Figure 1."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which part of Jackpot the gain is of."""
    return draw(NAME, "Jackpot's whole objective in parts: own PPO, distillation, weight and mask.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    for setting in ACTORS:
        trained.need(METHODS, [setting])
    trained.need(["none"], [ALONE, ON_POLICY])
    runs, paper = per_run(trained), records.published(figure1.NAME)
    looks = style.of_methods(trained.methods)
    figure, (left, middle, right) = style.canvas(3, 3.1, [1.2, 1.2, 0.9])
    settings = ACTORS | {ALONE: "distilled"}
    for axes, column, title in (
        (left, "accuracy", "(a) Last accuracy"),
        (middle, "kl", "(b) KL(p‖q) at the end, nats"),
    ):
        cells.draw_cells(axes, runs, column, looks, settings, log=column == "kl")
        axes.set(title=title, xlabel="training of the actor")
    middle.set_yscale("log")
    curves.log_axis(middle.yaxis)
    _papers(middle, paper, looks)
    cells.draw_level(left, float(_of(runs, ON_POLICY, "none").mean()))
    effects = effects_of(runs)
    names = {part: part.replace(", ", ",\n").replace(" × ", " ×\n") for part in effects}
    cells.draw_differences(right, {names[part]: {part: each} for part, each in effects.items()})
    right.set(title="(c) Parts", xlabel="change in accuracy")
    handles = [*cells.legend(trained.methods, looks), figure1.PAPERS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    sentence, agrees = verdict(trained, claims_of(trained), _in_words(effects))
    title = "With less without, in last accuracy, paired by seed; intervals hold together at 95 %"
    table = report_table(title, "part", "difference", "seen with 90 %")
    for part, changes in changes_of(runs).items():
        table.add_row(part, str(effects[part]), f"{detectable(changes, confidence=_LEVEL):.3f}")
    return Made(
        figure, [*curves.tables(trained, runs, "Jackpot's objective in parts", settings), table], sentence, agrees
    )


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claims, and what the cells that stand for its lines say of them."""
    return claims.claims(as_the_paper(per_run(trained)), records.published(figure1.NAME))


def as_the_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that stand for the lines of the paper's Figure 1, as one setting."""
    cells = {method: (setting, method) for method, setting in PAPERS.items()} | {ON_POLICY: (ON_POLICY, "none")}
    parts = {("run", method): group(runs, *cell) for method, cell in cells.items()}
    return pd.concat(parts, names=["setting", "method"])


PARTS = 8
"""The parts whose effects are asked for."""
LOOKS = (5, 10, 16)
"""The numbers of seeds at which the study is looked at."""
_LEVEL = 1 - (1 - CONFIDENCE) / (PARTS * len(LOOKS))


def effects_of(runs: pd.DataFrame) -> dict[str, Difference]:
    """The means of `changes_of`, with simultaneous intervals."""
    return {part: interval(changes.dropna(), _LEVEL) for part, changes in changes_of(runs).items()}


def changes_of(runs: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """The change in last accuracy that each part makes, by seed, averaged over what it is crossed with.

    `distillation` is beside the actor's own PPO; `own PPO` is that of an actor without distillation, over a frozen one,
    and `own PPO, distilled` that beside distillation, without a correction. The interaction is half the difference
    between a correction's changes with and without distillation, beside own PPO.
    """
    every, corrected = list(ACTORS), METHODS[1:]

    def mean(settings: Sequence[str], methods: Sequence[str]) -> pd.Series[float]:
        cells = [_of(runs, setting, method) for setting in settings for method in methods]
        return cast("pd.Series[float]", pd.concat(cells, axis=1).mean(axis=1, skipna=False))

    changes = {
        "distillation": (mean(["distilled"], METHODS), mean(["own-ppo"], METHODS)),
        "own PPO": (mean(["own-ppo"], METHODS), mean(["frozen"], METHODS)),
        "own PPO, distilled": (mean(["distilled"], ["none"]), mean([ALONE], ["none"])),
        "a correction": (mean(every, corrected), mean(every, ["none"])),
        "Jackpot's weight − TIS": (mean(every, ["rao-blackwell"]), mean(every, ["tis"])),
        "Jackpot's mask": (mean(every, ["jackpot"]), mean(every, ["rao-blackwell"])),
        "Jackpot − TIS, distilled": (mean(["distilled"], ["jackpot"]), mean(["distilled"], ["tis"])),
        "correction × distillation": (
            (mean(["distilled"], corrected) + mean(["own-ppo"], ["none"])) / 2,
            (mean(["distilled"], ["none"]) + mean(["own-ppo"], corrected)) / 2,
        ),
    }
    assert len(changes) == PARTS
    return {part: first - second for part, (first, second) in changes.items()}


def _of(runs: pd.DataFrame, setting: str, method: str, figure: str = "accuracy") -> pd.Series[float]:
    return cast("pd.Series[float]", group(runs, setting, method)[figure])


def _in_words(effects: Mapping[str, Difference]) -> str:
    ways = {True: "HELPS", False: "HARMS", None: "LEFT OPEN"}
    return "In last accuracy: " + "; ".join(f"{part} {ways[each.above]} {each}" for part, each in effects.items()) + "."


def _papers(axes: Axes, paper: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """The paper's KLs, at the setting that stands for each; an arrow upwards means "above"."""
    places = list(ACTORS)
    for method, relation, kl, _ in paper.itertuples(index=False):
        mark = style.PUBLISHED | {"markeredgecolor": looks[method].color, "markeredgewidth": 1.4}
        if relation == "above":
            mark |= {"marker": "$↑$", "markersize": 9, "markerfacecolor": looks[method].color, "markeredgewidth": 0}
        axes.plot([places.index(PAPERS[method]) - 0.47], [kl], clip_on=False, **mark)


if __name__ == "__main__":
    sys.exit(main())
