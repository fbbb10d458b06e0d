"""Twice as many steps as elsewhere: [J] reports that instability returns beyond 500 steps.

Of every method: whether runs are lost after step 500, and how much the accuracy changes from there to the end.
Instability returns where most seeds lose runs, by the rule of `training.statistics.mostly`, or where the accuracy
falls by more than a little; it does not where no run is lost and the accuracy falls by less.

    python -m paper_figures.long_run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from jackpot_sim.studies.errors import StudyError
from paper_figures.command import Made
from paper_figures.training import curves
from paper_figures.training.curves import name_of
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import Claim, courses, interval, mostly, of, per_run, told_lost, verdict

NAME = "long_run"

RETURNS = 500
"""Steps beyond which the paper sees instability."""
LITTLE = 0.05
"""Of accuracy: a fall of less than this is no instability. Ours."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether instability returns."""
    return draw(NAME, "KL and accuracy over 600 steps.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its table."""
    found.need(("jackpot",), found.settings)
    runs = per_run(found)
    asked = int(runs["asked"].max())
    if asked <= RETURNS and not found.quick:
        raise StudyError(f"{found.root} holds runs of at most {asked} steps: {NAME} shows what is beyond {RETURNS}")
    figure, axes = curves.curves(found)
    if asked > RETURNS:
        for cell in axes.values():
            cell.axvline(RETURNS, color="#444444", linewidth=0.7, linestyle=":")
    methods = ["jackpot", *(each for each in ("rao-blackwell", "tis") if each in found.methods)]
    claims = [returns(found, runs, method) for method in methods]
    told, agrees = verdict(found, claims)
    return Made(figure, curves.tables(found, runs, "A long run"), told, agrees)


def returns(found: Trained, runs: pd.DataFrame, method: str) -> Claim:
    """Whether a method's runs become unstable after step 500; those that were lost before say nothing of it."""
    at = of(runs, method, "lost_at")
    there = at[~(at <= RETURNS)]
    changes = pd.concat([_changes(found, setting, method) for setting in found.settings])
    change = interval(changes[changes.index.isin(there.index)])
    late = int(there.notna().sum())
    falls, keeps = change.high < -LITTLE, change.low > -LITTLE
    holds = True if mostly(there.notna()) or falls else False if keeps and not late else None
    told = f"{name_of(method)}: {told_lost(at)}, {late} of them after step {RETURNS}"
    told += f"; change of accuracy from there {change}" if change.pairs else ""
    return Claim(f"with {name_of(method)} instability returns beyond {RETURNS} steps", holds, told)


def _changes(found: Trained, setting: str, method: str) -> pd.Series[float]:
    """The last accuracy less that at step 500, by setting and seed; empty where there is none so far."""
    wide = courses(found, setting, "accuracy")[method]
    before, after = wide[wide.index <= RETURNS], wide[wide.index > RETURNS]
    change = (after.iloc[-1] - before.iloc[-1]).dropna() if len(after) else pd.Series(dtype=float)
    change.index = pd.MultiIndex.from_product([[setting], change.index], names=["setting", "seed"])
    return change


if __name__ == "__main__":
    sys.exit(main())
