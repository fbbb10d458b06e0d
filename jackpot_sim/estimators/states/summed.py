"""The statistics of a correction from sums over the tokens of a state: those of `moments`, by fewer operations.

For the law m = q·a·w (or m − p) the update is Σ m·f with f(x) = A(x)(e_x − p). Its length and its product with the
gradient follow from a few sums of m times what all corrections share. The likeliest token k enters apart: at a nearly
certain state 1 − p_k is a sum over the others. Where terms cancel, `Summed.statistics` gives nothing, and the formulas
that go token by token serve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import array_api_compat

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.corrections.inputs import TokenWeights
from jackpot_sim.estimators.statistics import Denominator, of_single_tokens

_KEPT = 1e-3
"""The least share of a sum that its terms may leave: more than three digits lost are too many."""


class Sums(NamedTuple):
    """Σ m·f of a signed law m, by its likeliest token k and sums Σ' over the others, each of shape (states,)."""

    top: Array
    """m_k·A_k."""
    a: Array
    """Σ'mA."""
    ap: Array
    """Σ'mAp."""
    ag: Array
    """Σ'mAg, with the true gradient g."""
    a_sq_p: Array
    """Σ'mA²p."""
    a_sq_m: Array
    """Σ'm²A²."""

    def scaled(self, factor: Array) -> Sums:
        """The sums of factor·m; one factor per state."""
        return Sums(*(factor * each for each in self))._replace(a_sq_m=factor * factor * self.a_sq_m)


class Total(NamedTuple):
    """A sum that cannot be negative, and its terms' sizes together; (states,)."""

    value: Array
    size: Array

    @classmethod
    def of(cls, *terms: Array) -> Total:
        """The sum of a few terms."""
        sizes = [namespace(each).abs(each) for each in terms]
        return cls(sum(terms[1:], terms[0]), sum(sizes[1:], sizes[0]))

    @property
    def keeps_digits(self) -> bool:
        """True where at no state more than three digits cancel."""
        return bool(namespace(self.value).all(self.value >= _KEPT * self.size))


@dataclass(frozen=True, eq=False)
class Geometry:
    """The numbers of each state that turn sums into lengths and products, each of shape (states,)."""

    top_p: Array
    """p_k."""
    top_gradient: Array
    """g_k."""
    rest_p: Array
    """Σ'p = 1 − p_k."""
    rest_p_sq: Array
    """Σ'p²."""
    rest_p_dot_gradient: Array
    """Σ'pg."""

    def top_component(self, of: Sums) -> Array:
        """The component of Σ m·f at the likeliest token."""
        return self.rest_p * of.top - self.top_p * of.a

    def norm_sq(self, of: Sums) -> Total:
        """‖Σ m·f‖²."""
        total, at_top = of.top + of.a, self.top_component(of)
        return Total.of(of.a_sq_m, self.rest_p_sq * total * total, -2 * total * of.ap, at_top * at_top)

    def dot_gradient(self, of: Sums) -> Array:
        """⟨Σ m·f, g⟩."""
        return of.ag - (of.top + of.a) * self.rest_p_dot_gradient + self.top_component(of) * self.top_gradient


class Shared:
    """The terms that the sums of all corrections share at some states.

    Args:
        pair: the laws, of which `pair.is_plain` is True.
        advantage: A, shape (states, vocab).
        gradient: g, the same shape.
        feature_sq: ‖f‖², the same shape.
    """

    def __init__(self, pair: TwoLaws, advantage: Array, gradient: Array, feature_sq: Array) -> None:
        xp = namespace(pair.p, advantage)
        self.pair, self._gradient, self.feature_sq = pair, gradient, feature_sq
        self._top = xp.argmax(pair.p, axis=-1, keepdims=True)
        ids = xp.arange(pair.p.shape[-1], dtype=self._top.dtype, device=array_api_compat.device(pair.p))
        others = xp.astype(ids != self._top, pair.p.dtype)
        self.advantage = advantage * others
        """A; 0 at the likeliest token."""
        self.top_advantage = self.at_top(advantage)
        """A_k, (states,)."""
        self._p_advantage = pair.p * self.advantage
        rest = pair.p * others
        self.geometry = Geometry(
            self.at_top(pair.p),
            self.at_top(gradient),
            xp.sum(rest, axis=-1),
            xp.vecdot(rest, rest),
            xp.vecdot(rest, gradient),
        )
        self.policy = self.sums(pair.p)[0]
        """The sums of p."""

    def at_top(self, values: Array) -> Array:
        """The value at each state's likeliest token, (states,)."""
        return namespace(values).take_along_axis(values, self._top, axis=-1)[:, 0]

    def sums(self, law: Array) -> tuple[Sums, Array]:
        """The sums of a law m, and m·A without the likeliest token, (states, vocab)."""
        xp = namespace(law)
        terms = law * self.advantage
        products = (xp.vecdot(terms, each) for each in (self.pair.p, self._gradient, self._p_advantage, terms))
        return Sums(self.at_top(law) * self.top_advantage, xp.sum(terms, axis=-1), *products), terms


