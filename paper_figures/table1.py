"""Table 1 of [J] in small: a policy learns from a smaller actor that is trained beside it and drawn to it.

The paper has other tasks and models, so the comparison is of the share of the on-policy result that each method
keeps, and of the order of methods, by Mean@k at the end.

    python -m paper_figures.table1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from . import records
from .command import Made
from .training import tables
from .training.records import Trained, draw
from .training.statistics import ON_POLICY, Claim, difference, interval, of, on_policy, per_run, verdict

NAME = "table1"

_FIGURE = "mean_at_k"
_SMALL = "small-on-policy"
"""The actor's model trained on its own rollouts, which the paper has and we have not."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether methods come in the paper's order, and what Jackpot keeps."""
    return draw(NAME, "What each method keeps of the on-policy result, beside Table 1.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    trained.need(("tis", "jackpot"), trained.settings)
    trained.need((ON_POLICY,))
    paper, runs = records.published(NAME), per_run(trained)
    if len(trained.settings) == 1:
        names = (("accuracy", "accuracy"), ("Mean@k", _FIGURE), ("Pass@k", "pass_at_k"))
        places = [(name, trained.settings[0], tables.shares(runs, figure)) for name, figure in names]
    else:
        places = [(setting, setting, tables.shares(runs, _FIGURE)) for setting in trained.settings]
    ours = tables.spread_of_runs(trained, places)
    theirs = tables.spread_of_paper(tables.paper_shares(paper), leave_out=(ON_POLICY, _SMALL))
    for spread in ours.values():
        spread.pop(ON_POLICY, None)
    shown = [method for method in trained.methods if method != ON_POLICY]
    panels = [("(a) Ours", ours), ("(b) The paper's Mean@4 (dots: benchmarks)", theirs)]
    figure, _ = tables.draw(panels, "share of the on-policy result", shown, 1.0)
    sentence, agrees = verdict(trained, claims_of(trained))
    report = [tables.our_table(trained, runs, "Ours, at the end"), tables.paper_table(paper, 1.0)]
    return Made(figure, report, sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The claims: the order of methods, and the share that Jackpot keeps."""
    paper, runs = records.published(NAME), per_run(trained)
    jackpot, tis = of(runs, "jackpot", _FIGURE), of(runs, "tis", _FIGURE)
    over_tis = difference(jackpot, tis)
    because = f"Jackpot − TIS {over_tis} in Mean@k; {tables.in_order(paper, 'jackpot', 'tis')}"
    decided = [Claim("Jackpot ends above TIS", over_tis.above, because)]
    if "distillation" in trained.methods:
        gain = difference(tis, of(runs, "distillation", _FIGURE))
        because = f"TIS − distillation {gain}; {tables.in_order(paper, 'tis', 'distillation')}"
        decided.append(Claim("TIS ends above distillation", gain.above, because))
    papers = of(tables.paper_shares(paper).mean(axis=1).to_frame("kept"), "jackpot", "kept")
    least = float(papers.min())
    base = pd.concat({setting: on_policy(runs, setting, _FIGURE) for setting in trained.settings}, names=["setting"])
    above = difference(jackpot, least * base).above
    share = interval(tables.shares(runs, _FIGURE).xs("jackpot", level="method"))
    ends = f" [{share.low:.1%}, {share.high:.1%}]" if share.pairs > 1 else ""
    because = f"Jackpot keeps {share.mean:.1%}{ends}; paper: {least:.1%} to {papers.max():.1%}"
    text = "Jackpot keeps more of the on-policy result than in the paper's worst setting"
    return [*decided, Claim(text, above, because)]


if __name__ == "__main__":
    sys.exit(main())
