"""The data sets of reasoning-gym: problems without end, each judged by its data set's own score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count
from jackpot_sim.environments.language_models.checkpoints import first_line
from jackpot_sim.environments.language_models.generated_prompts import (
    QUESTION,
    Entry,
    Gym,
    check_template,
    entries,
    gym_of,
    prompt_of,
)
from jackpot_sim.training.tasks.base import Problem, check_as_many
from jackpot_sim.training.tasks.listed import OfList, Parted
from jackpot_sim.training.tasks.scoring import marked_answer

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?", re.ASCII)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Extraction(StrEnum):
    """The part of a completion that is its answer; a completion without one has no answer."""

    TEXT = "text"
    """The whole of it."""
    LINE = "line"
    """Its first line that is not blank."""
    FIRST_NUMBER = "first-number"
    """Its first number, without commas."""
    LAST_NUMBER = "last-number"
    """Its last number, without commas."""
    BOXED = "boxed"
    r"""The content of the last \boxed{...}, or else the text after the last ####."""
    TAG = "tag"
    """The text between the last <answer> and </answer>."""

    def of(self, completion: str) -> str | None:
        r"""The answer in a completion; None if there is none.

        >>> Extraction.LAST_NUMBER.of("First 3, so 1,234."), Extraction.TAG.of("<answer> 7 </answer>")
        ('1234', '7')
        """
        if self is Extraction.TEXT:
            return completion.strip() or None
        if self is Extraction.LINE:
            return completion.strip().partition("\n")[0].strip() or None
        if self is Extraction.BOXED:
            return marked_answer(completion)
        if self is Extraction.TAG:
            return next(iter(_TAG.findall(completion)[::-1]), "").strip() or None
        numbers = _NUMBER.findall(completion)
        if not numbers:
            return None
        return str(numbers[0 if self is Extraction.FIRST_NUMBER else -1]).replace(",", "")


@dataclass(frozen=True)
class Generated(Problem):
    """A problem as its data set generated it.

    Attributes:
        entry: the problem with what its data set needs to score an answer.
    """

    entry: Entry = field(hash=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class ReasoningGym(OfList):
    r"""A data set of reasoning-gym, generated when it is first needed; the reward is the data set's own score.

    Many data sets give part of the score to an answer that is wrong in form or that only contains the right one.

    Attributes:
        dataset: the data set's name, such as chain_sum or gsm_symbolic.
        config: its options, such as {max_terms: 2}; those left out are its own.
        size: the number of problems generated to train on; of repeated ones the first counts.
        seed: the seed of the training problems.
        held_out_size: the number of problems generated to test on.
        held_out_seed: the seed of these. A training problem with the prompt of one of them is dropped.
        template: the prompt, with {question} in the place of the question.
        chat: whether the prompt is a user's message of a chat, or a plain text.
        extraction: the part of a completion that is its answer: text, line, first-number, last-number, boxed or tag.
        max_new_tokens: the most tokens of a completion.

    Raises:
        ValueError: a number is out of range, or the template does not hold {question} once.
    """

    kind: Literal["reasoning-gym"] = "reasoning-gym"
    dataset: str
    config: Mapping[str, object] = field(default_factory=dict, hash=False)
    size: int = 2000
    seed: int = 0
    held_out_size: int = 128
    held_out_seed: int = 1_000_000_000
    template: str = QUESTION
    chat: bool = True
    extraction: Extraction = Extraction.TEXT
    max_new_tokens: int = 256

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "extraction", Extraction(self.extraction))
        for name, least in (("size", 1), ("held_out_size", 1), ("max_new_tokens", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least)
        check_count("held_out_seed", self.held_out_seed, 0)
        check_template(self.template)

    @property
    def characters(self) -> None:
        """None: the model's own tokenizer reads the problems."""
        return

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """The data set's score of each completion's answer, shape (n,); 0 where the score does not understand it.

        Raises:
            ValueError: a problem is not of this task, a score lies outside [0, 1], or it fails on the right answer too.
        """
        check_as_many(completions, problems)
        pairs = zip(completions, problems, strict=True)
        return np.array([self._score(completion, problem) for completion, problem in pairs], dtype=np.float64)

    def solution(self, problem: Problem) -> None:
        """None: an answer alone is no completion of which all extractions find it."""
        return

    def _score(self, completion: str, problem: Problem) -> float:
        if not isinstance(problem, Generated):
            raise ValueError(f"{self.dataset} scores its own problems alone, and one of another task is given")
        answer = self.extraction.of(completion)
        if answer is None:
            return 0.0
        try:
            score = float(self._gym.score_answer(answer, dict(problem.entry)))
        except Exception as error:  # of a malformed answer, which not all scores survive
            self._check_scores(problem, error)
            return 0.0
        if not 0 <= score <= 1:
            raise ValueError(f"{self.dataset} scored an answer {score:g}, which is no reward in [0, 1]")
        return score

    def _check_scores(self, problem: Generated, error: Exception) -> None:
        """Refuses a score that fails on the right answer too: rewards of 0 would hide it."""
        try:
            self._gym.score_answer(problem.entry["answer"], dict(problem.entry))
        except Exception:
            raise ValueError(f"{self.dataset} cannot score even its own answers: {first_line(error)}") from error

    @cached_property
    def _gym(self) -> Gym:
        return gym_of(self.dataset, self.config, self.size, self.seed)

    @cached_property
    @override
    def _parted(self) -> Parted:
        elsewhere = gym_of(self.dataset, self.config, self.held_out_size, self.held_out_seed)
        return Parted(self.dataset, self._problems(self._gym), self._problems(elsewhere))

    def _problems(self, gym: Gym) -> tuple[Problem, ...]:
        return tuple(
            Generated(prompt_of(entry, self.template, self.chat), str(entry["answer"]), entry) for entry in entries(gym)
        )
