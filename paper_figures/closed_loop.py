"""Strengths that follow the measured KL, as [J] §8 proposes, beside fixed ones.

There are two strengths: λ_distill, which draws a jointly trained actor to the policy, and the share of tokens that
rejection gives up. Each adapted strength is compared with the fixed one of its kind that ends best. The paper
only proposes to adapt; that it helps is the hypothesis.

    python -m paper_figures.closed_loop
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from jackpot_sim.studies.errors import StudyError

from .command import Made
from .training import curves
from .training.curves import ACCURACY, KL, Panel
from .training.records import Trained, Training, draw
from .training.statistics import Claim, difference, geometric, lost_in_words, mostly, of, per_run, verdict

NAME = "closed_loop"

WEIGHT = Panel("distillation_weight", "λ_distill", log=True, title="Strength of the distillation")
BUDGET = Panel("rejected_budget", "rejected share of tokens", title="Budget of rejection")


class Loop(NamedTuple):
    """The strength that a method sets, and the target where it adapts it."""

    strength: str
    """The column of the steps that holds the strength."""
    target: float | None
    """The KL at which an adapted strength aims, nats; None for a fixed strength."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether adapting helps."""
    return draw(NAME, "KL, accuracy and strength over the steps, fixed and adapted.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    loops, adapted, rivals = _loops(trained)
    if not adapted or not all(rivals.values()):
        raise StudyError(f"{trained.root} does not hold strengths that are adapted, and fixed ones of each beside them")
    figure, axes = curves.curves(trained, (KL, ACCURACY, WEIGHT, BUDGET))
    for (_, column), cell in axes.items():
        if column == KL.column:
            for target in sorted({loops[method].target for method in adapted} - {None}):  # type: ignore[type-var]
                cell.axhline(target, color="#444444", linewidth=0.7, linestyle=":")  # type: ignore[arg-type]
    runs = per_run(trained)
    sentence, agrees = verdict(trained, claims_of(trained), "Dotted in the figure: the KL that adapting aims at.")
    return Made(figure, curves.tables(trained, runs, "Fixed and adapted strengths"), sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """That adapting helps, for every strength that is adapted, and what these runs say of it."""
    runs, (loops, adapted, rivals) = per_run(trained), _loops(trained)
    return [helps(runs, method, loops[method].target or math.nan, rivals[method]) for method in adapted]


def _loops(trained: Trained) -> tuple[dict[str, Loop], list[str], dict[str, list[str]]]:
    """The strengths by method, the methods that adapt one, and the methods that fix the same strength."""
    loops = {
        method: loop
        for methods in trained.grid.values()
        for method, training in methods.items()
        if (loop := loop_of(training)) is not None
    }
    adapted = [method for method, loop in loops.items() if loop.target is not None]
    rivals = {
        method: [other for other, loop in loops.items() if loop == Loop(loops[method].strength, None)]
        for method in adapted
    }
    return loops, adapted, rivals


def loop_of(training: Training) -> Loop | None:
    """The strength that a configuration sets; a budget goes before the weight of a distillation beside it."""
    budget, distillation = training.get("budget"), training["actor"].get("distillation")
    for column, strength in ((BUDGET.column, budget), (WEIGHT.column, distillation)):
        if strength is not None:
            feedback = strength.get("feedback")
            return Loop(column, None if feedback is None else float(feedback["target_kl"]))
    return None


def helps(runs: pd.DataFrame, method: str, target: float, rivals: Sequence[str]) -> Claim:
    """The claim that adapting ends more accurate than the best fixed strength, or saves runs that the fixed one loses.

    Adapting saves runs if it does so in most seeds, by the rule of `mostly`, and harms if it loses runs that the fixed
    strength does not. Nothing is decided where lost runs and accuracies disagree.
    """
    best = max(rivals, key=lambda each: of(runs, each, "accuracy").mean())
    ours, theirs = of(runs, method, "lost_at"), of(runs, best, "lost_at")
    gain = difference(of(runs, method, "accuracy"), of(runs, best, "accuracy"))
    saves, harms = mostly(ours.isna() & theirs.notna()), mostly(ours.notna() & theirs.isna())
    decisions = {gain.above, True if saves else None, False if harms else None} - {None}
    holds = decisions.pop() if len(decisions) == 1 else None
    because = (
        f"{method}: {lost_in_words(ours)}, KL at the end {geometric(of(runs, method, 'kl')):.2g} "
        f"of {target:g} aimed at; "
        f"{best}, the best fixed one: {lost_in_words(theirs)}, KL {geometric(of(runs, best, 'kl')):.2g}; "
        f"difference in last accuracy {gain}"
    )
    return Claim(f"{method} helps over the best fixed strength", holds, because)


if __name__ == "__main__":
    sys.exit(main())
