"""Table 2 of [J] in small: where the mismatch is small, Jackpot adds little to what clipping or TIS achieve.

Ours are differences in Mean@k at the end, paired by seed, with 95 % intervals; the paper's are in the mean over
its benchmarks. "Little" is at most 0.05, ours: the paper has no number.

    python -m paper_figures.table2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd

from jackpot_sim.studies.errors import StudyError
from paper_figures import records
from paper_figures.command import Made
from paper_figures.training import tables
from paper_figures.training.curves import name_of
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import Claim, Difference, group, interval, per_run, verdict

NAME = "table2"

LITTLE = 0.05
"""Of Mean@k."""
BASELINES = ("off-policy", "tis")

_FIGURE, _UNIT = "mean_at_k", 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether Jackpot adds little."""
    return draw(NAME, "What Jackpot adds where the mismatch is small, beside Table 2.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its tables."""
    found.need(("jackpot",), found.settings)
    baselines = [each for each in BASELINES if each in found.methods]
    if not baselines:
        raise StudyError(f"{found.root} has neither of {' and '.join(BASELINES)}: {NAME} compares Jackpot with them")
    paper, runs = records.published(NAME), per_run(found)
    ours: tables.Spread = {
        setting: {each: gains(runs, setting, each) for each in baselines if each in found.grid[setting]}
        for setting in found.settings
    }
    theirs: tables.Spread = {}
    means = (tables.scores(paper) * _UNIT).droplevel("model")
    for setting, method in means.index:
        if method in BASELINES:
            theirs.setdefault(setting, {})[method] = means.loc[(setting, "jackpot")] - means.loc[(setting, method)]
    panels = [("(a) Ours", ours), ("(b) The paper's Mean@k (dots: benchmarks)", theirs)]
    figure, cells = tables.draw(panels, "Jackpot less the other, in Mean@k", baselines, 0.0, _interval)
    for cell in cells:
        cell.axhspan(-LITTLE, LITTLE, color="#eeeeee", zorder=0)
    by_baseline = {
        each: {place: spread[each] for place, spread in ours.items() if each in spread} for each in baselines
    }
    told, agrees = verdict(found, [little(each, spread) for each, spread in by_baseline.items()])
    report = [
        tables.our_table(found, runs, "Ours, at the end", kept=False),
        tables.paper_table(paper, _UNIT, kept=False),
    ]
    return Made(figure, report, told, agrees)


def gains(runs: pd.DataFrame, setting: str, baseline: str) -> pd.Series[Any]:
    """Jackpot less a baseline, by seed."""
    return (group(runs, setting, "jackpot")[_FIGURE] - group(runs, setting, baseline)[_FIGURE]).dropna()


def little(baseline: str, spread: dict[str, pd.Series[Any]]) -> Claim:
    """Whether Jackpot adds little over a baseline: everywhere, with its whole interval."""
    found: dict[str, Difference] = {setting: interval(values) for setting, values in spread.items()}
    inside = all(each.low > -LITTLE and each.high < LITTLE for each in found.values())
    outside = any(each.low > LITTLE or each.high < -LITTLE for each in found.values())
    told = f"Jackpot − {name_of(baseline)}: " + ", ".join(f"{setting} {each}" for setting, each in found.items())
    holds = True if inside else False if outside else None
    return Claim(f"Jackpot adds little over {name_of(baseline)} (within {LITTLE:g})", holds, told)


def _interval(values: pd.Series[Any]) -> tuple[float, float]:
    found = interval(values)
    return (found.low, found.high) if found.pairs > 1 else (found.mean, found.mean)


if __name__ == "__main__":
    sys.exit(main())
