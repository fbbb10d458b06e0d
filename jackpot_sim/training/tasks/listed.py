"""A list of problems, parted into training and held-out problems."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
        name: the name of their source, for errors.
        training: problems to train on.
        evaluation: held-out problems.

    Raises:
        ValueError: no problem is left to train on.
    """

    name: str
    training: tuple[Problem, ...]
    evaluation: tuple[Problem, ...]

    def __post_init__(self) -> None:
        held = {_text(problem.prompt) for problem in self.evaluation}
        training = tuple(problem for problem in self.training if _text(problem.prompt) not in held)
        if not training:
            raise ValueError(f"{self.name}: no problem is left to train on: hold fewer out, or others")
        object.__setattr__(self, "training", training)

    def drawn(self, generator: np.random.Generator, n: int) -> tuple[Problem, ...]:
        """n training problems: all different if there are so many, else drawn with replacement."""
        check_count("n", n, 0)
        many = len(self.training)
        return tuple(self.training[at] for at in generator.choice(many, n, replace=n > many).tolist())

    def held_out(self, n: int) -> tuple[Problem, ...]:
        """The first n held-out problems; all of them if they are fewer."""
        check_count("n", n, 0)
        return self.evaluation[:n]


class OfList(ABC):
    """A task whose problems are a list, read when it is first needed."""

    @property
    @abstractmethod
    def _parted(self) -> Parted:
        """The problems; a ValueError where they cannot be read."""

    def problems(self, generator: np.random.Generator, n: int) -> tuple[Problem, ...]:
        """n problems drawn for training: all different if there are so many.

        Raises:
            ValueError: the problems cannot be read.
        """
        return self._parted.drawn(generator, n)

    def held_out(self, n: int) -> tuple[Problem, ...]:
        """The first n held-out problems; all of them if they are fewer.

        Raises:
            ValueError: the problems cannot be read.
        """
        return self._parted.held_out(n)

    @property
    def different(self) -> int:
        """The number of problems to train on."""
        return len(self._parted.training)


def last_held_out(name: str, problems: Sequence[Problem], share: float) -> Parted:
    """Two lists, of which the last `share` of the problems, rounded up, is held out; repeated prompts go there too.

    Raises:
        ValueError: the share is not in [0, 1), or no problem is left to train on.
    """
    check_share("held_out_share", share, one=False)
    first = len(problems) - math.ceil(share * len(problems))
    return Parted(name, tuple(problems[:first]), tuple(problems[first:]))


def _text(prompt: Prompt) -> tuple[str, ...]:
    """The text by which prompts are compared."""
    if prompt.messages is None:
        return (str(prompt.text),)
    return tuple(part for message in prompt.messages for part in (message["role"], message["content"]))
