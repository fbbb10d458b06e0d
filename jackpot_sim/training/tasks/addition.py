"""Sums of numbers, in a form that a small model learns in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.training.tasks.base import Problem, exact_rewards
from jackpot_sim.training.tasks.splitting import Grid, OfGrid


@dataclass(frozen=True, kw_only=True)
class Addition(OfGrid):
    """Sums such as "123+045="; a completion is right if it is the answer and then ends.

    Attributes:
        digits: digits of each operand, 1 to 15; shorter operands are padded with zeros, so that all prompts have one
            length.
        reverse: whether the answer is written from its last digit on: carries then flow in the order of writing.
        operands: the number of operands, 2 to 8.

    Raises:
        ValueError: a number is out of range.

    >>> problem = Addition(digits=3).problem(123, 45)
    >>> problem.prompt.text, problem.answer
    ('123+045=', '861')
    """

    kind: Literal["addition"] = "addition"
    digits: int = 3
    reverse: bool = True
    operands: int = 2

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("digits", self.digits, 1, 15)
        check_count("operands", self.operands, 2, 8)

    @property
    def characters(self) -> str:
        """The alphabet of prompts and answers."""
        return "0123456789+="

    @property
    def max_new_tokens(self) -> int:
        """The digits of the largest sum, and the end token."""
        return len(str(self.operands * (10**self.digits - 1))) + 1

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """1 for exactly the answer, else 0; shape (n,).

        A completion without its end token has more characters than any answer, so it is never right.
        """
        return exact_rewards(completions, problems)

    def solution(self, problem: Problem) -> str:
        """The answer itself."""
        return problem.answer

    def problem(self, *operands: int) -> Problem:
        """The sum of these operands as a problem.

        Raises:
            ValueError: there are more or fewer operands than `operands`, or one has too many digits.
        """
        if len(operands) != self.operands:
            raise ValueError(f"give {self.operands} operands, {len(operands)} came")
        for operand in operands:
            check_count("an operand", operand, 0, 10**self.digits - 1)
        text = "+".join(f"{operand:0{self.digits}d}" for operand in operands) + "="
        answer = str(sum(operands))
        return Problem(Prompt(text=text), answer[::-1] if self.reverse else answer)

    @property
    @override
    def _grid(self) -> Grid:
        return Grid("addition", (10**self.digits,) * self.operands, lambda rows: np.sort(rows, axis=1))

    @override
    def _made(self, rows: Ints) -> tuple[Problem, ...]:
        return tuple(self.problem(*row) for row in rows.tolist())
