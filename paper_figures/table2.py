"""Table 2 of [J] in small: the gain of Jackpot over clipping and over TIS where the mismatch is small; [J]: little.

Ours are differences in Mean@k at the end, paired by seed, with 95 % intervals; the paper's are in the mean over
its benchmarks. "Little" is at most 0.05, ours: the paper has no number.

    python -m paper_figures.table2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from jackpot_sim.studies.errors import StudyError

from . import records
from .command import Made
from .training import tables
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import Claim, Difference, group, interval, per_run, verdict

NAME = "table2"

LITTLE = 0.05
"""The largest difference in Mean@k that counts as little."""
BASELINES = ("off-policy", "tis")

_FIGURE, _UNIT = "mean_at_k", 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether Jackpot adds little."""
    return draw(NAME, "What Jackpot adds where the mismatch is small, beside Table 2.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    trained.need(("jackpot",), trained.settings)
    baselines = _baselines(trained)
    if not baselines:
        raise StudyError(f"{trained.root} has neither of {' and '.join(BASELINES)}: {NAME} compares Jackpot with them")
    paper, runs = records.published(NAME), per_run(trained)
    ours: tables.Spread = {
        setting: {each: gains(runs, setting, each) for each in baselines if each in trained.grid[setting]}
        for setting in trained.settings
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
    sentence, agrees = verdict(trained, claims_of(trained))
    report = [
        tables.our_table(trained, runs, "Ours, at the end", with_shares=False),
        tables.paper_table(paper, _UNIT, with_shares=False),
    ]
    return Made(figure, report, sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claim over each baseline, and what these runs say of it."""
    runs, out = per_run(trained), []
    for baseline in _baselines(trained):
        there = [setting for setting in trained.settings if baseline in trained.grid[setting]]
        out.append(little(baseline, {setting: gains(runs, setting, baseline) for setting in there}))
    return out


def _baselines(trained: Trained) -> list[str]:
    return [each for each in BASELINES if each in trained.methods]


def gains(runs: pd.DataFrame, setting: str, baseline: str) -> pd.Series[float]:
    """Jackpot's figure less that of a baseline, by seed."""
    return (group(runs, setting, "jackpot")[_FIGURE] - group(runs, setting, baseline)[_FIGURE]).dropna()


def little(baseline: str, spread: dict[str, pd.Series[float]]) -> Claim:
    """The claim that Jackpot adds little over a baseline: in every setting, with the whole interval."""
    gained: dict[str, Difference] = {setting: interval(values) for setting, values in spread.items()}
    inside = all(each.low > -LITTLE and each.high < LITTLE for each in gained.values())
    outside = any(each.low > LITTLE or each.high < -LITTLE for each in gained.values())
    because = f"Jackpot − {name_of(baseline)}: " + ", ".join(f"{setting} {each}" for setting, each in gained.items())
    holds = True if inside else False if outside else None
    return Claim(f"Jackpot adds little over {name_of(baseline)} (within {LITTLE:g})", holds, because)


def _interval(values: pd.Series[float]) -> tuple[float, float]:
    mean = interval(values)
    return (mean.low, mean.high) if mean.pairs > 1 else (mean.mean, mean.mean)


if __name__ == "__main__":
    sys.exit(main())
