"""Actors of tiny models with weights of their own: older ones, a student's, or those of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.fields import BY_KIND, check_count, check_positive, check_share
from jackpot_sim.environments.language_models.build import LanguageModel, TinyQwen3
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import Distillation, PolicyGradientAscent
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sources.actor_source import MAX_STEPS, Actors, ActorSource, Setting
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, kw_only=True)
class StaleActor(ActorSource):
    """Actor: the base model. Policy: the actor after `steps` steps of policy gradient.

    The KL grows with the steps as long as training goes on to new ground, up to the noise of its batches; a target
    gets the nearer of two successive steps that straddle it.

    Attributes:
        steps: steps of `PolicyGradientAscent`.
        learning_rate: that of AdamW. 64 steps take the default model to a KL of about 0.02 at 1e-4, and 5e-4 at 2e-5.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1e-4

    knob_name: ClassVar[str] = "steps"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    @override
    def check_knob(self, knob: float) -> None:
        check_count("steps", knob, 0)

    @override
    def actors(self, setting: Setting) -> Actors:
        task, generator = setting.task, setting.generator("noise", self.kind)
        assert task is not None
        ascent = PolicyGradientAscent(setting.base, task.prompts, task.tree, task.reward, self.learning_rate, generator)
        actor = CausalLM(setting.base)
        return lambda steps: (CausalLM(ascent.after(int(steps))), actor)

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return target.nearest_growing(MAX_STEPS)


@dataclass(frozen=True, kw_only=True)
class DistilledActor(ActorSource):
    """Actor: a smaller model, after `steps` steps of distillation from random weights.

    The KL falls with the steps, up to the noise of its batches; a target gets the nearer of two successive steps that
    straddle it.

    Attributes:
        student: the actor's model; by default half as wide as the default policy, with one layer.
        steps: steps of `Distillation`.
        learning_rate: that of AdamW.
    """

    kind: Literal["distilled"] = "distilled"
    student: TinyQwen3 = field(default_factory=lambda: TinyQwen3(hidden=16, layers=1))
    steps: int | None = None
    learning_rate: float = 1e-2

    knob_name: ClassVar[str] = "steps"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    @property
    @override
    def other(self) -> LanguageModel:
        return self.student

    @override
    def check_knob(self, knob: float) -> None:
        check_count("steps", knob, 0)

    @override
    def actors(self, setting: Setting) -> Actors:
        task, generator = setting.task, setting.generator("noise", self.kind)
        assert task is not None
        path = Distillation(setting.other, setting.base, task.prompts, task.tree, self.learning_rate, generator)
        reference = CausalLM(setting.base)
        return lambda steps: (reference, CausalLM(path.after(int(steps))))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        stop = 1
        while stop < MAX_STEPS and target.kl_at(stop) > target.value:
            stop *= 2
        return target.nearest_ordered(range(stop, -1, -1))


@dataclass(frozen=True, kw_only=True)
class SeparateActor(ActorSource):
    """An actor on the geometric path from the policy to any other model, prefix by prefix.

    log q = (1 − s)·log p + s·log a, renormalised, as in `ActorFile`: at every prefix KL(p‖q) grows with s.

    Attributes:
        actor: the other model a. One that starts at random is first trained on the same small language as the policy,
            from weights and batches of its own.
        share: s in [0, 1]. 0 is the policy and 1 the other model, both unchanged.
    """

    kind: Literal["separate"] = "separate"
    actor: LanguageModel = field(default_factory=TinyQwen3, metadata=BY_KIND)
    share: float | None = None

    knob_name: ClassVar[str] = "share"
    learns_the_language: ClassVar[bool] = True

    @property
    @override
    def other(self) -> LanguageModel:
        return self.actor

    @override
    def check_knob(self, knob: float) -> None:
        check_share("share", knob)

    @override
    def actors(self, setting: Setting) -> Actors:
        reference, other = CausalLM(setting.base), CausalLM(setting.other)
        return lambda share: (reference, GeometricMixture(reference, other, share))

    @override
    def solve(self, target: Target, setting: Setting) -> float:
        return target.on_ray(1.0)


@dataclass(frozen=True, eq=False)
class GeometricMixture:
    """A `Scorer` whose law at every prefix lies on the geometric path between those of two others."""

    first: Scorer
    second: Scorer
    share: float

    def log_probs(self, prompts: Ints, tree: PrefixTree) -> Floats:
        """log q(x|s) after every prompt, (prompts, prefixes, vocab), nats."""
        return self._between(lambda each: each.log_probs(prompts, tree))

    def log_probs_along(self, prompt: Ints, tokens: Ints) -> Floats:
        """log q(x|s) at the prefixes of given tokens (n, length), (n, length, vocab), nats."""
        return self._between(lambda each: each.log_probs_along(prompt, tokens))

    def draw(self, prompt: Ints, uniforms: Floats, end_token: int | None) -> tuple[Ints, Flags]:
        """Tokens and mask from uniforms, all of shape (n, length); each step reads its prefixes anew."""
        check_reals(uniforms, "uniforms", "n", "length")
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
        return np.asarray(log_softmax((1 - self.share) * table(self.first) + self.share * table(self.second)))
