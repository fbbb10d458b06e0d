"""A verifiable reward of text: 1 for a completion with the answer that its prompt carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import FORBID_EXTRA


class Match(StrEnum):
    """The condition under which a completion counts as right."""

    CONTAINS = "contains"
    """The completion contains the answer."""
    EXACT = "exact"
    """The completion is the answer, but for white space around it."""


@dataclass(frozen=True, kw_only=True)
class AnswerReward:
    """1 if the completion matches its prompt's answer, else 0; upper and lower case differ.

    Attributes:
        match: the condition for a match.
    """

    kind: Literal["answer"] = "answer"
    match: Match = Match.CONTAINS

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "match", Match(self.match))

    def of_texts(self, completions: Sequence[str], answers: Sequence[str]) -> Floats:
        """R of shape (n,) for n completions and the answers of their prompts."""
        pairs = zip(completions, answers, strict=True)
        if self.match is Match.EXACT:
            right = [completion.strip() == answer.strip() for completion, answer in pairs]
        else:
            right = [answer.strip() in completion for completion, answer in pairs]
        return np.array(right, dtype=np.float64)
