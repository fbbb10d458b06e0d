"""The law that a sampler draws from: the model's law after temperature, then top-k, then top-p.

A server may return log-probs of the model's own law, or of the law that it sampled from. Only the latter are those of
the actor: a ratio against the former is wrong wherever a token was cut, and at any temperature but 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace, topk_mask
from jackpot_sim.core.checks import check_reals
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_positive, check_share


@dataclass(frozen=True, kw_only=True)
class SamplingLaw:
    """The options of a sampler, applied in the order of transformers and of inference servers.

    Attributes:
        temperature: the divisor of the logits.
        top_k: the number of likeliest tokens kept, ties going to the lower id; None keeps all.
        top_p: the least mass of the set of likeliest tokens kept, after top-k.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if self.temperature == 0:
            raise ValueError("temperature is 0: greedy decoding has no law to reweigh; give a temperature above 0")
        check_positive("temperature", self.temperature)
        if self.top_k is not None:
            check_count("top_k", self.top_k, 1)
        check_share("top_p", self.top_p, zero=False)

    @property
    def is_plain(self) -> bool:
        """True if the law is the model's own."""
        return self.temperature == 1 and self.top_k is None and self.top_p == 1

    @property
    def cuts(self) -> bool:
        """True if tokens may be cut."""
        return self.top_k is not None or self.top_p < 1

    def log_probs(self, logits: Array, *, single: bool = False) -> Array:
        """Log-probs of the law that is sampled from, shape (..., vocab), nats; −inf on tokens that are cut.

        Args:
            logits: shape (..., vocab), of any floating dtype.
            single: whether to compute in float32 instead of float64, for half the memory.

        Raises:
            TypeError: logits are no real floating numbers.
            ValueError: a logit is NaN or +inf, or a whole row is −inf.
        """
        xp = namespace(check_reals(logits, "logits"))
        scores = xp.astype(logits, xp.float32 if single else xp.float64)
        law = log_softmax(scores if self.temperature == 1 else scores / self.temperature)
        if self.top_k is not None and self.top_k < law.shape[-1]:
            law = _cut_to(law, topk_mask(law, self.top_k))
        if self.top_p < 1:
            law = _cut_to(law, _nucleus(law, self.top_p))
        return law


def _nucleus(law: Array, mass: float) -> Array:
    """True on the smallest set of likeliest tokens with at least this mass, and on one token at least."""
    xp = namespace(law)
    ascending = xp.sort(law, axis=-1)
    # A token is kept iff the likelier ones fall short, that is iff the mass up to it exceeds the rest.
    short = xp.cumulative_sum(xp.exp(ascending), axis=-1) <= 1 - mass
    cut = xp.sum(xp.astype(short[..., :-1], xp.int64), axis=-1, keepdims=True)
    least = xp.take_along_axis(ascending, cut, axis=-1)
    above, tied = law > least, law == least
    room = law.shape[-1] - cut - xp.sum(xp.astype(above, xp.int64), axis=-1, keepdims=True)
    return above | (tied & (xp.cumulative_sum(xp.astype(tied, xp.int64), axis=-1) <= room))


def _cut_to(law: Array, kept: Array) -> Array:
    return log_softmax(namespace(law).where(kept, law, -math.inf))
