"""What all mismatch families share: one knob, given or solved for, and keyed randomness.

A family draws its noise once and gives the two laws as a function of its knob. The base law and the
advantage are keyed by (seed, base law), the noise by these and the family's kind, never by the knob:
so one noise direction is scaled, curves over a knob are smooth, and a sweep over more knobs changes
none of the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from jackpot_sim.environments.fields import FORBID_EXTRA, check_positive

Divergence: TypeAlias = Literal["kl_policy_actor", "kl_actor_policy"]


@dataclass(frozen=True, kw_only=True)
class OneKnob(ABC):
    """What moves an actor away from its policy by one knob.

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
    def knob(self) -> Any:
        """The knob that was given, or None."""
        return getattr(self, self.knob_name)

    @abstractmethod
    def check_knob(self, knob: Any) -> None:
        """Refuses a knob out of range; the ValueError names the field."""
