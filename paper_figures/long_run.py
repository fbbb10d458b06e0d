"""Twice as many steps as elsewhere: [J] reports that instability returns beyond 500 steps.

The figure shows for every method the runs that are lost after step 500, and the change of accuracy from there to the
end. Instability returns if most seeds lose runs, by the rule of `training.statistics.mostly`, or if the accuracy
falls by more than a little; it does not return if no run is lost and the accuracy falls by less.

    python -m paper_figures.long_run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from jackpot_sim.studies.errors import StudyError

from .command import Made
from .training import curves
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import Claim, courses, interval, lost_in_words, mostly, of, per_run, verdict

NAME = "long_run"

RETURNS = 500
"""The number of steps beyond which the paper sees instability."""
LITTLE = 0.05
"""The largest fall of accuracy that is no instability: our choice."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether instability returns."""
    return draw(NAME, "KL and accuracy over 600 steps.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    trained.need(("jackpot",), trained.settings)
    runs = per_run(trained)
    asked = int(runs["asked"].max())
    if asked <= RETURNS and not trained.quick:
        raise StudyError(f"{trained.root} holds runs of at most {asked} steps: {NAME} shows what is beyond {RETURNS}")
    figure, axes = curves.curves(trained)
    if asked > RETURNS:
        for cell in axes.values():
            cell.axvline(RETURNS, color="#444444", linewidth=0.7, linestyle=":")
    sentence, agrees = verdict(trained, claims_of(trained))
    return Made(figure, curves.tables(trained, runs, "A long run"), sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claim for each method, and what these runs say of it."""
    methods = [method for method in ("jackpot", "rao-blackwell", "tis") if method in trained.methods]
    return [returns(trained, per_run(trained), method) for method in methods]


def returns(trained: Trained, runs: pd.DataFrame, method: str) -> Claim:
    """The claim that a method's runs become unstable after step 500; runs that were lost before do not count."""
    at = of(runs, method, "lost_at")
    running = at[~(at <= RETURNS)]
    changes = pd.concat([_changes(trained, setting, method) for setting in trained.settings])
    change = interval(changes[changes.index.isin(running.index)])
    late = int(running.notna().sum())
    falls, keeps = change.high < -LITTLE, change.low > -LITTLE
    holds = True if mostly(running.notna()) or falls else False if keeps and not late else None
    because = f"{name_of(method)}: {lost_in_words(at)}, {late} of them after step {RETURNS}"
    because += f"; change of accuracy from there {change}" if change.pairs else ""
    return Claim(f"with {name_of(method)} instability returns beyond {RETURNS} steps", holds, because)


def _changes(trained: Trained, setting: str, method: str) -> pd.Series[float]:
    """The last accuracy less that at step 500, by setting and seed; empty for shorter runs."""
    wide = courses(trained, setting, "accuracy")[method]
    before, after = wide[wide.index <= RETURNS], wide[wide.index > RETURNS]
    change = (after.iloc[-1] - before.iloc[-1]).dropna() if len(after) else pd.Series(dtype=float)
    change.index = pd.MultiIndex.from_product([[setting], change.index], names=["setting", "seed"])
    return change


if __name__ == "__main__":
    sys.exit(main())
