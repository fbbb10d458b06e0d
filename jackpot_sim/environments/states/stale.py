"""A stale actor: the policy has been updated since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_reals, check_same_shape
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.states.mismatch import Laws, Mismatch
from jackpot_sim.environments.targets import Target

MAX_STEPS = 1 << 13
"""The most steps that the search for a target tries; a larger learning rate gets further."""


@dataclass(frozen=True, kw_only=True)
class StaleLogits(Mismatch):
    """Actor: the base law. Policy: the actor after `steps` exact policy-gradient steps on its logits.

    logits += learning_rate · p(A − E_p[A]), the gradient of E_p[A] at each state, with the drawn advantage as a fixed
    reward. The pair keeps A as it was drawn: centring it anew under the policy would make the advantage depend on the
    knob.

    The KL grows with the steps as long as training goes on to new ground. That is no theorem, and a huge learning
    rate can oscillate; a target then gets the nearer of two successive steps that straddle it.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1.0

    knob_name: ClassVar[str] = "steps"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    @override
    def check_knob(self, knob: float) -> None:
        check_count("steps", knob, 0)

    @override
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        check_reals(base, "base", "states", "vocab")
        check_same_shape(base, check_reals(advantage, "advantage"), "base", "advantage")
        ascent = Ascent(base, advantage, self.learning_rate)
        return lambda steps: (ascent.log_probs_after(int(steps)), base)

    @override
    def solve(self, target: Target, base: Floats) -> float:
        return target.nearest_growing(MAX_STEPS)


class Ascent:
    """The path of exact policy-gradient ascent; it goes on from the nearest step that was asked for before."""

    def __init__(self, start: Floats, reward: Floats, learning_rate: float) -> None:
        check_same_shape(
            check_reals(start, "start", "states", "vocab"), check_reals(reward, "reward"), "start", "reward"
        )
        self._start, self._reward, self._learning_rate = start, reward, learning_rate
        self._logits_after = {0: start}

    def log_probs_after(self, steps: int) -> Floats:
        """The laws after so many steps, log p of shape (states, vocab), nats."""
        if steps == 0:
            return self._start
        nearest = max(known for known in self._logits_after if known <= steps)
        logits = self._logits_after[nearest].copy()
        for _ in range(steps - nearest):
            p = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
            p /= np.sum(p, axis=-1, keepdims=True)
            baseline = np.vecdot(p, self._reward)[:, None]
            logits += self._learning_rate * p * (self._reward - baseline)
        self._logits_after[steps] = logits
        return np.asarray(log_softmax(logits))