@dataclass(frozen=True, eq=False)
class Summed:
    """The sums of one correction at some states; arrays of shape (states,), so that they may be held for all states."""

    geometry: Geometry
    policy: Sums
    """Of p."""
    policy_mass: Array
    """Σp."""
    rate: Array
    """E_q[a]."""
    mean: Array
    """E_q[a·w]."""
    square: Array
    """E_q[a·w²]."""
    law: Sums
    """Of q·a·w."""
    excess: Sums
    """Of q·a·w − p."""
    own_excess: Sums
    """Of q·a·w − D·p, whose sum is 0."""
    feature_square: Array
    """E_q[a·w²‖f‖²]."""
    pull: Array
    """E_q[a·w²⟨f, g_w⟩]."""
    kl_accepted: Array
    kl_effective: Array

    def statistics(self, denominator: Denominator, batch_rate: float | None = None) -> dict[str, Array] | None:
        """The columns of `StateStatistics` that depend on the correction; None where digits cancel."""
        xp = namespace(self.rate)
        rate = self.rate if batch_rate is None else xp.ones_like(self.rate) * batch_rate
        divisor = statistics.divisor(denominator, rate, self.mean)
        if not bool(xp.all((divisor > 0) & (self.mean > 0))):
            return None
        estimate, (error, square) = self.law.scaled(1 / divisor), self._error(denominator, divisor)
        estimate_sq, error_sq = self.geometry.norm_sq(estimate), self.geometry.norm_sq(error)
        second = Total.of(self.feature_square)
        if denominator is Denominator.SELF_NORMALIZED:
            second = Total.of(self.feature_square, -2 * self.pull / divisor, estimate_sq.value * self.square)
        if not all(each.keeps_digits for each in (estimate_sq, error_sq, square, second)):
            return None
        return {
            "acceptance_rate": self.rate,
            "weight_mean": self.mean,
            "weight_square": self.square,
            "divisor": divisor,
            "error_sq": error_sq.value,
            "error_dot": self.geometry.dot_gradient(error),
            "estimate_sq": estimate_sq.value,
            "estimate_dot": self.geometry.dot_gradient(estimate),
            "second_moment": second.value,
            "kl_accepted": self.kl_accepted,
            "kl_effective": self.kl_effective,
            **of_single_tokens(self.rate, estimate_sq.value * divisor**2),
        }

    def _error(self, denominator: Denominator, divisor: Array) -> tuple[Sums, Total]:
        """The sums of q·a·w/D − p, the last of them also with its terms."""
        if denominator is Denominator.PROPOSED:
            return self.excess, Total.of(self.excess.a_sq_m)
        own = self.own_excess.scaled(1 / divisor)
        if denominator is Denominator.SELF_NORMALIZED:
            return own, Total.of(own.a_sq_m)
        apart, policy = self.mean / self.policy_mass / divisor - 1, self.policy
        square = Total.of(own.a_sq_m, 2 * apart * own.a_sq_p, apart * apart * policy.a_sq_m)
        error = Sums(*(x + apart * y for x, y in zip(own, policy, strict=True)))
        return error._replace(a_sq_m=square.value), square


def summed(shared: Shared, weights: TokenWeights) -> Summed | None:
    """The sums of one correction, from its weights (states, vocab); None where a weight is not finite."""
    accept, weight = weights
    pair = shared.pair
    xp = namespace(weight)
    if not bool(xp.max(weight) < math.inf):
        return None
    keeps_all, weighs_none = bool(xp.all(accept == 1.0)), bool(xp.all(weight == 1.0))
    both = weight if keeps_all else accept if weighs_none else accept * weight
    law = pair.q * both
    square = law * weight
    mean = xp.sum(law, axis=-1)
    rate = mean if weighs_none else xp.sum(pair.q, axis=-1) if keeps_all else xp.sum(pair.q * accept, axis=-1)
    excess = pair.less_policy(both)
    less_one = xp.sum(excess, axis=-1, keepdims=True) / pair.mass[:, None]
    # Far from 1 the law itself, less its share of p, has more digits.
    near = xp.abs(less_one) < 0.5
    scale = xp.where(near, less_one, mean[:, None] / pair.mass[:, None])
    own = (excess if bool(xp.all(near)) else xp.where(near, excess, law)) - scale * pair.p
    of_law, law_terms = shared.sums(law)
    kl_effective = pair.kl_to(both, excess)
    return Summed(
        shared.geometry,
        shared.policy,
        pair.mass,
        rate,
        mean,
        xp.sum(square, axis=-1),
        of_law,
        shared.sums(excess)[0],
        shared.sums(own)[0],
        xp.vecdot(square, shared.feature_sq),
        _pull(shared, square, of_law, law_terms),
        kl_effective if weighs_none else pair.kl if keeps_all else pair.kl_to(accept),
        kl_effective,
    )


def _pull(shared: Shared, square: Array, law: Sums, law_terms: Array) -> Array:
    """Σ s⟨f, u⟩ for a law s and the update u of another, where ⟨f(x), u⟩ is A_x·(u_x − ⟨p, u⟩)."""
    xp, geometry = namespace(square), shared.geometry
    terms = square * shared.advantage
    total, at_top = law.top + law.a, geometry.top_component(law)
    rest_dot = law.ap - geometry.rest_p_sq * total
    others = xp.vecdot(terms, law_terms) - total * xp.vecdot(terms, shared.pair.p)
    others = others - (rest_dot + geometry.top_p * at_top) * xp.sum(terms, axis=-1)
    return others + shared.at_top(square) * shared.top_advantage * (geometry.rest_p * at_top - rest_dot)
