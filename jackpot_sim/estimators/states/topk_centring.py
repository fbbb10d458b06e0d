"""The mean term of centred corrections at whole states, and the error of its form from the actor's top-k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jackpot_sim.core import backend
from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import overflow_to_inf, row_blocks, to_numpy
from jackpot_sim.core.checks import check_alike, check_axes, check_pair
from jackpot_sim.core.policy_gradient import gradient_under
from jackpot_sim.estimators.corrections.centring import on_stored
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states.tokens import tokens_of_states


def topk_errors(
    policy_log_probs: Array, actor_log_probs: Array, correction: Correction, ks: Sequence[int]
) -> tuple[Floats, Floats]:
    """‖h‖² of each state, (states,), and ‖h_k − h‖² of its form from k tokens for each k, (states, ks); in logits.

    Args:
        policy_log_probs: log p, shape (states, vocab), nats.
        actor_log_probs: log q, the same shape.
        correction: a correction that fits a table, whose Z, where it needs one, is the exact one in both forms.
        ks: the numbers of tokens stored, each at least 1; a k beyond the vocabulary stores all of it.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: a shape does not fit, a law is not normalised, a k is below 1, or the correction fits no table.
    """
    if not correction.fits_a_table:
        raise ValueError(f"correction must fit a table of states and tokens, and {correction.name} looks at more")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must hold at least one k, each at least 1, got {list(ks)}")
    check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    check_axes(policy_log_probs, "policy_log_probs", "states", "vocab")
    blocks = [
        _of_block(*check_pair(policy_log_probs[rows, :], actor_log_probs[rows, :]), correction, ks)
        for rows in row_blocks(*policy_log_probs.shape)
    ]
    return np.concatenate([each[0] for each in blocks]), np.concatenate([each[1] for each in blocks])


def _of_block(log_p: Array, log_q: Array, correction: Correction, ks: Sequence[int]) -> tuple[Floats, Floats]:
    tokens = tokens_of_states(log_p, log_q, correction)
    with overflow_to_inf():
        pair = correction.weights(tokens)
    likeliest, ids = backend.topk(log_q, max(ks))
    stored, at_ids = to_numpy(ids), backend.namespace(log_p).take_along_axis(log_p, ids, axis=-1)
    p, q, one = np.exp(to_numpy(log_p)), np.exp(to_numpy(log_q)), np.ones(log_p.shape)
    law = np.where(q > 0, q * np.where(q > 0, to_numpy(pair.expected()), 0.0), 0.0)
    overlap = None if tokens.overlap is None else tokens.overlap[..., 0]
    errors = []
    for k in (min(k, log_p.shape[-1]) for k in ks):
        found = to_numpy(on_stored(correction, at_ids[:, :k], likeliest[:, :k], overlap=overlap))
        miss = -law
        np.put_along_axis(miss, stored[:, :k], found + np.take_along_axis(miss, stored[:, :k], -1), -1)
        errors.append(_norm_sq(gradient_under(miss, p, one)))
    return _norm_sq(gradient_under(law, p, one)), np.stack(errors, axis=-1)


def _norm_sq(vectors: Array) -> Floats:
    return np.asarray(np.sum(to_numpy(vectors) ** 2, axis=-1), dtype=np.float64)
