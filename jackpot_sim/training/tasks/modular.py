"""Sums, differences and products modulo a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.training.tasks.base import Problem, exact_rewards
from jackpot_sim.training.tasks.splitting import Grid, OfGrid

Operation: TypeAlias = Literal["+", "-", "*"]

_OPERATIONS: tuple[Operation, ...] = ("+", "-", "*")


@dataclass(frozen=True, kw_only=True)
class ModularArithmetic(OfGrid):
    """Problems such as "(12*45)%97="; a completion is right if it is the answer and then ends.

    Attributes:
        modulus: 2 to 10,000; answers lie in [0, modulus), and so do operands, which are padded with zeros.
        operations: those of + - * that occur, each with the same probability.

    Raises:
        ValueError: the modulus is out of range, or an operation is missing, unknown, or given twice.

    >>> problem = ModularArithmetic().problem(12, "*", 45)
    >>> problem.prompt.text, problem.answer
    ('(12*45)%97=', '55')
    """

    kind: Literal["modular"] = "modular"
    modulus: int = 97
    operations: tuple[Operation, ...] = _OPERATIONS

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("modulus", self.modulus, 2, 10_000)
        object.__setattr__(self, "operations", tuple(self.operations))
        known = set(self.operations) <= set(_OPERATIONS)
        if not (self.operations and known and len(set(self.operations)) == len(self.operations)):
            raise ValueError(f"operations must be some of '+', '-', '*', each once, got {self.operations!r}")

    @property
    def characters(self) -> str:
        """The alphabet of prompts and answers; it is the same for all operations."""
        return "0123456789+-*()%="

    @property
    def max_new_tokens(self) -> int:
        """The digits of the largest answer, and the end token."""
        return self._digits + 1

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """1 for exactly the answer, else 0; shape (n,)."""
        return exact_rewards(completions, problems)

    def solution(self, problem: Problem) -> str:
        """The answer itself."""
        return problem.answer

    def problem(self, first: int, operation: Operation, second: int) -> Problem:
        """One problem.

        Raises:
            ValueError: an operand is not in [0, modulus), or the operation is not in `operations`.
        """
        if operation not in self.operations:
            raise ValueError(f"the operation must be one of {self.operations!r}, got {operation!r}")
        for operand in (first, second):
            check_count("an operand", operand, 0, self.modulus - 1)
        value = {"+": first + second, "-": first - second, "*": first * second}[operation] % self.modulus
        text = f"({first:0{self._digits}d}{operation}{second:0{self._digits}d})%{self.modulus}="
        return Problem(Prompt(text=text), str(value))

    @property
    def _digits(self) -> int:
        return len(str(self.modulus - 1))

    @property
    @override
    def _grid(self) -> Grid:
        """Rows of operation, first and second operand."""

        def key(rows: Ints) -> Ints:
            # Numbered as in `_OPERATIONS`, so that the held-out problems do not depend on the operations that occur.
            operation = np.array([_OPERATIONS.index(each) for each in self.operations])[rows[:, :1]]
            ordered = operation == _OPERATIONS.index("-")
            operands = np.where(ordered, rows[:, 1:], np.sort(rows[:, 1:], axis=1))
            return np.hstack([operation, operands]).astype(np.int64)

        return Grid("modular arithmetic", (len(self.operations), self.modulus, self.modulus), key)

    @override
    def _made(self, rows: Ints) -> tuple[Problem, ...]:
        return tuple(self.problem(first, self.operations[at], second) for at, first, second in rows.tolist())
