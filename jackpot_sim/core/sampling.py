"""Drawing tokens from uniforms, so that two backends can replay the same draws."""

from __future__ import annotations

import array_api_extra as xpx

from jackpot_sim.core.backend import Array, namespace
from jackpot_sim.core.numerics import check_log_probs


def categorical(log_probs: Array, uniforms: Array) -> Array:
    """Token ids by inversion of the cumulative law: the first i with P(token ≤ i) > u.

    Args:
        log_probs: shape (..., vocab), nats.
        uniforms: numbers in [0, 1), shape (..., draws), one per token wanted.

    Returns:
        Ids, int64, shape (..., draws). A token of probability 0 is never drawn.

    Raises:
        ValueError: a law is not normalised, or a uniform lies outside [0, 1).
    """
    log_probs = check_log_probs(log_probs, "log_probs")
    xp = namespace(log_probs, uniforms)
    if not bool(xp.all((uniforms >= 0) & (uniforms < 1))):
        raise ValueError("uniforms must lie in [0, 1)")
    cumulative = xp.cumulative_sum(xp.exp(log_probs), axis=-1)
    # The last entry misses 1 by rounding: measured in its units, u = 1 − ε still finds a token.
    total = cumulative[..., -1:]
    ids = xpx.searchsorted(cumulative, uniforms * total, side="right")
    last = xp.min(xpx.searchsorted(cumulative, total, side="left"), axis=-1, keepdims=True)
    return xp.astype(xp.minimum(ids, last), xp.int64)
