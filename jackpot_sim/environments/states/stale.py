"""An actor that is some updates behind: the policy has been trained since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import check_count, check_positive
from jackpot_sim.environments.states.mismatch import Laws, Mismatch
from jackpot_sim.environments.targets import Target

MAX_STEPS = 1 << 13
"""Where the search for a target gives up; a larger learning rate gets further."""


@dataclass(frozen=True, kw_only=True)
class StaleLogits(Mismatch):
    """Actor: the base law. Policy: the actor after `steps` exact policy-gradient steps on its logits.

    logits += learning_rate · p(A − E_p[A]), the gradient of E_p[A] at each state, with the drawn
    advantage as a fixed reward. The pair keeps A as it was drawn: centring it anew under the policy
    would make the advantage depend on the knob.

    The KL grows with the steps as long as training goes on to new ground. That is no theorem, and a
    huge learning rate can oscillate; a target then gets the nearer of two successive steps that
    straddle it.
    """

    kind: Literal["stale"] = "stale"
    steps: int | None = None
    learning_rate: float = 1.0

    knob_name: ClassVar[str] = "steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("learning_rate", self.learning_rate)

    def check_knob(self, knob: float) -> None:
        """An integer ≥ 0."""
        check_count("steps", knob, 0)

    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        """The actor is the base law."""
        ascent = Ascent(base, advantage, self.learning_rate)
        return lambda steps: (ascent.log_probs_after(int(steps)), base)

    def solve(self, target: Target, base: Floats) -> float:
        """The number of steps nearest to the target, the search doubling until it passes it."""
        stop = 1
        while stop < MAX_STEPS and target.kl_at(stop) < target.value:
            stop *= 2
        return target.nearest_ordered(range(stop + 1))


class Ascent:
    """The path of exact policy-gradient ascent; where it has been asked, it goes on from there."""

    def __init__(self, start: Floats, reward: Floats, learning_rate: float) -> None:
        self._start, self._reward, self._learning_rate = start, reward, learning_rate
        self._logits_after = {0: start}

    def log_probs_after(self, steps: int) -> Floats:
        """The laws after so many steps, log p of shape (states, vocab)."""
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
        out: Floats = log_softmax(logits)
        return out
