"""Bounds on whole laws from the top-k of both: the overlap in a bracket, and KL from below.

Of a token's two laws, K is the set of tokens whose log-prob is known on both sides: those in both top-k, and the token
drawn. Where a dump has the top-k of one side alone, K is the token drawn, and the bracket is wide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jackpot_sim.core import divergences, log_ratios, normalizer
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.numerics import log_ratio
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.table import TokenTable

_ROWS = 2**12
"""The tokens whose top-k are matched at a time."""
_MASS = 1e-4
"""The largest excess over 1 of what rounding may make of the mass of a top-k."""
_ROUNDING = 1e-6
"""The error of a mass that is a sum of probabilities stored as float32."""


class Laws(NamedTuple):
    """Figures of the two laws at each token, (N,); nan where no top-k is known, or where it has more mass than one."""

    overlap_low: Floats
    """Σ_K min(p, q) ≤ Z."""
    overlap_high: Floats
    """Z ≤ Σ_K min(p, q) + min(1 − p(K), 1 − q(K))."""
    kl_low: Floats
    """KL(q‖p) ≥ its sum over K and the rest as one token, nats."""
    kl_reverse_low: Floats
    """KL(p‖q), likewise."""
    kl: Floats
    """KL(q‖p), nats, over the tokens of both top-k exactly, plus k3 of the token drawn if it is none of them: unbiased.

    It needs the ids of the tokens drawn.
    """

    @property
    def known(self) -> Flags:
        """The tokens of which anything is known, (N,)."""
        return ~np.isnan(self.overlap_low)


def laws(table: TokenTable, policy_log_probs: Floats, actor_log_probs: Floats) -> Laws | None:
    """The figures at each token of a table; None where it has no top-k."""
    if table.actor_topk is None and table.policy_topk is None:
        return None
    empty = TopK(np.zeros((len(table), 1), dtype=np.int32), np.full((len(table), 1), np.nan, dtype=np.float32))
    policy, actor = table.policy_topk or empty, table.actor_topk or empty
    parts = []
    for start in range(0, len(table), _ROWS):
        rows = slice(start, start + _ROWS)
        token = None if table.token is None else table.token[rows]
        both = _matched(_side(policy, rows), _side(actor, rows), token, policy_log_probs[rows], actor_log_probs[rows])
        parts.append(_figures(both, token is not None, policy_log_probs[rows] - actor_log_probs[rows]))
    return Laws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class _Side(NamedTuple):
    """The top-k of one law at some tokens, (n, k): ids, and log-probs, nan where there are none."""

    ids: Ints
    log_probs: Floats


class _Both(NamedTuple):
    """The known parts of both laws at some tokens."""

    log_p: Floats
    """On K, (n, m); −inf elsewhere."""
    log_q: Floats
    in_both: Flags
    """The members of K that are in both top-k, (n, m)."""
    drawn_in_both: Flags
    """True where the token drawn is, (n,)."""
    valid: Flags
    """True where a top-k is there and neither law has more mass than one, (n,)."""


def _side(topk: TopK, rows: slice) -> _Side:
    ids, log_probs = (np.asarray(each)[rows] for each in (topk.ids, topk.log_probs))
    return _Side(ids.astype(np.int64), log_probs.astype(np.float64))


def _matched(policy: _Side, actor: _Side, token: Ints | None, log_p: Floats, log_q: Floats) -> _Both:
    """The members of K by sorting both sets of ids together: equal neighbours are in both."""
    width = actor.ids.shape[1] + 1
    ids, log_probs = [], []
    for side, own, absent in ((actor, log_q, -1), (policy, log_p, -2)):
        # What is not there gets a number that no token has; −inf may be padding, whose id says nothing.
        there = side.log_probs > -np.inf
        inside = np.where(there, side.ids, absent)
        drawn = np.full(len(own), absent) if token is None else token
        drawn = np.where((inside == drawn[:, None]).any(axis=1), absent, drawn)
        ids += [inside, drawn[:, None]]
        log_probs += [np.where(there, side.log_probs, -np.inf), own[:, None]]
    everything, values = np.concatenate(ids, axis=1), np.concatenate(log_probs, axis=1)
    order = np.argsort(everything, axis=1, kind="stable")
    ordered = np.take_along_axis(everything, order, axis=1)
    first, second = order[:, :-1], order[:, 1:]
    match = (ordered[:, :-1] == ordered[:, 1:]) & (ordered[:, 1:] >= 0) & (first < width) & (second >= width)
    on_q, on_p = (np.where(match, np.take_along_axis(values, at, axis=1), -np.inf) for at in (first, second))
    in_both = match & (first != width - 1) & (second != everything.shape[1] - 1)
    drawn_in_both = np.zeros(len(log_p), dtype=bool)
    if token is not None:
        drawn_in_both = (in_both & (ordered[:, 1:] == token[:, None])).any(axis=1)
    some = np.any([(side.log_probs > -np.inf).any(axis=1) for side in (actor, policy)], axis=0)
    masses = [np.exp(each).sum(axis=1) for each in (on_p, on_q)]
    masses += [np.nansum(np.exp(side.log_probs), axis=1) for side in (actor, policy)]
    light = np.all([mass <= 1 + _MASS for mass in masses], axis=0)
    return _Both(on_p, on_q, in_both, drawn_in_both, some & light)


def _figures(both: _Both, drawn_is_known: bool, ratio: Floats) -> Laws:
    valid = both.valid
    if not valid.any():
        return Laws(*(np.full(len(valid), np.nan) for _ in Laws._fields))
    log_p, log_q = both.log_p[valid], both.log_q[valid]
    # As float32, whose rounding a mass near 1 is allowed.
    low, high = normalizer.bracket_on_topk(*(each.astype(np.float32) for each in (log_p, log_q)))
    forward, backward = (_terms(*pair) for pair in ((log_q, log_p), (log_p, log_q)))
    rest_p, rest_q = (1 - np.exp(each).sum(axis=1) for each in (log_p, log_q))
    exact = np.where(both.in_both[valid], forward, 0.0).sum(axis=1)
    outside = np.where(both.drawn_in_both[valid], 0.0, np.asarray(log_ratios.k3(ratio[valid])))
    figures = (
        np.asarray(low, dtype=np.float64),
        np.asarray(high, dtype=np.float64),
        forward.sum(axis=1) + _rest(rest_q, rest_p),
        backward.sum(axis=1) + _rest(rest_p, rest_q),
        exact + outside if drawn_is_known else np.full(len(log_p), np.nan),
    )
    return Laws(*(_spread(each, valid) for each in figures))


def _terms(first: Floats, second: Floats) -> Floats:
    """a log(a/b) − a + b of each token from log a and log b."""
    return np.asarray(divergences.kl_terms(first, log_ratio(first, second), second))


def _rest(first: Floats, second: Floats) -> Floats:
    """a log(a/b) − a + b of the masses outside K, less their rounding, which may be all that they differ by."""
    gap = np.clip(second - first, -2 * _ROUNDING, 2 * _ROUNDING)
    a, b = np.maximum(first + gap / 2, 0.0), np.maximum(second - gap / 2, 0.0)
    with np.errstate(divide="ignore"):
        return np.where(np.abs(b - a) > 0, _terms(np.log(a), np.log(b)), 0.0)


def _spread(values: Floats, valid: Flags) -> Floats:
    out = np.full(len(valid), np.nan)
    out[valid] = values
    return out
