"""The base classes of the mismatch families of independent states.

A family draws its noise once and gives the two laws as a function of its knob. The base law and the advantage are
keyed by (seed, base law), the noise by these and the family's kind, never by the knob. So one noise direction is
scaled, curves over a knob are smooth, and a sweep over more knobs changes none of the others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar, TypeAlias

import numpy as np
from typing_extensions import override

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.fields import BY_KIND
from jackpot_sim.environments.knobs import OneKnob
from jackpot_sim.environments.policy_pair import PolicyPair, Realised
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs, believed
from jackpot_sim.environments.states.advantage import Advantage, NormalAdvantage
from jackpot_sim.environments.states.base_laws import BaseLaw, Dirichlet
from jackpot_sim.environments.targets import Target
from jackpot_sim.environments.worlds import TARGET_PASSES, Cost, Sizes, World

_SECONDS_PER_TOKEN = 2.5e-9
"""One pass over one token of a table of laws."""
_SECONDS_PER_DRAW = 3e-7
_BUILD_PASSES, _EXACT_PASSES = 8, 60

Laws: TypeAlias = Callable[[float], tuple[Floats, Floats]]
"""knob → (policy_log_probs, actor_log_probs), each (states, vocab) in nats."""


@dataclass(frozen=True, kw_only=True)
class Mismatch(OneKnob):
    """An environment of independent states whose actor differs from its policy by one knob.

    Attributes:
        base: the law of one of the two policies.
        advantage: the worth of tokens.
        log_probs: the log-probs that a trainer gets, see `LogProbs`. The KLs, and the gradient that is wanted, stay
            those of the policy's whole law.
    """

    base: BaseLaw = field(default_factory=Dirichlet, metadata=BY_KIND)
    advantage: Advantage = field(default_factory=NormalAdvantage, metadata=BY_KIND)
    log_probs: LogProbs = LogProbs.PROCESSED

    only_samples: ClassVar[bool] = False
    """True where the actor's model is the policy, and its sampler alone makes the difference."""
    LATER: ClassVar[Mapping[str, object]] = {"log_probs": LogProbs.PROCESSED}
    """Fields that older records do not have, with the values that leave everything as it was without them."""
    world: ClassVar[World] = World.STATES
    sizes: ClassVar[Sizes] = Sizes()

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "log_probs", LogProbs(self.log_probs))
        super().__post_init__()

    @property
    def family(self) -> str:
        """The difference between actor and policy, as records name it."""
        return self.kind

    @property
    def base_kind(self) -> str:
        """The origin of the policies, as records name it."""
        return self.base.kind

    def cost(self) -> Cost | None:
        """A rough estimate of the work; None where only reading the base law's file tells its size."""
        states, vocab = (getattr(self.base, name, None) for name in ("states", "vocab"))
        if states is None or vocab is None:
            return None
        each = states * vocab * _SECONDS_PER_TOKEN
        build = each * _BUILD_PASSES * (1 if self.target_kl is None else TARGET_PASSES)
        return Cost(states * vocab, build, each * _EXACT_PASSES, 0.0, states * _SECONDS_PER_DRAW)

    def build(self, seed: int) -> Realised:
        """The pair that this configuration and `seed` determine.

        Raises:
            ValueError: the base law cannot be built, the knob does not fit its shape, or `target_kl` is unattainable
                (the error gives the attainable range).
        """
        base = self.base.log_probs(keyed_generator(seed, "base", self.base))
        advantage = self.advantage.draw(base, keyed_generator(seed, "advantage", self.base))
        laws = self.laws(base, advantage, seed)

        @cache
        def kl_at(knob: float) -> float:
            policy, actor = laws(knob)
            p, q = (policy, actor) if self.target_divergence == "kl_policy_actor" else (actor, policy)
            return float(np.mean(np.asarray(divergences.kl(p, q))))

        label = f"{self.target_divergence} of {self.kind}"
        knob = self.resolved(lambda target_kl: self.solve(Target(label, target_kl, kl_at), base))
        policy, actor = laws(knob)
        told = believed(self.log_probs, policy, actor, policy if self.only_samples else actor)
        pair = PolicyPair(policy, actor, advantage, told)
        return Realised(pair=pair, knob=float(knob), target_kl=self.target_kl, achieved=kl_at(knob))

    def noise(self, seed: int) -> np.random.Generator:
        """The generator of the noise that the family adds to the base law: the same for every knob."""
        return keyed_generator(seed, "noise", self.base, self.kind)

    @abstractmethod
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        """The two policies as a function of the knob; all noise is drawn before this returns.

        Args:
            base: the base law, log p of shape (states, vocab), nats.
            advantage: A, the same shape.
            seed: that of the environment.
        """

    @abstractmethod
    def solve(self, target: Target, base: Floats) -> float:
        """The knob at which the mean KL meets the target, exactly or as nearly as can be."""


@dataclass(frozen=True, kw_only=True)
class TransformedLaw(Mismatch):
    """A family whose policy is the base law, and whose actor is a function of that law: nothing is drawn."""

    @override
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        actor = self.actor_law(base)
        return lambda knob: (base, actor(knob))

    @abstractmethod
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        """knob → log q, from log p; both of shape (states, vocab), nats."""
