"""Exact figures of corrections at the states that rollouts visit, a few states at a time.

At a state with laws p and q the acceptance rate and the KLs of a correction of single tokens are exact; only the
visited states are sampled. Nothing of the size of states × vocabulary is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jackpot_sim.core import divergences
from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.backend import floating, namespace, on_host, overflow_to_inf, row_blocks, to_numpy
from jackpot_sim.core.checks import (
    check_alike,
    check_axes,
    check_ids,
    check_integers,
    check_numpy,
    check_pair,
    check_shape,
)
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.core.weighted_laws import kl_to_weighted
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states.tokens import StateTokens


class AtState(NamedTuple):
    """Figures of a correction at each state; arrays of shape (states,)."""

    acceptance_rate: Array
    """E_q[a]."""
    kl_accepted: Array
    """KL(p‖q̃) of the accepted tokens' law q̃ ∝ q·a, nats; nan where nothing is accepted."""
    kl_effective: Array
    """KL(p‖q_w) of the effective law of the weighted update, q_w ∝ q·a·w, nats."""


def at_states(
    policy_log_probs: Array,
    actor_log_probs: Array,
    believed_log_probs: Array,
    kl: Array,
    correction: Correction,
    believed_policy_log_probs: Array | None = None,
) -> AtState:
    """The exact figures of a correction of single tokens at each state.

    Args:
        policy_log_probs: log p, shape (states, vocab), nats.
        actor_log_probs: log q of the law that is sampled from, the same shape.
        believed_log_probs: log q as the correction sees it, the same shape; it differs from the law that is sampled
            from where a recording error is studied.
        kl: KL(p‖q) at each state, shape (states,), nats: the KL of a correction that leaves the law unchanged.
        correction: a correction that fits a table and whose parameters are numbers.
        believed_policy_log_probs: log p as the correction sees it, the same shape; None: log p.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: a shape does not fit, or the correction fits no table.
    """
    told = policy_log_probs if believed_policy_log_probs is None else believed_policy_log_probs
    laws = {"actor_log_probs": actor_log_probs, "believed_log_probs": believed_log_probs}
    check_alike(policy_log_probs=policy_log_probs, **laws, believed_policy_log_probs=told)
    check_axes(policy_log_probs, "policy_log_probs", "states", "vocab")
    namespace(policy_log_probs, floating(kl, "kl"))
    check_shape(kl, tuple(policy_log_probs.shape[:1]), "kl", "one number per state")
    pair = TwoLaws(policy_log_probs, actor_log_probs)
    return _at(_Kls(pair), StateTokens(TwoLaws(told, believed_log_probs)), kl, correction)


class _Kls:
    """KLs from the policy to weighted laws of the actor; corrections that share a weight share its KL."""

    def __init__(self, pair: TwoLaws) -> None:
        self.pair = pair
        self._known: list[tuple[Array, Array]] = []

    def to(self, weight: Array) -> Array:
        """`TwoLaws.kl_to` of a weight, (states,), nats."""
        for known, kl in self._known:
            # A look at every token is far cheaper than the logarithms of a KL.
            if bool(namespace(weight).all(known == weight)):
                return kl
        self._known.append((weight, self.pair.kl_to(weight)))
        return self._known[-1][1]


def _at(kls: _Kls, believed: StateTokens, kl: Array, correction: Correction) -> AtState:
    """The figures of `at_states`, from the laws at work and the tokens as the correction sees them."""
    if not correction.fits_a_table:
        raise ValueError(f"correction must fit a table of states and tokens, and {correction.name} looks at more")
    xp, q = namespace(kls.pair.q), kls.pair.q
    with overflow_to_inf():
        accept, weight = correction.weights(believed.of(correction))
    live = q > 0
    if not bool(xp.all(live)):
        accept, weight = (xp.where(live, each, 0.0) for each in (accept, weight))
    keeps_all, weighs_none = (bool(xp.all((each == 1.0) | ~live)) for each in (accept, weight))
    kl_accepted = kl if keeps_all else kls.to(accept)
    return AtState(
        xp.sum(q * accept, axis=-1),
        kl_accepted,
        kl_accepted if weighs_none else _kl_effective(kls, accept, weight),
    )


