"""The centred form of a correction at states whose whole laws are known (arXiv 2609.20807, the sums ours).

A token adds A·(m·w·f̂(x) − h) with f̂(x) = e_x − p and h = E_q[a·w·f̂], in place of A·m·w·f̂(x). As E_p[f̂] = 0, the
mean E_q[A·a·w·f̂] − E_q[A]·h is that of the correction inside with A − E_q[A] for A, and the true gradient is the same
for both: a bias keeps its digits. Acceptance, effective law and ESS are those of the correction inside.

A correction that looks at the sign σ of A has one h_σ for each sign, from the weights that every token would have
with an advantage of that sign; E_q[A·1_σ] then takes the place of E_q[A].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under, score_dot
from jackpot_sim.core.weighted_laws import over_divisor


class UpdateLaw(NamedTuple):
    """The law of a weighted update at some states; arrays of shape (states, vocab)."""

    law: Array
    """q·a·w."""
    excess: Array
    """q·a·w − p, with the digits of a small difference."""


@dataclass(frozen=True, eq=False)
class Centring:
    """The columns of `StateStatistics` in which a centred correction differs from the one inside.

    Attributes:
        p: the policy's probabilities, shape (states, vocab).
        q: the actor's, 0 at tokens that are never proposed; the same shape, as that of all others.
        advantage: A.
        accepted: q·a.
        squared: q·a·w².
        own: the law of the update.
        of_sign: the laws as if all advantages were positive, and negative, for a correction that looks at their sign;
            None for another, whose h is the same for all tokens.
    """

    p: Array
    q: Array
    advantage: Array
    accepted: Array
    squared: Array
    own: UpdateLaw
    of_sign: tuple[UpdateLaw, UpdateLaw] | None = None

    def columns(self, gradient: Array, divisor: Array, divisor_less_one: Array, own_divisor: bool) -> dict[str, Array]:
        """The columns, each (states,).

        Args:
            gradient: g, shape (states, vocab).
            divisor: D, shape (states,).
            divisor_less_one: D − 1, the same shape.
            own_divisor: True if D is the mean m·w of each state, whose noise enters the update.
        """
        d, less_one = divisor[:, None], divisor_less_one[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            error = self._mean(lambda each: over_divisor(each.law, each.excess, self.p, d, less_one))
            estimate = self._mean(lambda each: each.law / d)
        weighted = estimate * d
        second_moment = self._second_moment
        if own_divisor:
            pull = self._pull(self.squared, self.own.law, estimate)
            second_moment = second_moment - 2 * pull + _sum(self.squared) * _sum(estimate**2)
        kept_dot = self._pull(self.own.law, self.accepted, weighted)
        return {
            "error_sq": _sum(error**2),
            "error_dot": _sum(error * gradient),
            "estimate_sq": _sum(estimate**2),
            "estimate_dot": _sum(estimate * gradient),
            "second_moment": second_moment,
            "kept_dot_cov": kept_dot - _sum(weighted**2) * _sum(self.accepted),
        }

    @cached_property
    def _terms(self) -> list[tuple[Array, UpdateLaw]]:
        """The tokens that lose each h, True in a mask, and the law of which h is the mean."""
        xp = namespace(self.p)
        if self.of_sign is None:
            return [(xp.ones_like(self.p, dtype=xp.bool), self.own)]
        return list(zip((self.advantage > 0, self.advantage < 0), self.of_sign, strict=True))

    @cached_property
    def _shares(self) -> list[Array]:
        """E_q[A·1] over the tokens of each term, (states, 1); exactly A where that is constant and there is one."""
        xp, out = namespace(self.p), []
        for chosen, _ in self._terms:
            some = self.advantage[:, :1]
            rest = xp.where(chosen, self.q * (self.advantage - some), -self.q * some)
            out.append(some + xp.sum(rest, axis=-1, keepdims=True))
        return out

    @cached_property
    def _means(self) -> list[tuple[Array, Array]]:
        """The tokens that lose each h, and h, (states, vocab)."""
        ones = namespace(self.p).ones_like(self.p)
        return [(chosen, gradient_under(each.law, self.p, ones)) for chosen, each in self._terms]

    def _mean(self, law: Callable[[UpdateLaw], Array]) -> Array:
        """Σ (A·m(x) − Σ_σ E_q[A·1_σ]·m_σ(x))·f̂(x), where `law` makes m and m_σ of the laws of the update."""
        mass = self.advantage * law(self.own)
        for share, (_, each) in zip(self._shares, self._terms, strict=True):
            mass = mass - share * law(each)
        return gradient_under(mass, self.p, namespace(mass).ones_like(mass))

    @cached_property
    def _second_moment(self) -> Array:
        """E‖X‖² = E_q[A²(a·w²‖f̂‖² − 2a·w⟨f̂, h⟩ + ‖h‖²)], (states,)."""
        total = _sum(self.squared * feature_norm_sq(self.p, self.advantage))
        for chosen, h in self._means:
            a_sq = namespace(h).where(chosen, self.advantage**2, 0.0)
            total = total - 2 * _sum(self.own.law * a_sq * score_dot(self.p, h)) + _sum(self.q * a_sq) * _sum(h**2)
        return total

    def _pull(self, law: Array, mean_law: Array, vector: Array) -> Array:
        """Σ law·A·⟨f̂, v⟩ − Σ mean_law·A·⟨h, v⟩ for a vector v of shape (states, vocab); (states,)."""
        total = _sum(law * self.advantage * score_dot(self.p, vector))
        for chosen, h in self._means:
            own = namespace(h).where(chosen, self.advantage, 0.0)
            total = total - _sum(mean_law * own) * _sum(h * vector)
        return total


def _sum(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=-1)
