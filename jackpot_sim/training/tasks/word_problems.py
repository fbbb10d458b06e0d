"""Short word problems: a dozen stories with varying numbers, names and things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.training.tasks.base import Problem, Solved, check_as_many
from jackpot_sim.training.tasks.characters import PRINTABLE
from jackpot_sim.training.tasks.scoring import MARK, MathReward
from jackpot_sim.training.tasks.splitting import Grid, OfGrid
from jackpot_sim.training.tasks.word_templates import NAMES, TEMPLATES, THINGS, Template, Words

_SMALLEST = 2
"""The smallest number in a story: "1 boxes" reads badly."""

_NUMBERS = 3
"""The most numbers in a story."""


@dataclass(frozen=True, kw_only=True)
class WordProblems(OfGrid):
    r"""Stories of one to three steps; a completion is right if its answer is, as 12, #### 12 or \boxed{12}.

    Attributes:
        largest: the largest number that is drawn, 3 to 1000; the smallest is 2.
        fractions: whether some of the stories have answers with fractions or decimals.
        worked: whether solutions show the working before the answer.
        max_new_tokens: the most tokens of a completion; every worked solution has fewer than 80 characters, and fewer
            tokens still for a model with a vocabulary of words.

    Raises:
        ValueError: a number is out of range.
    """

    kind: Literal["word-problems"] = "word-problems"
    largest: int = 20
    fractions: bool = True
    worked: bool = True
    max_new_tokens: int = 80

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("largest", self.largest, 3, 1000)
        check_count("max_new_tokens", self.max_new_tokens, 1)

    @property
    def characters(self) -> str:
        """The printable characters of ASCII, which any model's own tokenizer reads too."""
        return PRINTABLE

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """1 where the answers are equal as mathematics, else 0; shape (n,)."""
        check_as_many(completions, problems)
        return MathReward().of_texts(completions, [problem.answer for problem in problems])

    def solution(self, problem: Problem) -> str:
        """The working, if `worked` and if the problem is of this task, and the answer after ####."""
        return problem.solution if isinstance(problem, Solved) else f"{MARK} {problem.answer}"

    @cached_property
    def _templates(self) -> tuple[Template, ...]:
        return tuple(each for each in TEMPLATES if each.whole or self.fractions)

    @property
    @override
    def _grid(self) -> Grid:
        """Rows of template, name, other name, things, and three numbers less `_SMALLEST`."""
        many = self.largest - _SMALLEST + 1
        used = np.array([[at < each.numbers for at in range(_NUMBERS)] for each in self._templates])

        def key(rows: Ints) -> Ints:
            # The numbers of the story, 0 for those that it does not use; neither names nor things count.
            numbers = np.where(used[rows[:, 0]], rows[:, 4:] + _SMALLEST, 0)
            return np.hstack([rows[:, :1], numbers]).astype(np.int64)

        sizes = (len(self._templates), len(NAMES), len(NAMES) - 1, len(THINGS), *[many] * _NUMBERS)
        return Grid("word problems", sizes, key)

    @override
    def _made(self, rows: Ints) -> tuple[Problem, ...]:
        return tuple(self._problem(*row) for row in rows.tolist())

    def _problem(self, at: int, name: int, other: int, things: int, *numbers: int) -> Problem:
        template = self._templates[at]
        # The other name is counted from the first on, so that the two differ.
        words = Words(NAMES[name], NAMES[(name + 1 + other) % len(NAMES)], THINGS[things])
        story = template.tell(words, tuple(_SMALLEST + number for number in numbers[: template.numbers]))
        end = f"{MARK} {story.answer}"
        solution = f"{story.working}\n{end}" if self.worked else end
        return Solved(Prompt(text=story.question + "\n"), story.answer, solution)
