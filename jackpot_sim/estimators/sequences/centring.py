"""The centred form of a correction along sequences, of which the laws at every prefix are known (arXiv 2609.20807).

A sequence y adds A(y) Σ_t (m_t·w_t·φ_t − h(s_t)) with h(s) = Σ_x q(x|s)·a·w·φ(s, x), where w has the factor
p_new/p_ref. A correction that looks at the sign of A has one h for each sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.core.sequences import occupancy
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.sequences.spaces import Space
from jackpot_sim.estimators.sequences.updates import Proposals, UpdateTarget, weight_tables


@dataclass(frozen=True, eq=False)
class MeanTerm:
    """The h of some sequences, as the law of which it is the mean of φ."""

    chosen: Flags
    """True at sequences that lose this h, (n,)."""
    weight: Floats
    """a·w at every (prefix, token), 0 where the actor never goes; shape (prefixes, vocab)."""
    law: Floats
    """q·a·w, the same shape."""


def mean_terms(part: Proposals, correction: Correction, target: UpdateTarget) -> list[MeanTerm]:
    """The terms of a centred correction: one for each sign of A that it tells apart; none of any other correction.

    Args:
        part: sequences of the actor.
        correction: any correction.
        target: the policy that the correction leads to.
    """
    if not correction.subtracts_mean:
        return []
    if "advantages" not in correction.needs:
        return [_mean_term(part, correction, target, np.ones(len(part.sequences), dtype=bool), None)]
    return [_mean_term(part, correction, target, sign * part.advantage > 0, sign) for sign in (1.0, -1.0)]


def _mean_term(
    part: Proposals, correction: Correction, target: UpdateTarget, chosen: Flags, sign: float | None
) -> MeanTerm:
    q = np.exp(part.laws.actor_log_probs)
    weight = np.where(q > 0, weight_tables(part, correction, target, sign).expected(), 0.0)
    return MeanTerm(chosen, weight, q * weight)


class Centring:
    """The sums over every sequence that a centred correction needs beside those of the correction inside.

    Args:
        part: every sequence that the actor writes.
        actor: q(y) of each, shape (n,).
        space: the space of gradients.
        terms: as `mean_terms` gives them.
    """

    def __init__(self, part: Proposals, actor: Floats, space: Space, terms: list[MeanTerm]) -> None:
        self._part, self._space, self._terms = part, space, terms
        signed = [np.where(term.chosen, actor * part.advantage, 0.0) for term in terms]
        self._values = [occupancy(part.sequences, each, part.laws.shape).sum(axis=-1)[:, None] for each in signed]
        """Σ_{y ∋ s} q(y)·A(y) over the sequences of each term, (prefixes, 1)."""

    @cached_property
    def mass(self) -> Floats:
        """The mass that the update loses, Σ_{y ∋ s} q(y)·A(y)·q(x|s)·a·w, shape (prefixes, vocab)."""
        total: Floats = np.zeros(self._part.laws.shape)
        for value, term in zip(self._values, self._terms, strict=True):
            total = total + value * term.law
        return total

    def along(self, vector: Floats) -> Floats:
        """A(y) Σ_t ⟨h(s_t), v⟩ of every sequence, (n,), for a vector v of the space."""
        part, total = self._part, np.zeros(len(self._part.sequences))
        for term in self._terms:
            by_prefix = np.sum(term.law * self._space.along(vector), axis=-1)
            lost = np.sum(by_prefix[part.sequences.prefix], axis=-1, where=part.sequences.mask)
            total = total + np.where(term.chosen, part.advantage * lost, 0.0)
        return total

    def path_norm_sq(self, coefficient: Floats) -> Floats:
        """‖c Σ_t (a·w·φ_t − h(s_t))‖² of every sequence, (n,), from c of shape (n,)."""
        sequences, total = self._part.sequences, np.zeros(len(self._part.sequences))
        for term in self._terms:
            own = np.where(term.chosen, coefficient, 0.0)[:, None] * sequences.mask
            total = total + self._space.centred_path_norm_sq(sequences, own, term.weight, term.law)
        return total
