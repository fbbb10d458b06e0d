"""Figure 1 of [J] in small: what happens to a policy that learns from the rollouts of a smaller, frozen actor.

Left, the KL between policy and actor over the steps, with what the paper shows as open marks at step 300;
right, the accuracy on held-out problems. The task, the models and their distance are ours, so that the shape is
compared and not the height: whether training without a correction collapses, whether TIS does so later, and
whether Jackpot is stable, at a low KL and near the on-policy accuracy.

    python -m paper_figures.figure1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from paper_figures import records, style
from paper_figures.command import Made
from paper_figures.training import claims, curves
from paper_figures.training.records import Trained, draw
from paper_figures.training.statistics import per_run, verdict

NAME = "figure1"

PAPERS = Line2D([], [], **style.PUBLISHED, label="paper, at its end (↑ above)")
"""In the legend."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which of the paper's claims our runs support."""
    about = "KL and accuracy over the steps of training on another actor's rollouts, beside the paper's KLs."
    return draw(NAME, about, make, argv)


def make(found: Trained) -> Made:
    """The figure and its table."""
    found.need(claims.NEEDED, found.settings)
    paper = records.published(NAME)
    figure, axes = curves.curves(found, more=[PAPERS])
    runs = per_run(found)
    for setting in found.settings:
        mark(axes[setting, curves.KL.column], paper, runs["asked"].max())
    told, agrees = verdict(found, claims.claims(runs, paper), claims.differences(runs))
    return Made(figure, curves.tables(found, runs, "Learning from another actor"), told, agrees)


def mark(axes: Axes, paper: pd.DataFrame, end: float) -> None:
    """The paper's KLs at its step 300, or at the end of shorter runs; arrows upwards where it says "above"."""
    for method, relation, kl, step in paper.itertuples(index=False):
        color = style.METHODS[method].color
        look = style.PUBLISHED | {"markeredgecolor": color, "markeredgewidth": 1.4}
        if relation == "above":
            look |= {"marker": "$↑$", "markersize": 9, "markerfacecolor": color, "markeredgewidth": 0}
        axes.plot([min(step, end)], [kl], clip_on=False, **look)


if __name__ == "__main__":
    sys.exit(main())
