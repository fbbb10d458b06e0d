"""The MSE of a mask as a function of its threshold, which is constant between two tokens' own thresholds.

A mask that keeps more tokens the larger its threshold is changes only where a token enters (`Correction.kept_from`).
With the tokens of a state in the order in which they enter, cumulated sums give the state's part of the MSE after each;
added up over the states they give the MSE on every piece, with the `proposed` denominator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import overflow_to_inf, to_numpy
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import given
from jackpot_sim.estimators.states.quadratics import nearly_least
from jackpot_sim.estimators.states.sorted_state import SortedState, Update
from jackpot_sim.estimators.states.tokens import tokens_of_states

_APART = 1e-9
"""The relative distance from a token's own threshold at which rounding does not decide whether it is kept."""


def thresholds(
    laws: tuple[Array, Array, Array], states: Iterable[SortedState], correction: Correction, n_samples: int
) -> Floats:
    """Thresholds inside the pieces with the least MSE, those whose MSEs differ by rounding alone.

    Each is the geometric middle of its piece; a little above the largest break where all tokens are to be kept, and a
    little below the least where none are. It is empty where no token's mask depends on a positive threshold.

    Args:
        laws: log p, log q and A, shape (..., vocab), whose states are `states`.
        states: the states, sorted.
        correction: a mask with `kept_from`.
        n_samples: proposals per state.
    """
    first, found, steps = 0.0, [], []
    rows = zip(*(np.asarray(to_numpy(x), dtype=np.float64).reshape(-1, x.shape[-1]) for x in laws), strict=True)
    for row, state in zip(rows, states, strict=True):
        enters, costs = _of_state(row, state, correction, n_samples)
        first += float(costs[0])
        found.append(enters)
        steps.append(np.diff(costs))
    enters, step = np.concatenate(found), np.concatenate(steps)
    first += float(step[enters <= 0].sum())
    step, enters = step[enters > 0], enters[enters > 0]
    if not enters.size:
        return enters
    order = np.argsort(enters)
    enters, costs = enters[order], np.append(first, first + np.cumsum(step[order]))
    low, high = np.append(0.0, enters), np.append(enters, math.inf)
    # Tokens that enter together, but for rounding, leave no room between them.
    costs = np.where(high > low * (1 + 2 * _APART), costs, math.inf)
    at = nearly_least(costs, float(np.abs(costs[np.isfinite(costs)]).max(initial=0.0)))
    middle = np.sqrt(low[at] * np.where(np.isinf(high[at]), 1.0, high[at]))
    inside: Floats = np.where(
        at == len(enters), low[at] * (1 + _APART), np.where(at > 0, middle, high[at] * (1 - _APART))
    )
    return inside


def _of_state(
    laws: tuple[Floats, ...], state: SortedState, correction: Correction, n_samples: int
) -> tuple[Floats, Floats]:
    """The thresholds at which tokens enter, ascending, (tokens,), and ‖ĝ − g‖² + V/n after each, (tokens + 1,)."""
    log_p, log_q, advantage = laws
    tokens = correction.checked(tokens_of_states(log_p[None], log_q[None], correction, advantage[None]))
    p, q, top = np.exp(log_p), np.exp(log_q), int(np.argmax(log_p))
    with overflow_to_inf():
        weight = np.asarray(correction.pair(tokens).weight)[0]
        enters = np.asarray(given(correction.kept_from(tokens)))[0]
    chosen = np.flatnonzero((q >= np.finfo(np.float64).smallest_normal) & np.isfinite(np.maximum(enters, 0.0)))
    chosen = chosen[np.argsort(enters[chosen], kind="stable")]
    p, q, advantage, weight = p[chosen], q[chosen], advantage[chosen], weight[chosen]
    law, likeliest = q * weight, chosen == top
    terms, squares = np.where(likeliest, 0.0, law * advantage), law * weight
    estimate = Update(
        _lead(np.where(likeliest, law * advantage, 0.0)),
        *(_lead(x) for x in (terms, terms * p, terms * advantage * p, terms**2)),
    )
    a_sq = np.where(likeliest, 0.0, squares * advantage**2)
    second_moment = state.feature_sq(_lead(np.where(likeliest, squares, 0.0)), _lead(a_sq), _lead(a_sq * p))
    noise = second_moment - state.norm_sq(estimate)
    return enters[chosen], state.norm_sq(state.error(estimate)) + noise / n_samples


def _lead(values: Floats) -> Floats:
    """Sums of the first 0, 1, … values."""
    return np.append(0.0, np.cumsum(values))
