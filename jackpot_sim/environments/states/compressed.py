"""Actors that are a compressed policy: fewer bits, a smaller rank, a shorter context.

The knobs are few integers and the KL need not be monotone in them (rounding and least squares do not minimise it), so
a target is met by trying them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_reals
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import check_count
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.states.mismatch import Laws, Mismatch, TransformedLaw
from jackpot_sim.environments.states.ngram import Ngram
from jackpot_sim.environments.targets import Target

MAX_BITS = 16


@dataclass(frozen=True, kw_only=True)
class QuantizedLogits(TransformedLaw):
    """Log-probs rounded to 2^bits levels, evenly spaced from each state's least finite one to its largest.

    The result is renormalised, and −inf stays −inf.
    """

    kind: Literal["quantized-logits"] = "quantized-logits"
    bits: int | None = None

    knob_name: ClassVar[str] = "bits"

    @override
    def check_knob(self, knob: float) -> None:
        check_count("bits", knob, 1, MAX_BITS)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_reals(base, "base", "states", "vocab")
        high = np.max(base, axis=-1, keepdims=True)
        low = np.min(base, axis=-1, keepdims=True, where=np.isfinite(base), initial=0.0)

        def at(bits: float) -> Floats:
            step = (high - low) / (2**bits - 1)
            step = np.where(step > 0, step, 1.0)  # a uniform state has one level, on which it already lies
            return np.asarray(log_softmax(low + np.rint((base - low) / step) * step))

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        return target.nearest(range(1, MAX_BITS + 1))


@dataclass(frozen=True, kw_only=True)
class LowRank(TransformedLaw):
    """The (states, vocab) matrix of log-probs at its best rank-r approximation: a smaller LM head.

    Each row is centred first, which softmax does not see; the approximation is least squares (SVD), renormalised. At
    full rank the actor is the policy. The base law must have support on every token.
    """

    kind: Literal["low-rank"] = "low-rank"
    rank: int | None = None

    knob_name: ClassVar[str] = "rank"

    @override
    def check_knob(self, knob: float) -> None:  # and at most min(states, vocab), once the law is known
        check_count("rank", knob, 1)

    @override
    def actor_law(self, base: Floats) -> Callable[[float], Floats]:
        check_reals(base, "base", "states", "vocab")
        if not np.all(np.isfinite(base)):
            raise ValueError("low-rank needs a base law that vanishes nowhere, and this one holds log-probs of -inf")
        left, singular, right = np.linalg.svd(base - np.mean(base, axis=-1, keepdims=True), full_matrices=False)
        full = min(base.shape)

        def at(rank: float) -> Floats:
            check_count("rank", rank, 1, full)
            if rank == full:
                return base
            first = slice(0, int(rank))
            return np.asarray(log_softmax((left[:, first] * singular[first]) @ right[first]))

        return at

    @override
    def solve(self, target: Target, base: Floats) -> float:
        check_reals(base, "base", "states", "vocab")
        return target.nearest(range(1, min(base.shape) + 1))


@dataclass(frozen=True, kw_only=True)
class LowerOrder(Mismatch):
    """Policy: an n-gram model of text. Actor: the same model with a shorter context, at the same states."""

    kind: Literal["lower-order"] = "lower-order"
    base: Ngram = field(default_factory=Ngram)
    order: int | None = None

    knob_name: ClassVar[str] = "order"

    @override
    def __post_init__(self) -> None:
        if not isinstance(self.base, Ngram):
            raise ValueError(f"base of lower-order must be an Ngram, got {type(self.base).__name__}")
        super().__post_init__()

    @override
    def check_knob(self, knob: float) -> None:
        check_count("order", knob, 1, self.base.order)

    @override
    def laws(self, base: Floats, advantage: Floats, seed: int) -> Laws:
        check_reals(base, "base", "states", "vocab")
        contexts = self.base.contexts(keyed_generator(seed, "base", self.base))
        return lambda order: (base, self.base.log_probs_at(contexts, int(order)))

    @override
    def solve(self, target: Target, base: Floats) -> float:
        return target.nearest(range(1, self.base.order + 1))
