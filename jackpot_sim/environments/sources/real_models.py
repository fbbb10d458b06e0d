"""Actors of real models alone: another checkpoint, the policy's weights in another precision, older weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import MAX_STEPS, Actors, ActorSource, Setting
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, kw_only=True)
class WithoutKnob(ActorSource):
    """An actor without a knob; `share` is fixed at 1 and `target_kl` is refused."""

    knob_name: ClassVar[str] = "share"
    share: ClassVar[float] = 1.0

    @override
    def check_knob(self, knob: float) -> None:
        """No share but 1 can be given."""

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return self.share


@dataclass(frozen=True, kw_only=True)
class AnotherCheckpoint(WithoutKnob):
    """Another model with the same tokens: a smaller one, an older one, a quantised one.

    Attributes:
        path: a folder as `save_pretrained` leaves it, or a hub id.
        precision: the number format of its weights; None for that of the policy.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    precision: Precision | None = None

    @override
    def __post_init__(self) -> None:
        if self.precision is not None:
            object.__setattr__(self, "precision", Precision(self.precision))
        super().__post_init__()

    @override
    def actors(self, setting: Setting) -> Actors:
        pair = CausalLM(setting.base), CausalLM(setting.other)
        return lambda share: pair


@dataclass(frozen=True, kw_only=True)
class OtherPrecision(WithoutKnob):
    """The policy's weights in another precision, in which the actor also computes."""

    kind: Literal["precision"] = "precision"
    precision: Precision = Precision.BF16

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))
        super().__post_init__()

    @override
    def actors(self, setting: Setting) -> Actors:
        other = copy.deepcopy(setting.base)
        for weight in other.parameters():  # and no buffer: those of rotary embeddings stay in float32 in any checkpoint
            weight.data = weight.data.to(self.precision.dtype)
        pair = CausalLM(setting.base), CausalLM(other)
        return lambda share: pair


@dataclass(frozen=True, kw_only=True)
class OlderWeights(ActorSource):
    """Actor: the checkpoint. Policy: the checkpoint after `steps` steps of policy gradient on its own rollouts.

    Attributes:
        steps: steps of `RolloutAscent`; a target gets the nearer of two successive steps that straddle it, and holds
            the weights and the optimiser of every step that it tries.
        learning_rate: that of AdamW.
        batch: rollouts behind each step.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1e-5
    batch: int = 32

    knob_name: ClassVar[str] = "steps"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)
        check_count("batch", self.batch, 2)

    @override
    def check_knob(self, knob: float) -> None:
        check_count("steps", knob, 0)

    @override
    def actors(self, setting: Setting) -> Actors:
        assert setting.ascent is not None
        path, actor = setting.ascent(self.learning_rate, self.batch), CausalLM(setting.base)
        return lambda steps: (CausalLM(path.after(int(steps))), actor)

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return target.nearest_growing(MAX_STEPS)
