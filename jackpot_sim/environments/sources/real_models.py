"""Actors of real models: another checkpoint, the same weights in another precision, older weights.

The sources of `served` that keep to one model (noise, quantised weights or caches, a sliding window) serve real
models as they serve tiny ones, and complete the union.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.sources.actor_source import Actors, ActorSource, Setting
from jackpot_sim.environments.sources.other_models import MAX_STEPS
from jackpot_sim.environments.sources.served import QuantizedKV, QuantizedWeights, SlidingWindow, WeightNoise
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, kw_only=True)
class _AsItIs(ActorSource):
    """An actor that is what it is: its knob is a share of 1, and there is no other and no target."""

    knob_name: ClassVar[str] = "share"
    share: ClassVar[float] = 1.0

    def check_knob(self, knob: float) -> None:
        """It is 1."""

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """There is nothing to solve for: a target_kl is refused when it is given."""
        raise AssertionError("an actor without a knob has no target")


@dataclass(frozen=True, kw_only=True)
class AnotherCheckpoint(_AsItIs):
    """Another model with the same tokens: a smaller one, an older one, a quantised one.

    Attributes:
        path: a folder as `save_pretrained` leaves it, or a hub id.
        precision: None for that of the policy.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if self.precision is not None:
            object.__setattr__(self, "precision", Precision(self.precision))
        super().__post_init__()

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        pair = CausalLM(setting.base), CausalLM(setting.other)
        return lambda share: pair


@dataclass(frozen=True, kw_only=True)
class OtherPrecision(_AsItIs):
    """The policy's weights in another precision, in which the actor computes too."""

    kind: Literal["precision"] = "precision"
    precision: Precision = Precision.BF16

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))
        super().__post_init__()

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        other = copy.deepcopy(setting.base)
        for weight in other.parameters():  # and no buffer: those of rotary embeddings stay in float32 in any checkpoint
            weight.data = weight.data.to(self.precision.dtype)
        pair = CausalLM(setting.base), CausalLM(other)
        return lambda share: pair


@dataclass(frozen=True, kw_only=True)
class OlderWeights(ActorSource):
    """Actor: the checkpoint. Policy: the checkpoint after `steps` steps of policy gradient on its own rollouts.

    Attributes:
        steps: optimiser steps, as `ascent.RolloutAscent` takes them; a target gets the nearer of two
            successive steps that straddle it, and holds the weights and the optimiser of every step it tries.
        learning_rate: AdamW's.
        batch: rollouts behind each step.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1e-5
    batch: int = 32

    knob_name: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)
        check_count("batch", self.batch, 2)

    def check_knob(self, knob: int) -> None:
        """An integer ≥ 0."""
        check_count("steps", knob, 0)

    def actors(self, setting: Setting) -> Actors:
        """The actor is the base model."""
        assert setting.ascent is not None
        path, actor = setting.ascent(self.learning_rate, self.batch), CausalLM(setting.base)
        return lambda steps: (CausalLM(path.after(int(steps))), actor)

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> int:
        """The number of steps nearest to the target, the search doubling until it passes it."""
        return target.nearest_growing(MAX_STEPS)


RealActor: TypeAlias = (
    AnotherCheckpoint | OtherPrecision | OlderWeights | WeightNoise | QuantizedWeights | QuantizedKV | SlidingWindow
)
"""What may set the actor of a real model apart."""

REAL_ACTORS: tuple[type[ActorSource], ...] = get_args(RealActor)

_USUAL: dict[str, dict[str, Any]] = {
    "stale": {"steps": 16},
    "quantized-weights": {"share": 1.0},
    "quantized-kv": {"share": 1.0},
}
"""The knob of a kind that is given without one; the others have none that suggests itself."""


def from_name(name: str) -> dict[str, Any]:
    """The configuration that a bare word means: a kind of source, or else the path or id of a checkpoint.

    Raises:
        ValueError: it is neither, but nearly a kind.
    """
    kinds = [str(vars(each)["kind"]) for each in REAL_ACTORS if each is not AnotherCheckpoint]
    if name in kinds:
        return {"kind": name}
    near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.8)
    if near and not Path(name).exists():
        raise ValueError(f"actor: {name!r} is neither a kind nor a folder; did you mean {near[0]!r}?")
    return {"kind": "checkpoint", "path": name}


def with_knob(actor: Any) -> Any:
    """A configuration with the usual knob of its kind, where it has neither a knob nor a target."""
    if not isinstance(actor, Mapping) or "target_kl" in actor:
        return actor
    return {**_USUAL.get(str(actor.get("kind")), {}), **actor}