def _kl_effective(kls: _Kls, accept: Array, weight: Array) -> Array:
    if bool(namespace(weight).max(weight) < math.inf):
        return kls.to(accept * weight)
    return kl_to_weighted(kls.pair.log_p, kls.pair.log_q, accept, weight)


class Visited:
    """The figures at every token of n rollouts; arrays of shape (n, length), 0 where there is no token.

    Attributes:
        divergences: the divergences, by the names of `divergences.BY_NAME`.
        overlap: Z(λ) between the laws as corrections see them, by λ.
        at: the figures of each correction, in their order; None for corrections that fit no table.
        policy_log_probs: log p of the tokens that were written.
        told_log_probs: the same as corrections see it.

    Args:
        tokens: the ids of the tokens that were written, shape (n, length).
        corrections: the corrections to measure.
        lams: each λ at which Z is wanted besides those that the corrections need.

    Raises:
        TypeError: ids or places are not numpy arrays of integers, or as `at_states`.
        ValueError: a shape does not fit, a place lies outside the rollouts, or an id outside the vocabulary.
    """

    def __init__(self, tokens: Ints, corrections: Sequence[Correction], lams: Sequence[float] = ()) -> None:
        check_numpy(tokens=tokens)
        check_axes(check_integers(tokens, "tokens"), "tokens", "n", "length")
        self._tokens, self._corrections = tokens, corrections
        needed = [each.overlap_lam for each in corrections]
        self.overlap = {lam: self._empty() for lam in dict.fromkeys([*lams, *(x for x in needed if x is not None)])}
        self.divergences = {name: self._empty() for name in divergences.BY_NAME}
        self.policy_log_probs, self.told_log_probs = self._empty(), self._empty()
        self.at = [
            AtState(self._empty(), self._empty(), self._empty()) if each.fits_a_table else None for each in corrections
        ]

    def add(
        self,
        sequence: Ints,
        step: Ints,
        policy: Array,
        actor: Array,
        believed: Array,
        believed_policy: Array | None = None,
    ) -> None:
        """Adds the states of a few tokens, at places (rows,), from their laws, (rows, vocab), nats."""
        told = policy if believed_policy is None else believed_policy
        check_alike(policy=policy, actor=actor, believed=believed, believed_policy=told)
        check_axes(policy, "policy", "rows", "vocab")
        check_numpy(sequence=sequence, step=step)
        rows = sequence, step
        for place, below, name in zip(rows, self._tokens.shape, ("sequence", "step"), strict=True):
            check_shape(check_ids(place, below, name), tuple(policy.shape[:1]), name, "one place per row of the laws")
        check_ids(self._tokens[rows], policy.shape[1], "tokens")
        same = believed is actor and told is policy
        policy, actor, believed, told = (on_host(law) for law in (policy, actor, believed, told))
        # A few states at a time, whose temporaries stay in the cache.
        for few in row_blocks(*policy.shape):
            with overflow_to_inf():
                pair = TwoLaws(*check_pair(policy[few, :], actor[few, :]))
                seen = pair if same else TwoLaws(*check_pair(told[few, :], believed[few, :]))
            self._add((sequence[few], step[few]), pair, seen)

    def _add(self, rows: tuple[Ints, Ints], pair: TwoLaws, told: TwoLaws) -> None:
        """Adds states from the laws at work, and from those that the corrections see."""
        tokens, kls = StateTokens(told), _Kls(pair)
        distances = pair.divergences()
        for name, values in distances.items():
            self.divergences[name][rows] = to_numpy(values)
        for lam, overlap in self.overlap.items():
            overlap[rows] = to_numpy(tokens.overlap(lam))
        xp = namespace(pair.log_p)
        chosen = xp.asarray(self._tokens[rows], device=pair.log_p.device)
        for drawn, law in ((self.policy_log_probs, pair.log_p), (self.told_log_probs, told.log_p)):
            drawn[rows] = to_numpy(xp.take_along_axis(law, chosen[:, None], axis=-1)[:, 0])
        for correction, columns in zip(self._corrections, self.at, strict=True):
            if columns is not None:
                at = _at(kls, tokens, distances["kl_policy_actor"], correction)
                for column, values in zip(columns, at, strict=True):
                    column[rows] = to_numpy(values)

    def _empty(self) -> Floats:
        return np.zeros(self._tokens.shape)
