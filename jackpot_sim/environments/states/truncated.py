"""Actors that are the policy truncated to its likeliest tokens, as samplers do.

The tokens cut have p > 0 and q = 0: true support violations, KL(policy‖actor) = inf. So a target is one of the other
direction, KL(actor‖policy) = −log p(tokens kept).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_ids, check_numpy, check_reals, check_shape
from jackpot_sim.environments.fields import check_count, check_share
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.states.mismatch import TransformedLaw
from jackpot_sim.environments.targets import Target


class Ranked:
    """Laws of shape (states, vocab) with their tokens ranked from the likeliest on; ties go to the lower id."""

    def __init__(self, log_probs: Floats) -> None:
        check_numpy(log_probs=log_probs)
        check_reals(log_probs, "log_probs", "states", "vocab")
        self.log_probs = log_probs
        self.ids = np.argsort(-log_probs, axis=-1, kind="stable")

    @cached_property
    def tail(self) -> Floats:
        """The mass from each rank on, (states, vocab + 1), summed from the small end: exact where small."""
        ascending = np.exp(np.take_along_axis(self.log_probs, self.ids, axis=-1))[:, ::-1]
        return np.pad(np.cumsum(ascending, axis=-1)[:, ::-1], ((0, 0), (0, 1)))

    def keep(self, count: NDArray[np.int64]) -> Floats:
        """The laws cut to their first `count` ranks, (states,), and renormalised; −inf elsewhere."""
        states, vocab = self.log_probs.shape
        check_shape(check_ids(count, vocab + 1, "count"), (states,), "count", "one number per state")
        inside = np.empty(self.log_probs.shape, dtype=np.bool_)
        np.put_along_axis(inside, self.ids, np.arange(vocab) < count[:, None], axis=-1)
        log_mass = np.log1p(-np.take_along_axis(self.tail, count[:, None], axis=-1))
        return np.where(inside, self.log_probs - log_mass, -np.inf)


@dataclass(frozen=True, kw_only=True)
class TopKTruncation(TransformedLaw):
    """q ∝ p on the k likeliest tokens of each state, 0 elsewhere."""

    kind: Literal["top-k"] = "top-k"
    k: int | None = None

    knob_name: ClassVar[str] = "k"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"
    only_samples: ClassVar[bool] = True

    @override
    def check_knob(self, knob: float) -> None:  # and at most the vocabulary, once the law is known
        check_count("k", knob, 1)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_reals(base, "base", "states", "vocab")
        states, vocab = base.shape
        ranked = Ranked(base)

        def at(k: float) -> Floats:
            check_count("k", k, 1, vocab)
            return ranked.keep(np.full(states, k, dtype=np.int64))

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        # The kept mass grows with k, so the KL falls.
        check_reals(base, "base", "states", "vocab")
        return target.nearest_ordered(range(base.shape[-1], 0, -1))


@dataclass(frozen=True, kw_only=True)
class TopPTruncation(TransformedLaw):
    """q ∝ p on the smallest set of likeliest tokens with mass ≥ p at each state, 0 elsewhere.

    The KL is a step function of p: a state changes only where p passes one of its cumulative masses. So a target gets
    the nearest step, and p is the middle of that step.
    """

    kind: Literal["top-p"] = "top-p"
    p: float | None = None

    knob_name: ClassVar[str] = "p"
    target_divergence: ClassVar[Divergence] = "kl_actor_policy"
    only_samples: ClassVar[bool] = True

    @override
    def check_knob(self, knob: float) -> None:
        check_share("p", knob, zero=False)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_reals(base, "base", "states", "vocab")
        states, vocab = base.shape
        ranked = Ranked(base)

        def at(p: float) -> Floats:
            # A rank is kept iff the ranks before it fall short of p, that is iff the mass from it on
            # exceeds 1 − p, and not by the rounding of the sums alone. p = 1 cuts nothing, not even a token
            # whose mass underflows.
            rounding = 4 * np.finfo(np.float64).eps
            count = np.sum(ranked.tail[:, :-1] > 1 - p + rounding, axis=-1) if p < 1 else np.full(states, vocab)
            return ranked.keep(np.maximum(count, 1))

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        # A larger p keeps more, so the KL falls.
        check_reals(base, "base", "states", "vocab")
        steps = np.unique(np.clip(1 - Ranked(base).tail[:, 1:], 0.0, 1.0))[::-1]
        middles = (steps + np.append(steps[1:], 0.0)) / 2
        candidates: list[float] = [1.0, *middles[middles > 0].tolist()]
        return target.nearest_ordered(candidates)
