"""The overlap Z(λ) at each token of a dump, from the top-k that it has of both laws."""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.batch import Batch

_ROWS = 2**12
"""The tokens whose top-k are matched at a time."""


def overlap(batch: Batch, lam: float) -> Floats | None:
    """Ẑ(λ), (N,): the calibrated point of the bracket on the tokens that are in both top-k; None without them.

    The share of the bracket is fitted to the tokens of the batch (`core.normalizer.calibrated`).

    Raises:
        ValueError: a top-k has more mass than one.
    """
    actor, policy = batch.table.actor_topk, batch.table.policy_topk
    if actor is None or policy is None:
        return None
    low, high = (np.empty(len(batch.table)) for _ in range(2))
    for start in range(0, len(low), _ROWS):
        rows = slice(start, start + _ROWS)
        low[rows], high[rows] = normalizer.bracket_on_topk(*_on_both(_rows(policy, rows), _rows(actor, rows)), lam)
    accept = obrs.acceptance_probability(batch.log_ratio, lam)
    return np.asarray(normalizer.calibrated(low, high, accept))


def _rows(topk: TopK, rows: slice) -> TopK:
    return TopK(topk.ids[rows], topk.log_probs[rows])


def _on_both(policy: TopK, actor: TopK) -> tuple[Floats, Floats]:
    """log p and log q on the actor's top-k, (rows, k), both −inf at a token that is not in the policy's too."""
    log_p, log_q = (np.asarray(each.log_probs, dtype=np.float64) for each in (policy, actor))
    ours, theirs = np.asarray(policy.ids), np.asarray(actor.ids)
    if not np.array_equal(ours, theirs):
        same = theirs[:, :, None] == ours[:, None, :]
        log_p = np.where(same.any(axis=-1), np.take_along_axis(log_p, np.argmax(same, axis=-1), axis=-1), np.nan)
    both = ~(np.isnan(log_p) | np.isnan(log_q))
    return np.where(both, log_p, -math.inf), np.where(both, log_q, -math.inf)
