"""Table 1 of [J] in small: a policy learns from a smaller actor that is trained beside it and drawn to it.

The paper's tasks and models are others: what is compared is the share of the on-policy result that each method
keeps, and their order, by Mean@k at the end.

    python -m paper_figures.table1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from paper_figures import records
from paper_figures.command import Made
from paper_figures.training import tables
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import ON_POLICY, Claim, difference, of, on_policy, per_run, verdict

NAME = "table1"

_FIGURE = "mean_at_k"
_SMALL = "small-on-policy"
"""The actor's model on its own rollouts, which we have not trained."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether methods come in the paper's order, and what Jackpot keeps."""
    return draw(NAME, "What each method keeps of the on-policy result, beside Table 1.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its tables."""
    found.need(("tis", "jackpot"), found.settings)
    found.need((ON_POLICY,))
    paper, runs = records.published(NAME), per_run(found)
    if len(found.settings) == 1:
        names = (("accuracy", "accuracy"), ("Mean@k", _FIGURE), ("Pass@k", "pass_at_k"))
        places = [(name, found.settings[0], tables.shares(runs, figure)) for name, figure in names]
    else:
        places = [(setting, setting, tables.shares(runs, _FIGURE)) for setting in found.settings]
    ours = tables.spread_of_runs(found, places)
    theirs = tables.spread_of_paper(tables.paper_shares(paper), leave_out=(ON_POLICY, _SMALL))
    for spread in ours.values():
        spread.pop(ON_POLICY, None)
    shown = [method for method in found.methods if method != ON_POLICY]
    panels = [("(a) Ours", ours), ("(b) The paper's Mean@4 (dots: benchmarks)", theirs)]
    figure, _ = tables.draw(panels, "share of the on-policy result", shown, 1.0)
    told, agrees = verdict(found, claims(found, runs, paper))
    report = [tables.our_table(found, runs, "Ours, at the end"), tables.paper_table(paper, 1.0)]
    return Made(figure, report, told, agrees)


def claims(found: Trained, runs: pd.DataFrame, paper: pd.DataFrame) -> list[Claim]:
    """The order of methods, and what Jackpot keeps."""
    jackpot, tis = of(runs, "jackpot", _FIGURE), of(runs, "tis", _FIGURE)
    over_tis = difference(jackpot, tis)
    told = f"Jackpot − TIS {over_tis} in Mean@k; {tables.in_order(paper, 'jackpot', 'tis')}"
    found_claims = [Claim("Jackpot ends above TIS", over_tis.above, told)]
    if "distillation" in found.methods:
        gain = difference(tis, of(runs, "distillation", _FIGURE))
        told = f"TIS − distillation {gain}; {tables.in_order(paper, 'tis', 'distillation')}"
        found_claims.append(Claim("TIS ends above distillation", gain.above, told))
    kept = of(tables.paper_shares(paper).mean(axis=1).to_frame("kept"), "jackpot", "kept")
    least = float(kept.min())
    base = pd.concat({setting: on_policy(runs, setting, _FIGURE) for setting in found.settings}, names=["setting"])
    above = difference(jackpot, least * base).above
    share = float(tables.shares(runs, _FIGURE).xs("jackpot", level="method").mean())
    told = f"Jackpot keeps {share:.1%}; paper: {least:.1%} to {kept.max():.1%}"
    text = "Jackpot keeps more of the on-policy result than in the paper's worst setting"
    return [*found_claims, Claim(text, above, told)]


if __name__ == "__main__":
    sys.exit(main())
