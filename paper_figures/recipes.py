"""Two recipes of our own on fresh seeds: an actor that is distilled without a PPO of its own, beside two corrections.

(a) last accuracy, dotted that of on-policy training, and (b) KL(p‖q) at the end: means over seeds with 95 % intervals,
and the seeds. (c) Each recipe's last accuracy less that of what it has to beat, paired by seed; the intervals hold
simultaneously at 95 % (Bonferroni). Recipes and comparisons were written down before any of these seeds was run, in
paper_figures/configs/recipes.yaml.

    python -m paper_figures.recipes
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .command import Made
from .training import contrasts
from .training.contrasts import Cell, Contrast
from .training.records import Trained, draw
from .training.statistics import ON_POLICY

NAME = "recipes"

SETTINGS = {"frozen": "frozen", "distilled": "PPO +\ndistilled", "distillation-alone": "distilled"}
"""The settings, by the actor's training in the figure."""
RECIPES = {
    "distilled, sequence TIS": Cell("distillation-alone", "sequence-tis"),
    "distilled, RB-Jackpot": Cell("distillation-alone", "rao-blackwell"),
}
OTHERS = {
    "sequence TIS, frozen": Cell("frozen", "sequence-tis"),
    "Jackpot's whole objective": Cell("distilled", "jackpot"),
    "on-policy": Cell(ON_POLICY, "none"),
}
"""The cells that the recipes are compared with."""
COMPARED = tuple(
    Contrast(f"{recipe} − {other}", first, second)
    for recipe, first in RECIPES.items()
    for other, second in OTHERS.items()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says which recipe beats what."""
    return draw(NAME, "Two recipes of our own, on fresh seeds.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its tables."""
    return contrasts.made(trained, SETTINGS, COMPARED, "Recipes", "fresh seeds")


if __name__ == "__main__":
    sys.exit(main())
