"""Figure 1 of [J] in small: a policy learns from the rollouts of a smaller, frozen actor.

Left, the KL between policy and actor over the steps, with the paper's values as open marks at step 300;
right, the accuracy on held-out problems. The task, the models and their distance are ours, so the comparison is of
shapes, not of heights. The paper's are: training without a correction collapses, TIS does so later, and Jackpot is
stable, at a low KL and near the on-policy accuracy. The verdict says which of them our seeds decide.

    python -m paper_figures.figure1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from . import records, style
from .command import Made
from .training import claims, curves
from .training.records import Trained, draw
from .training.statistics import Claim, per_run, verdict

NAME = "figure1"

PAPERS = Line2D([], [], **style.PUBLISHED, label="paper, at its end (↑ above)")
"""The paper's marks in the legend."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which of the paper's claims our runs support."""
    about = "KL and accuracy over the steps of training on another actor's rollouts, beside the paper's KLs."
    return draw(NAME, about, make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    trained.need(claims.NEEDED, trained.settings)
    paper = records.published(NAME)
    figure, axes = curves.curves(trained, more=[PAPERS])
    runs = per_run(trained)
    for setting in trained.settings:
        mark(axes[setting, curves.KL.column], paper, runs["asked"].max())
    sentence, agrees = verdict(trained, claims_of(trained), claims.differences(runs))
    return Made(figure, curves.tables(trained, runs, "Learning from another actor"), sentence, agrees)


def claims_of(trained: Trained) -> list[Claim]:
    """The paper's claims, and what these runs say of them."""
    return claims.claims(per_run(trained), records.published(NAME))


def mark(axes: Axes, paper: pd.DataFrame, end: float) -> None:
    """Draws the paper's KLs at its step 300, or at the end of shorter runs; an arrow upwards means "above"."""
    for method, relation, kl, step in paper.itertuples(index=False):
        color = style.METHODS[method].color
        look = style.PUBLISHED | {"markeredgecolor": color, "markeredgewidth": 1.4}
        if relation == "above":
            look |= {"marker": "$↑$", "markersize": 9, "markerfacecolor": color, "markeredgewidth": 0}
        axes.plot([min(step, end)], [kl], clip_on=False, **look)


if __name__ == "__main__":
    sys.exit(main())
