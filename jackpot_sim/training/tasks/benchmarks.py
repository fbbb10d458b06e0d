"""Benchmarks of mathematics that papers report, read as published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Literal

from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_share
from jackpot_sim.environments.language_models.prompts import Prompt
from jackpot_sim.training.tasks.base import Problem, Solved, check_as_many
from jackpot_sim.training.tasks.listed import OfList, Parted, last_held_out
from jackpot_sim.training.tasks.scoring import MARK, MathReward, marked_answer
from jackpot_sim.training.tasks.tables import Row, read_rows

PLACE = "{problem}"
"""The place of the problem in a template."""

_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""The notes for a calculator in the workings of GSM8K."""


class Name(StrEnum):
    """The known benchmarks."""

    GSM8K = "gsm8k"
    """Grade-school word problems."""
    MATH_500 = "math-500"
    """500 competition problems of the MATH test set."""
    AMC = "amc"
    """American Mathematics Competitions 12; answers are numbers."""
    AIME = "aime"
    """American Invitational Mathematics Examination; answers are 0 to 999."""


@dataclass(frozen=True)
class Published:
    """The place and the columns of a published benchmark.

    Attributes:
        hub: its name on the Hugging Face hub.
        subset: its configuration there; None for the only one.
        split: the split for training where there are several.
        question: the column of the problem.
        answer: the column of the answer.
        working: the column of a solution, which rows may lack; None: there is none.
    """

    hub: str
    subset: str | None
    split: str
    question: str
    answer: str
    working: str | None


PUBLISHED = {
    Name.GSM8K: Published("openai/gsm8k", "main", "train", "question", "answer", "answer"),
    Name.MATH_500: Published("HuggingFaceH4/MATH-500", None, "test", "problem", "answer", "solution"),
    Name.AMC: Published("AI-MO/aimo-validation-amc", None, "train", "problem", "answer", None),
    Name.AIME: Published("AI-MO/aimo-validation-aime", None, "train", "problem", "answer", "solution"),
}
"""The published benchmarks by name; other copies of them have the same columns."""


@dataclass(frozen=True, kw_only=True)
class Benchmark(OfList):
    r"""A published set of problems, read when it is first needed.

    Attributes:
        name: the benchmark, which sets the names of the columns.
        path: a folder saved by `datasets`, a .jsonl or .parquet file, or a name on the Hugging Face hub; None: the
            published copy.
        split: the split to train on; None: the usual one, or the only one.
        limit: the number of rows to train on, from the first; None: all.
        held_out_path: the source of held-out problems; None: `path`.
        held_out_split: the split that is held out.
        held_out_share: the share of rows that is held out, the last ones, without a path or split of their own.
        prompt_template: the prompt, with {problem} in the place of the problem.
        chat: whether the prompt is a user's message of a chat, or a plain text.
        reward: the comparison of answers.
        max_new_tokens: the most tokens of a completion.

    Raises:
        ValueError: a number is out of range, or the template does not hold {problem} once.
    """

    kind: Literal["benchmark"] = "benchmark"
    name: Name
    path: str | Path | None = None
    split: str | None = None
    limit: int | None = None
    held_out_path: str | Path | None = None
    held_out_split: str | None = None
    held_out_share: float = 0.1
    prompt_template: str = PLACE + "\nReason step by step, and put your final answer within \\boxed{}."
    chat: bool = True
    reward: MathReward = field(default_factory=MathReward)
    max_new_tokens: int = 1024

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", Name(self.name))
        check_share("held_out_share", self.held_out_share, one=False)
        check_count("max_new_tokens", self.max_new_tokens, 1)
        if self.limit is not None:
            check_count("limit", self.limit, 1)
        if self.prompt_template.count(PLACE) != 1:
            raise ValueError(f"prompt_template must hold {PLACE} once, got {self.prompt_template!r}")

    @property
    def characters(self) -> None:
        """None: the model's tokenizer reads the problems."""
        return

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """1 where the answers are equal as mathematics, else 0; shape (n,)."""
        check_as_many(completions, problems)
        return self.reward.of_texts(completions, [problem.answer for problem in problems])

    def solution(self, problem: Problem) -> str | None:
        r"""The published working, with its answer in \boxed{}; None where none is published."""
        return problem.solution if isinstance(problem, Solved) else None

    @property
    def published(self) -> Published:
        """The place and the columns of the set."""
        return PUBLISHED[Name(self.name)]

    @cached_property
    @override
    def _parted(self) -> Parted:
        source = self.published.hub if self.path is None else self.path
        training = self._read(source, self.split, self.limit)
        if self.held_out_path is None and self.held_out_split is None:
            return last_held_out(str(source), training, self.held_out_share)
        elsewhere = source if self.held_out_path is None else self.held_out_path
        return Parted(str(source), training, self._read(elsewhere, self.held_out_split, None))

    def _read(self, source: str | Path, split: str | None, limit: int | None) -> tuple[Problem, ...]:
        # Only the published set has the published configurations.
        subset = self.published.subset if source == self.published.hub else None
        rows = read_rows(source, split=split, usual_split=self.published.split, subset=subset, limit=limit)
        problems = []
        for number, row in enumerate(rows, 1):
            try:
                problems.append(self._problem(row))
            except ValueError as error:
                raise ValueError(f"{source}: row {number}: {error}") from error
        return tuple(problems)

    def _problem(self, row: Row) -> Problem:
        question, answer = _column(row, self.published.question), _column(row, self.published.answer)
        working = str(row.get(self.published.working) or "") if self.published.working else ""
        if self.name is Name.GSM8K:
            working, mark, answer = answer.rpartition(MARK)
            if not mark:
                raise ValueError(f"{self.published.answer!r} does not end in {MARK} and a number")
            working, answer = _CALCULATOR.sub("", working), answer.strip().replace(",", "")
        if not answer:
            raise ValueError(f"{self.published.answer!r} has no answer")
        text = self.prompt_template.replace(PLACE, question)
        prompt = Prompt(messages=({"role": "user", "content": text},)) if self.chat else Prompt(text=text, plain=True)
        if not working:
            return Problem(prompt, answer)
        if marked_answer(working) != answer:
            working = f"{working.strip()}\n\\boxed{{{answer}}}"
        return Solved(prompt, answer, working)


def _column(row: Row, name: str) -> str:
    """A column as a text; whole numbers such as 142.0, the form of AMC's answers, without their decimals."""
    if name not in row:
        raise ValueError(f"no column {name!r} (there is {', '.join(map(repr, row)) or 'nothing'})")
    value = row[name]
    if value is None or not str(value).strip():
        raise ValueError(f"{name!r} is empty")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
