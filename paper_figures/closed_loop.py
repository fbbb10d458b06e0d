"""Strengths that follow the measured KL, as [J] section 8 proposes, beside fixed ones.

Two of them: λ_distill, with which a jointly trained actor is drawn to the policy, and the share of tokens that
rejection gives up. Each that is adapted is compared with the fixed one of its kind that ends best. The paper
only proposes it; that it helps is the hypothesis.

    python -m paper_figures.closed_loop
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from jackpot_sim.studies.errors import StudyError
from paper_figures.command import Made
from paper_figures.training import curves
from paper_figures.training.curves import ACCURACY, KL, Panel
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import Claim, difference, geometric, mostly, of, per_run, told_lost, verdict

NAME = "closed_loop"

WEIGHT = Panel("distillation_weight", "λ_distill", log=True, title="Strength of the distillation")
BUDGET = Panel("rejected_budget", "rejected share of tokens", title="Budget of rejection")


class Loop(NamedTuple):
    """What a method sets, and whether it adapts it."""

    strength: str
    """The column of the steps."""
    target: float | None
    """The KL that an adapted one holds, nats; None where it is fixed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether adapting helps."""
    return draw(NAME, "KL, accuracy and strength over the steps, fixed and adapted.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its table."""
    loops = {
        method: loop
        for methods in found.grid.values()
        for method, training in methods.items()
        if (loop := loop_of(training)) is not None
    }
    adapted = [method for method, loop in loops.items() if loop.target is not None]
    rivals = {
        method: [other for other, loop in loops.items() if loop == Loop(loops[method].strength, None)]
        for method in adapted
    }
    if not adapted or not all(rivals.values()):
        raise StudyError(f"{found.root} does not hold strengths that are adapted, and fixed ones of each beside them")
    figure, axes = curves.curves(found, (KL, ACCURACY, WEIGHT, BUDGET))
    for (_, column), cell in axes.items():
        if column == KL.column:
            for target in sorted({loops[method].target for method in adapted} - {None}):  # type: ignore[type-var]
                cell.axhline(target, color="#444444", linewidth=0.7, linestyle=":")  # type: ignore[arg-type]
    runs = per_run(found)
    claims = [helps(runs, method, loops[method].target or math.nan, rivals[method]) for method in adapted]
    told, agrees = verdict(found, claims, "Dotted in the figure: the KL that adapting aims at.")
    return Made(figure, curves.tables(found, runs, "Fixed and adapted strengths"), told, agrees)


def loop_of(training: dict[str, Any]) -> Loop | None:
    """What a method sets, from its configuration; a budget goes before the weight of a distillation beside it."""
    budget, distillation = training.get("budget"), training["actor"].get("distillation")
    for column, strength in ((BUDGET.column, budget), (WEIGHT.column, distillation)):
        if strength is not None:
            feedback = strength.get("feedback")
            return Loop(column, None if feedback is None else float(feedback["target_kl"]))
    return None


def helps(runs: pd.DataFrame, method: str, target: float, rivals: Sequence[str]) -> Claim:
    """Whether adapting ends more accurate than the best fixed strength, or saves runs that it loses.

    It saves them where that happens in most seeds, by the rule of `mostly`, and harms where it loses what the fixed
    one does not. Where the lost runs and the accuracies say different things, nothing is decided.
    """
    best = max(rivals, key=lambda each: of(runs, each, "accuracy").mean())
    ours, theirs = of(runs, method, "lost_at"), of(runs, best, "lost_at")
    gain = difference(of(runs, method, "accuracy"), of(runs, best, "accuracy"))
    saves, harms = mostly(ours.isna() & theirs.notna()), mostly(ours.notna() & theirs.isna())
    said = {gain.above, True if saves else None, False if harms else None} - {None}
    holds = said.pop() if len(said) == 1 else None
    told = (
        f"{method}: {told_lost(ours)}, KL at the end {geometric(of(runs, method, 'kl')):.2g} of {target:g} aimed at; "
        f"{best}, the best fixed one: {told_lost(theirs)}, KL {geometric(of(runs, best, 'kl')):.2g}; "
        f"difference in last accuracy {gain}"
    )
    return Claim(f"{method} helps over the best fixed strength", holds, told)


if __name__ == "__main__":
    sys.exit(main())
