"""The base of every mismatch: one knob, given or solved for from a target KL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from jackpot_sim.environments.fields import FORBID_EXTRA, check_positive

Divergence: TypeAlias = Literal["kl_policy_actor", "kl_actor_policy"]


@dataclass(frozen=True, kw_only=True)
class OneKnob(ABC):
    """A difference between an actor and its policy, whose size is one knob.

    Attributes:
        target_kl: the mean KL over states, or per token, to solve the knob for, nats; its direction is the
            class's `target_divergence`.

    Exactly one of the knob (the field that the class's `knob_name` names) and `target_kl` is given.

    Raises:
        ValueError: both or neither is given, or one is out of range.
    """

    kind: str
    target_kl: float | None = None

    knob_name: ClassVar[str]
    target_divergence: ClassVar[Divergence] = "kl_policy_actor"

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if (self.knob is None) == (self.target_kl is None):
            given = "neither" if self.knob is None else "both"
            raise ValueError(f"give exactly one of {self.knob_name} and target_kl, got {given}")
        if self.knob is None:
            check_positive("target_kl", self.target_kl)
        else:
            self.check_knob(self.knob)

    @property
    def knob(self) -> float | None:
        """The knob that was given, or None."""
        knob: float | None = getattr(self, self.knob_name)
        return knob

    def resolved(self, solve: Callable[[float], float]) -> float:
        """The knob that was given, or the one that `solve` finds for `target_kl`, nats."""
        if self.target_kl is not None:
            return solve(self.target_kl)
        assert self.knob is not None
        return self.knob

    @abstractmethod
    def check_knob(self, knob: float) -> None:
        """Refuses a knob out of range; the ValueError names the field."""
