"""Actors of real models alone: another checkpoint, precision or temperature, older weights, fewer layers."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from typing_extensions import override

from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.language_models.altered import without_last_layers
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import MAX_STEPS, Actors, ActorSource, Setting
from jackpot_sim.environments.states.perturbed import LARGEST_LOG_TEMPERATURE
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


@dataclass(frozen=True, kw_only=True)
class OtherTemperature(ActorSource):
    """The policy itself, sampled at another temperature than the trainer's: a mistake in the server's options.

    Attributes:
        temperature: the sampler's; the environment's own is the policy's.
        colder: whether `target_kl` is solved for below the policy's temperature; refused beside a temperature.
    """

    kind: Literal["temperature"] = "temperature"
    temperature: float | None = None
    colder: bool = False

    knob_name: ClassVar[str] = "temperature"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.colder and self.temperature is not None:
            raise ValueError("colder picks the side of a target_kl: it cannot be given with temperature")

    @override
    def check_knob(self, knob: float) -> None:
        check_positive("temperature", knob)

    @override
    def actors(self, setting: Setting) -> Actors:
        policy = CausalLM(setting.base)
        return lambda temperature: (policy, policy)

    @override
    def sampling(self, law: SamplingLaw, knob: float) -> SamplingLaw:
        return replace(law, temperature=knob)

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        side = -1 if self.colder else 1
        return target.on_ray(LARGEST_LOG_TEMPERATURE, lambda t: setting.temperature * math.exp(side * t))


@dataclass(frozen=True, kw_only=True)
class FewerLayers(ActorSource):
    """A smaller model pruned from the policy: its last `layers` layers are left out, and all other weights stay."""

    kind: Literal["fewer-layers"] = "fewer-layers"
    layers: int | None = None

    knob_name: ClassVar[str] = "layers"

    @override
    def check_knob(self, knob: float) -> None:
        check_count("layers", knob, 0)

    @override
    def actors(self, setting: Setting) -> Actors:
        reference = CausalLM(setting.base)
        return lambda layers: (reference, CausalLM(without_last_layers(setting.base, int(layers))))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return target.nearest_ordered(range(int(setting.base.config.get_text_config().num_hidden_layers)))
