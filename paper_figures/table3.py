"""Table 3 of [J] in small: many updates on one batch, without PPO's clip, by the best Mean@k within the run.

The paper has other tasks and models, so the comparison is of the share of the on-policy result that each method
keeps as staleness grows. A run of few long steps is too short for the rule by which runs count as lost, so the
scores decide.

    python -m paper_figures.table3
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from . import records
from .command import Made
from .training import tables
from .training.curves import name_of
from .training.records import Trained, draw
from .training.statistics import ON_POLICY, Claim, difference, of, per_run, verdict

NAME = "table3"

_FIGURE, _UNIT = "best_mean_at_k", 0.01
_NEEDED = ("off-policy", "no-clip", "jackpot")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which of the paper's findings hold as staleness grows."""
    return draw(NAME, "What each method keeps without PPO's clip, beside Table 3.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    trained.need((ON_POLICY, *_NEEDED))
    stale = _stale(trained)
    trained.need(_NEEDED, stale)
    paper, runs = records.published(NAME), per_run(trained)
    shares = tables.shares(runs, _FIGURE)
    ours = tables.spread_of_runs(trained, [(setting, setting, shares) for setting in stale])
    for spread in ours.values():
        spread.pop(ON_POLICY, None)
    theirs = tables.spread_of_paper(tables.paper_shares(paper), leave_out=(ON_POLICY,))
    shown = [method for method in trained.methods if method != ON_POLICY]
    panels = [("(a) Ours, by updates on a batch", ours), ("(b) The paper's, by model (dots: benchmarks)", theirs)]
    figure, _ = tables.draw(panels, "share of the on-policy result", shown, 1.0)
    sentence, agrees = verdict(trained, claims_of(trained))
    report = [
        tables.our_table(trained, runs, "Ours, the best within the run", best=True),
        tables.paper_table(paper, _UNIT),
    ]
    return Made(figure, report, sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's findings as claims; the study's last setting has the greatest staleness."""
    paper, runs, most = records.published(NAME), per_run(trained), _stale(trained)[-1]
    every = [
        ("Jackpot is above clipping alone, in the mean over stalenesses", "jackpot", "off-policy", runs),
        (f"Jackpot is above training with no clip and no correction at {most}", "jackpot", "no-clip", _at(runs, most)),
        (f"training with no clip and no correction fails at {most}", "off-policy", "no-clip", _at(runs, most)),
    ]
    out = []
    for text, first, second, where in every:
        gain = difference(of(where, first, _FIGURE), of(where, second, _FIGURE))
        because = f"{name_of(first)} − {name_of(second)}: {gain}; {tables.in_order(paper, first, second)}"
        out.append(Claim(text, gain.above, because))
    return out


def _stale(trained: Trained) -> list[str]:
    """The settings with more than the on-policy run."""
    return [setting for setting in trained.settings if set(trained.grid[setting]) - {ON_POLICY}]


def _at(runs: pd.DataFrame, setting: str) -> pd.DataFrame:
    return runs[runs.index.get_level_values("setting") == setting]


if __name__ == "__main__":
    sys.exit(main())
