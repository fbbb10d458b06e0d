"""Figures 4 and 5 of [J] in small: three pairs of sizes of actor and policy, a column for each.

The claims of Figure 1 are put to all pairs together: figures are averaged over pairs within a seed, and intervals
are over seeds. Training collapses in a seed where it does with most pairs, and is stable where it is with all.

    python -m paper_figures.sizes
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import figure1, records
from .command import Made
from .training import claims, curves
from .training.records import Trained, draw
from .training.statistics import Claim, per_run, verdict

NAME = "sizes"


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which of the paper's claims hold over the pairs."""
    about = "KL and accuracy over the steps for pairs of sizes of actor and policy."
    return draw(NAME, about, make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    trained.need(claims.NEEDED, trained.settings)
    paper = records.published(figure1.NAME)
    figure, axes = curves.curves(trained, more=[figure1.PAPERS])
    runs = per_run(trained)
    for setting in trained.settings:
        figure1.mark(axes[setting, curves.KL.column], paper, runs["asked"].max())
    sentence, agrees = verdict(trained, claims_of(trained), claims.differences(runs))
    return Made(figure, curves.tables(trained, runs, "Pairs of actor and policy"), sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claims, and what these runs say of them, over all pairs."""
    return claims.claims(per_run(trained), records.published(figure1.NAME))


if __name__ == "__main__":
    sys.exit(main())
