"""Draws of tokens from uniforms, so that two backends can replay the same draws."""

from __future__ import annotations

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import floating, namespace, searchsorted
from jackpot_sim.core.checks import check_log_probs, check_same_states


def categorical(log_probs: Array, uniforms: Array) -> Array:
    """Token ids by inversion of the cumulative law: the first i with P(token ≤ i) > u.

    Args:
        log_probs: shape (..., vocab), nats.
        uniforms: numbers in [0, 1), shape (..., draws), one per draw.

    Returns:
        Ids, int64, shape (..., draws). A token of probability 0 is never drawn.

    Raises:
        ValueError: a law is not normalised, a uniform lies outside [0, 1), or the leading shapes differ.
    """
    log_probs = check_log_probs(log_probs, "log_probs")
    xp = namespace(log_probs, uniforms)
    uniforms = floating(uniforms, "uniforms")
    check_same_states(log_probs, uniforms, "log_probs", "uniforms")
    if not bool(xp.all((uniforms >= 0) & (uniforms < 1))):
        raise ValueError("uniforms must lie in [0, 1)")
    # In float32 a running sum over a large vocabulary would lose the unlikely tokens.
    cumulative = xp.cumulative_sum(xp.exp(xp.astype(log_probs, xp.float64)), axis=-1)
    # The last entry misses 1 by rounding; u scaled by it stays below it, so that the drawn token has mass.
    total = cumulative[..., -1:]
    ids = searchsorted(cumulative, xp.astype(uniforms, xp.float64) * total, side="right")
    return xp.astype(ids, xp.int64)
