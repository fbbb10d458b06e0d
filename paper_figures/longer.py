"""A second world, of longer answers: the cells of the factorial that matter, in sums of six digits.

Weights of whole sequences multiply over all tokens, so longer sequences are where they could fail. (a) last accuracy,
dotted that of on-policy training, and (b) KL(p‖q) at the end: means over seeds with 95 % intervals, and the seeds.
(c) Differences in last accuracy, paired by seed; the intervals hold simultaneously at 95 % (Bonferroni). The
comparisons were written down before any of these runs; seeds whose policy could not be taught are left out.

    python -m paper_figures.longer
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import recipes
from .command import Made
from .training import contrasts
from .training.contrasts import Cell, Contrast
from .training.records import Trained, draw
from .training.statistics import ON_POLICY

NAME = "longer"

TIS, SEQUENCE = Cell("frozen", "tis"), Cell("frozen", "sequence-tis")
TIS_DISTILLED, OBJECTIVE = Cell("distilled", "tis"), Cell("distilled", "jackpot")

COMPARED = (
    Contrast("sequence TIS − TIS, frozen", SEQUENCE, TIS),
    Contrast("PPO + distilled − frozen, TIS", TIS_DISTILLED, TIS),
    Contrast("Jackpot − TIS, PPO + distilled", OBJECTIVE, TIS_DISTILLED),
    Contrast("sequence TIS, frozen − Jackpot's whole objective", SEQUENCE, OBJECTIVE),
    Contrast("sequence TIS, frozen − on-policy", SEQUENCE, Cell(ON_POLICY, "none")),
    Contrast("sequence TIS, distilled − frozen", Cell("distillation-alone", "sequence-tis"), SEQUENCE),
)
"""The comparisons; "distilled" alone is an actor without a PPO of its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which differences longer sequences leave."""
    return draw(NAME, "The cells that matter, in a second world of longer sequences.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    return contrasts.made(trained, recipes.SETTINGS, COMPARED, "Longer sequences")


if __name__ == "__main__":
    sys.exit(main())
