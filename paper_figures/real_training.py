"""A real language model learns from an actor of its own weights in coarse numbers, with and without corrections.

From left to right, over the steps: the KL between policy and actor, the accuracy on held-out problems, and the mean
reward of the rollouts, which are the actor's. The model, the task and the actor stand in `configs/real_training.yaml`.
The paper trains larger models for longer, and has no such figure. So the questions are ours: does the policy learn from
the actor at all, does a correction end better than none, and does on-policy training.

    python -m paper_figures.real_training
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from .command import Made
from .training import curves
from .training.curves import ACCURACY, KL, Panel, name_of
from .training.records import Trained, draw
from .training.statistics import Claim, courses, difference, interval, of, per_run, verdict

NAME = "real_training"

REWARD = Panel("reward", "mean reward of the rollouts", title="What the actor earns")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says what the policy learns with each method."""
    return draw(NAME, "KL, accuracy and reward of a real language model in training.", make, argv)


def make(trained: Trained) -> Made:
    """The figure and its table."""
    trained.need(("none",), trained.settings)
    figure, _ = curves.curves(trained, [KL, ACCURACY, REWARD])
    runs = per_run(trained)
    claims = [_learns(trained, runs, method) for method in trained.methods]
    claims += [_better(runs, method) for method in trained.methods if method != "none"]
    sentence, _ = verdict(trained, claims)
    # Nothing of the paper is tested: an answer of no is as good as one of yes.
    return Made(figure, curves.tables(trained, runs, "A real language model"), sentence, True)


def _learns(trained: Trained, runs: pd.DataFrame, method: str) -> Claim:
    """The claim that the last accuracy is above that before training."""
    before = pd.concat(
        {setting: courses(trained, setting, "accuracy")[method].iloc[0] for setting in trained.settings},
        names=["setting", "seed"],
    )
    gain = interval((of(runs, method, "accuracy") - before).dropna())
    begun = float(before.mean())
    return Claim(f"the policy learns with {name_of(method)}", gain.above, f"accuracy {begun:.2f} before, then {gain}")


def _better(runs: pd.DataFrame, method: str) -> Claim:
    gain = difference(of(runs, method, "accuracy"), of(runs, "none", "accuracy"))
    name = name_of(method)
    return Claim(f"{name} ends above no correction", gain.above, f"{name} − no correction in last accuracy {gain}")


if __name__ == "__main__":
    sys.exit(main())
