"""The interface of a task: problems to train on, others that are held out, and a reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.language_models.prompts import Prompt


@dataclass(frozen=True)
class Problem:
    """A prompt and its right answer.

    Attributes:
        prompt: the text that the model reads.
        answer: the answer with which the reward compares.
    """

    prompt: Prompt
    answer: str


@dataclass(frozen=True)
class Solved(Problem):
    """A problem that comes with a completion that solves it.

    Attributes:
        solution: the completion.
    """

    solution: str


class Task(Protocol):
    """A frozen configuration that gives problems and judges completions of them."""

    @property
    def kind(self) -> str:
        """The task's name in a configuration."""
        ...

    @property
    def characters(self) -> str | None:
        """The alphabet of a task that brings its own (see `character_tokenizer`); None: the model's tokenizer."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a completion, its end token included."""
        ...

    def problems(self, generator: np.random.Generator, n: int) -> tuple[Problem, ...]:
        """n problems drawn for training, none of which is held out."""
        ...

    def held_out(self, n: int) -> tuple[Problem, ...]:
        """n problems for evaluation, the same in every run, or all there are; fewer are the first of more."""
        ...

    @property
    def different(self) -> int | None:
        """The number of different problems to train on; None where they are drawn from a law."""
        ...

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """R of shape (n,), in [0, 1], for n completions (the texts before the end token) of n problems."""
        ...

    def solution(self, problem: Problem) -> str | None:
        """A completion with reward 1, for supervised teaching; None where none is known."""
        ...


def exact_rewards(completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
    """1 where the completion is the answer, character by character, else 0; shape (n,).

    Raises:
        ValueError: their numbers differ.
    """
    check_as_many(completions, problems)
    right = [completion == problem.answer for completion, problem in zip(completions, problems, strict=True)]
    return np.array(right, dtype=np.float64)


def check_as_many(completions: Sequence[str], problems: Sequence[Problem]) -> None:
    """Refuses completions and problems of different numbers."""
    if len(completions) != len(problems):
        raise ValueError(f"give one problem for every completion: {len(completions)} and {len(problems)} came")
