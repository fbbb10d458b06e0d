"""Actors with weights of their own: older ones, a student's, or another model's altogether."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.fields import BY_KIND, check_count, check_positive, check_share
from jackpot_sim.environments.language_models.build import LanguageModel, TinyQwen3
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import Distillation, PolicyGradientAscent
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sources.actor_source import Actors, ActorSource, Setting
from jackpot_sim.environments.targets import Target

MAX_STEPS = 1 << 10
"""Where the search for a target gives up; a larger learning rate gets further."""


@dataclass(frozen=True, kw_only=True)
class StaleActor(ActorSource):
    """Actor: the base model. Policy: the actor after `steps` steps of policy gradient.

    The KL grows with the steps as long as training goes on to new ground, up to the noise of its batches;
    a target gets the nearer of two successive steps that straddle it.

    Attributes:
        steps: optimiser steps, as `fitting.PolicyGradientAscent` takes them.
        learning_rate: AdamW's. 64 steps take the default model to a KL of about 0.02 at 1e-4, and 5e-4 at 2e-5.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1e-4

    knob_name: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    def check_knob(self, knob: int) -> None:
        """An integer ≥ 0."""
        check_count("steps", knob, 0)

    def actors(self, setting: Setting) -> Actors:
        """The actor is the base model."""
        ascent = PolicyGradientAscent(
            setting.base,
            setting.prompts,
            setting.tree,
            setting.reward,
            self.learning_rate,
            setting.generator("noise", self.kind),
        )
        actor = CausalLM(setting.base)
        return lambda steps: (CausalLM(ascent.after(int(steps))), actor)

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> int:
        """The number of steps nearest to the target, the search doubling until it passes it."""
        return target.nearest_growing(MAX_STEPS)


@dataclass(frozen=True, kw_only=True)
class DistilledActor(ActorSource):
    """Actor: a smaller model, after `steps` steps of distillation from random weights.

    The KL falls with the steps, up to the noise of its batches; a target gets the nearer of two successive
    steps that straddle it.

    Attributes:
        student: what the actor is; half as wide as the default policy and with one layer, if not told.
        steps: optimiser steps, as `fitting.Distillation` takes them.
        learning_rate: AdamW's.
    """

    kind: Literal["distilled"] = "distilled"
    student: TinyQwen3 = field(default_factory=lambda: TinyQwen3(hidden=16, layers=1))
    steps: int | None = None
    learning_rate: float = 1e-2

    knob_name: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    @property
    def other(self) -> LanguageModel:
        """The student."""
        return self.student

    def check_knob(self, knob: int) -> None:
        """An integer ≥ 0."""
        check_count("steps", knob, 0)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        path = Distillation(
            setting.other,
            setting.base,
            setting.prompts,
            setting.tree,
            self.learning_rate,
            setting.generator("noise", self.kind),
        )
        reference = CausalLM(setting.base)
        return lambda steps: (reference, CausalLM(path.after(int(steps))))

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> int:
        """The number of steps nearest to the target, the search doubling until the KL falls below it."""
        stop = 1
        while stop < MAX_STEPS and target.kl_at(stop) > target.value:
            stop *= 2
        return target.nearest_ordered(range(stop, -1, -1))


@dataclass(frozen=True, kw_only=True)
class SeparateActor(ActorSource):
    """On the geometric path from the policy to any other model, prefix by prefix.

    log q = (1 − s)·log p + s·log a, renormalised, as in `recorded.ActorFile`: at every prefix KL(p‖q) grows
    with s.

    Attributes:
        actor: the other model a. One that starts at random is first trained on the same small language as
            the policy, from weights and batches of its own.
        share: s in [0, 1]. 0 is the policy and 1 the other model, both as they are.
    """

    kind: Literal["separate"] = "separate"
    actor: LanguageModel = field(default_factory=TinyQwen3, metadata=BY_KIND)
    share: float | None = None

    knob_name: ClassVar[str] = "share"
    learns_the_language: ClassVar[bool] = True

    @property
    def other(self) -> LanguageModel:
        """The other model."""
        return self.actor

    def check_knob(self, knob: float) -> None:
        """s in [0, 1]."""
        check_share("share", knob)

    def actors(self, setting: Setting) -> Actors:
        """The reference is the base model."""
        reference, other = CausalLM(setting.base), CausalLM(setting.other)
        return lambda share: (reference, GeometricMixture(reference, other, share))

    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> float:
        """s in (0, 1]."""
        return target.on_ray(1.0)


@dataclass(frozen=True, eq=False)
class GeometricMixture:
    """A `Scorer` whose law at every prefix is on the geometric path between two others."""

    first: Scorer
    second: Scorer
    share: float

    def log_probs(self, prompts: Ints, tree: PrefixTree) -> Floats:
        """log q(x|s) after every prompt, (prompts, prefixes, vocab), nats."""
        return self._between(lambda each: each.log_probs(prompts, tree))

    def log_probs_along(self, prompt: Ints, tokens: Ints) -> Floats:
        """The same at the prefixes of given tokens only, (n, length, vocab)."""
        return self._between(lambda each: each.log_probs_along(prompt, tokens))

    def draw(self, prompt: Ints, uniforms: Floats, end_token: int | None) -> tuple[Ints, Flags]:
        """Sequences from uniforms of shape (n, length); each step reads its prefixes anew."""
        tokens, mask = np.zeros(uniforms.shape, dtype=np.int64), np.zeros(uniforms.shape, dtype=np.bool_)
        alive = np.arange(len(uniforms))
        for step in range(uniforms.shape[1]):
            if not alive.size:
                break
            law = self.log_probs_along(prompt, tokens[alive, : step + 1])[:, step]
            tokens[alive, step] = categorical(law, uniforms[alive, step, None])[:, 0]
            mask[alive, step] = True
            alive = alive[tokens[alive, step] != end_token]
        return tokens, mask

    def _between(self, table: Callable[[Scorer], Floats]) -> Floats:
        if self.share in (0, 1):
            return table(self.second if self.share else self.first)
        mixed: Floats = log_softmax((1 - self.share) * table(self.first) + self.share * table(self.second))
        return mixed
