"""The mean term of a centred correction from the tokens that a rollout stores of each state.

A centred correction subtracts h = Σ_v q(v)·a(v)·w(v)·∇log p(v), a sum over the vocabulary, of which a rollout stores
the k likeliest tokens H of the actor. The other tokens are taken for one, the tail, with the rest of each law's mass
(arXiv 2609.20807): there a·w is f, its value at the ratio of the two rests, and as Σ_v p·∇log p = 0

    h ≈ Σ_H (q·a·w − α·p)·∇log p   with   α = ρ·f(1/ρ),   ρ = (1 − q(H))/(1 − p(H)).

Both rests are at least `TAIL_FLOOR`, as in trainers: a smaller one would be rounding. Where H is the whole vocabulary
the form is exact, whatever α is. Where the stored law of the actor ends in −inf, no token of it is left, and α is 0.
"""

from __future__ import annotations

import math

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import as_array, floating, namespace, overflow_to_inf
from jackpot_sim.core.checks import check_alike, check_at_most_one, check_shape, require_vocabulary
from jackpot_sim.core.numerics import log_ratio, mul_exp
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import Tokens

TAIL_FLOOR = 1e-6
"""The least mass of a tail."""

_SPREAD = 60.0
"""The nats by which a token of the tail is less likely than the tail: it stands for many, each next to impossible.

A correction that looks at probabilities, as a mask on p − q does, sees none of weight there.
"""


def with_tail(log_probs: Array, widened_from: Array | None = None) -> Array:
    """The log-probs of stored tokens, (..., k), and that of their tail after them, (..., k + 1), nats.

    Args:
        log_probs: the log-probs.
        widened_from: the array of a smaller dtype that they were before, whose rounding their sum still has.

    Raises:
        TypeError: the log-probs are no real floating numbers.
        ValueError: there is no token, or one has NaN, or they add up to more than 1.
    """
    log_probs = floating(log_probs, "log_probs")
    require_vocabulary(log_probs, "log_probs")
    xp = namespace(log_probs)
    mass = xp.sum(xp.exp(log_probs), axis=-1, keepdims=True)
    check_at_most_one(mass if widened_from is None else xp.astype(mass, widened_from.dtype), "log_probs")
    rest = xp.maximum(1 - mass, as_array(TAIL_FLOOR, mass))
    return xp.concat([log_probs, xp.log(rest)], axis=-1)


def expected_with_tail(
    correction: Correction,
    policy_log_probs: Array,
    actor_log_probs: Array,
    *,
    overlap: Array | None = None,
    advantages: Array | None = None,
    log_reference_ratio: Array | None = None,
) -> Array:
    """a·w of stored tokens and of their tail, (..., k + 1); 0 where the actor has no probability.

    Args:
        correction: a correction of single tokens, centred or not.
        policy_log_probs: log p of the target, `with_tail`, (..., k + 1), nats.
        actor_log_probs: log q, likewise.
        overlap: Z(correction.overlap_lam) of each state, (...), where the correction needs it.
        advantages: A of the token that was drawn at each state, (...), where the correction looks at its sign.
        log_reference_ratio: log p_ref − log p_new, (..., k + 1), where the target is p_new.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: the correction looks at more than single tokens, a shape differs, or as `Correction.weights`.
    """
    if not correction.is_per_token:
        raise ValueError(f"{correction.name} looks at more than single tokens: there is no mean term of a state")
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    ratio = log_ratio(policy_log_probs, actor_log_probs)
    xp = namespace(ratio)
    for name, given in (("overlap", overlap), ("advantages", advantages)):
        if given is not None:
            check_shape(floating(given, name), tuple(ratio.shape[:-1]), name, "one number per state")
    spread = xp.concat([xp.zeros_like(ratio[..., :-1]), xp.full_like(ratio[..., -1:], _SPREAD)], axis=-1)
    with overflow_to_inf():
        pair = correction.weights(
            Tokens(
                ratio,
                policy_log_probs=policy_log_probs - spread,
                actor_log_probs=actor_log_probs - spread,
                overlap=None if overlap is None else overlap[..., None],
                advantages=None if advantages is None else advantages[..., None],
                log_reference_ratio=log_reference_ratio,
            )
        )
    return xp.where(actor_log_probs > -math.inf, pair.expected(), 0.0)


def coefficients(expected: Array, policy_log_probs: Array, actor_log_probs: Array) -> Array:
    """q·a·w − α·p of the stored tokens, (..., k): the coefficients of ∇log p in h.

    Args:
        expected: a·w, as `expected_with_tail` gives it, (..., k + 1).
        policy_log_probs: log p of the law of which the gradient is taken, `with_tail`, (..., k + 1), nats.
        actor_log_probs: log q, likewise.

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: a shape differs.
    """
    check_alike(expected=expected, policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    xp = namespace(expected)
    with overflow_to_inf():
        law = mul_exp(expected, actor_log_probs)
    ended = xp.any(actor_log_probs == -math.inf, axis=-1, keepdims=True)
    alpha = xp.where(ended, 0.0, law[..., -1:] * xp.exp(-policy_log_probs[..., -1:]))
    return law[..., :-1] - alpha * xp.exp(policy_log_probs[..., :-1])


def on_stored(
    correction: Correction,
    policy_log_probs: Array,
    actor_log_probs: Array,
    *,
    overlap: Array | None = None,
    advantages: Array | None = None,
) -> Array:
    """The coefficients of ∇log p in h from the stored tokens alone, (..., k), where p_ref and p_new are one.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([0.5, 0.2]), np.log([0.6, 0.3])
    >>> on_stored(estimators.get("none"), p, q).round(3)  # ρ = 1/3: 0.6 − 0.5/3 and 0.3 − 0.2/3
    array([0.433, 0.233])

    Args:
        correction: a correction of single tokens, centred or not.
        policy_log_probs: log p of the stored tokens, (..., k), nats.
        actor_log_probs: log q of the same tokens, the same shape.
        overlap: as in `expected_with_tail`.
        advantages: as in `expected_with_tail`.

    Raises:
        TypeError: as `expected_with_tail`.
        ValueError: as `with_tail` and `expected_with_tail`.
    """
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    policy, actor = with_tail(policy_log_probs), with_tail(actor_log_probs)
    expected = expected_with_tail(correction, policy, actor, overlap=overlap, advantages=advantages)
    return coefficients(expected, policy, actor)
