"""Problems that are a list, parted into those that are trained on and those that are held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.environments.fields import check_count, check_share
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.training.tasks.base import Problem


@dataclass(frozen=True)
class Parted:
    """Two lists of problems that share no prompt.

    Attributes:
        name: of what they were read from, for errors.
        training: what is drawn from.
        evaluation: what is held out.

    Raises:
        ValueError: nothing is left to train on.
    """

    name: str
    training: tuple[Problem, ...]
    evaluation: tuple[Problem, ...]

    def __post_init__(self) -> None:
        held = {_text(problem.prompt) for problem in self.evaluation}
        kept = tuple(problem for problem in self.training if _text(problem.prompt) not in held)
        if not kept:
            raise ValueError(f"{self.name}: no problem is left to train on: hold fewer out, or others")
        object.__setattr__(self, "training", kept)

    def drawn(self, generator: np.random.Generator, n: int) -> tuple[Problem, ...]:
        """n problems to train on: all different if there are so many, else with replacement."""
        check_count("n", n, 0)
        many = len(self.training)
        return tuple(self.training[at] for at in generator.choice(many, n, replace=n > many).tolist())

    def held_out(self, n: int) -> tuple[Problem, ...]:
        """The first n that are held out.

        Raises:
            ValueError: there are not so many.
        """
        check_count("n", n, 0)
        if n > len(self.evaluation):
            raise ValueError(
                f"{self.name} holds out {len(self.evaluation)} problems, and {n} were asked for: ask for fewer"
            )
        return self.evaluation[:n]


def last_held_out(name: str, problems: Sequence[Problem], share: float) -> Parted:
    """The last `share` of the problems held out, rounded up; what is asked again there is not trained on.

    Raises:
        ValueError: the share is not in [0, 1), or nothing is left to train on.
    """
    check_share("held_out_share", share, one=False)
    first = len(problems) - math.ceil(share * len(problems))
    return Parted(name, tuple(problems[:first]), tuple(problems[first:]))


def _text(prompt: Prompt) -> tuple[str, ...]:
    """What tells one prompt from another."""
    if prompt.messages is None:
        return (str(prompt.text),)
    return tuple(part for message in prompt.messages for part in (message["role"], message["content"]))
