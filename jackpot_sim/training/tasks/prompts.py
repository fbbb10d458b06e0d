"""The user's own prompts, with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import BY_KIND, FORBID_EXTRA, check_count, check_share
from jackpot_sim.environments.language_models.prompts import PromptFile, Prompts
from jackpot_sim.environments.rollouts.answers import AnswerReward
from jackpot_sim.training.tasks.base import Problem, check_as_many
from jackpot_sim.training.tasks.listed import OfList, Parted, last_held_out
from jackpot_sim.training.tasks.scoring import MathReward


@dataclass(frozen=True, kw_only=True)
class PromptTask(OfList):
    """Prompts with answers from a file or a data set, read when they are first needed.

    Attributes:
        prompts: the source of the prompts, each with an answer.
        reward: the comparison of a completion with the answer: as a text, or as mathematics.
        held_out_share: the share of the prompts, in [0, 1), that is held out: the last ones.
        max_new_tokens: the most tokens of a completion.

    Raises:
        ValueError: a number is out of range.
    """

    kind: Literal["prompts"] = "prompts"
    prompts: Prompts = field(metadata=BY_KIND)
    reward: AnswerReward | MathReward = field(default_factory=MathReward, metadata=BY_KIND)
    held_out_share: float = 0.1
    max_new_tokens: int = 256

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_share("held_out_share", self.held_out_share, one=False)
        check_count("max_new_tokens", self.max_new_tokens, 1)

    @property
    def characters(self) -> None:
        """None: the model's own tokenizer reads the prompts."""
        return

    def rewards(self, completions: Sequence[str], problems: Sequence[Problem]) -> Floats:
        """R of shape (n,), as `reward` gives it."""
        check_as_many(completions, problems)
        return self.reward.of_texts(completions, [problem.answer for problem in problems])

    def solution(self, problem: Problem) -> str:
        """The answer alone."""
        return problem.answer

    @cached_property
    @override
    def _parted(self) -> Parted:
        name = str(self.prompts.path if isinstance(self.prompts, PromptFile) else self.prompts.name)
        problems = []
        for number, prompt in enumerate(self.prompts.read(), 1):
            if prompt.answer is None or not prompt.answer.strip():
                field_name = self.prompts.answer_field
                raise ValueError(f"{name}: prompt {number} has no answer: give one in {field_name!r}")
            problems.append(Problem(prompt, prompt.answer))
        return last_held_out(name, problems, self.held_out_share)
