"""Two laws at the same states, and how far weighted forms of the one lie from the other: many weights at one price.

The policy p is compared with measures q·v of the actor, for the weights v of many corrections. All of them share p, q,
r = p/q, and the terms of KL(p‖q). Most weights are 1 or r at most tokens: there the terms of the KL follow from the
shared ones, and logarithms are taken of the other weights alone. Where digits cancel, or a probability is too small for
a normal number, the general formulas of `weighted_laws` take over.
"""

from __future__ import annotations

import math
from functools import cached_property

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import BLOCK_ELEMENTS, namespace, on_host, overflow_to_inf, row_blocks
from jackpot_sim.core.checks import check_alike, check_axes, check_pair
from jackpot_sim.core.divergences import BY_NAME, kl_of_checked
from jackpot_sim.core.numerics import NEAR, exp_remainder, log_ratio, near_exp_remainder
from jackpot_sim.core.weighted_laws import kl_to_weighted, weighted_less_policy

_KEPT = 1e-3
"""The least share of a sum that its terms may leave: with more than three digits lost, the general formula is taken."""

_NEAR_ONE = 0.5
"""The distance of r from 1 within which r − 1 has more digits than r."""

_LEAST_MASS = 1e-9
"""The least Σqv that 1 + Σ(qv − p) still tells with seven digits."""


class TwoLaws:
    """The policy's and the actor's laws at some states.

    Attributes:
        log_p: log p, shape (states, vocab), nats.
        log_q: log q, the same shape.
        p: the same shape, as all arrays here without a shape of their own.
        q: the actor's probabilities.
        log_ratio: ℓ = log p/q, nats.

    Args:
        policy_log_probs: log p, checked by the caller for being laws.
        actor_log_probs: log q, likewise.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: the shapes differ.
    """

    def __init__(self, policy_log_probs: Array, actor_log_probs: Array) -> None:
        laws = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
        self.log_p, self.log_q = laws
        xp = self._xp = namespace(self.log_p)
        with overflow_to_inf():
            self.p, self.q = xp.exp(self.log_p), xp.exp(self.log_q)
        self.log_ratio = log_ratio(self.log_p, self.log_q)

    @cached_property
    def ratio(self) -> Array:
        """r = e^ℓ."""
        with overflow_to_inf():
            return self._xp.exp(self.log_ratio)

    @cached_property
    def is_plain(self) -> bool:
        """True where the shared terms serve: in float64, with no actor's probability below the normal numbers but 0."""
        xp, normal = self._xp, self._xp.finfo(self.q.dtype).smallest_normal
        if xp.finfo(self.q.dtype).bits < 64:
            return False
        return not self._has_gaps or bool(xp.all((self.q >= normal) | (self.log_q == -math.inf)))

    @cached_property
    def _has_gaps(self) -> bool:
        """True where some probability is 0, or too small for a normal number."""
        xp, normal = self._xp, self._xp.finfo(self.q.dtype).smallest_normal
        return not (bool(xp.min(self.p) >= normal) and bool(xp.min(self.q) >= normal))

    def less_policy(self, weight: Array) -> Array:
        """q·v − p, elementwise, for a finite weight v of the laws' shape; full digits where v is 1 or r."""
        check_alike(policy_log_probs=self.log_p, weight=weight)
        if not self.is_plain:
            with overflow_to_inf():
                return weighted_less_policy(self.q, self.p, weight, self.log_ratio)
        xp = self._xp
        # A weight of r, rounding included, leaves 0; a weight of 1 leaves q − p.
        base, rest = self._ratio_in_parts
        apart = ((weight - base) - rest) * xp.astype(weight != self.ratio, weight.dtype)
        less = self.q * apart
        return less if self._lost is None else less - self._lost

    def kl_to(self, weight: Array, less_policy: Array | None = None) -> Array:
        """KL(p‖q·v/Σqv), nats, shape (states,); nan where q·v has no mass.

        Args:
            weight: v ≥ 0, finite.
            less_policy: q·v − p, where the caller has it from `less_policy`.
        """
        check_alike(policy_log_probs=self.log_p, weight=weight)
        if less_policy is not None:
            check_alike(policy_log_probs=self.log_p, less_policy=less_policy)
        xp = self._xp
        if not self.is_plain:
            return kl_to_weighted(self.log_p, self.log_q, weight)
        lost = xp.any((weight == 0) & (self.p > 0), axis=-1) | self._out_of_reach
        if bool(xp.all(lost)):
            mass = xp.vecdot(self.q, weight)
            return xp.where(mass > 0, math.inf, mass * math.nan)
        less_policy = self.less_policy(weight) if less_policy is None else less_policy
        less_one = xp.sum(less_policy, axis=-1) / self.mass
        if bool(xp.all((less_one > _LEAST_MASS - 1) & (less_one < math.inf))):
            total, terms = self._kl_terms_to(weight, xp.log1p(less_one))
            if bool(xp.all(lost | (total >= _KEPT * terms))):
                return xp.where(lost, math.inf, total)
        return kl_to_weighted(self.log_p, self.log_q, weight)

    @cached_property
    def kl(self) -> Array:
        """KL(p‖q/Σq), nats, shape (states,)."""
        return self.kl_to(self._xp.ones_like(self.q), self.gap)

    @cached_property
    def kl_as_given(self) -> Array:
        """Σ[p·ℓ − p + q], which is `divergences.kl`, nats, shape (states,)."""
        if not self.is_plain:
            return kl_of_checked(self.log_p, self.log_q)
        xp = self._xp
        kl = xp.sum(self.kl_terms, axis=-1)
        if self._has_gaps:  # where p is 0 the term is q
            kl = kl + xp.sum(xp.where(self.p > 0, 0.0, self.q), axis=-1)
        return xp.where(self._out_of_reach, math.inf, kl)

    def divergences(self) -> dict[str, Array]:
        """The divergences of `divergences.BY_NAME`, each (states,)."""
        if not self.is_plain:
            return {name: divergence(self.log_p, self.log_q) for name, divergence in BY_NAME.items()}
        xp = self._xp
        reverse = xp.sum(self._reverse_kl_terms, axis=-1)
        lacks_actor, lacks_policy = self._out_of_reach, xp.any((self.p == 0) & (self.q > 0), axis=-1)
        if self._has_gaps:  # where q is 0 the term of KL(q‖p) is p
            reverse = reverse + xp.sum(xp.where(self.q > 0, 0.0, self.p), axis=-1)
        chi_square = xp.vecdot(self.q * self._ratio_less_one, self._ratio_less_one)
        return {
            "kl_policy_actor": self.kl_as_given,
            "kl_actor_policy": xp.where(lacks_policy, math.inf, reverse),
            "total_variation": xp.sum(xp.abs(self.gap), axis=-1) / 2,
            "chi_square": xp.where(lacks_actor, math.inf, chi_square),
        }

    @cached_property
    def gap(self) -> Array:
        """q − p, with the digits of a small difference."""
        return self.less_policy(self._xp.ones_like(self.q))

    @cached_property
    def mass(self) -> Array:
        """Σp, shape (states,)."""
        return self._xp.sum(self.p, axis=-1)

    def _kl_terms_to(self, weight: Array, log_total: Array) -> tuple[Array, Array]:
        """Σ p·ψ(t) with t = ℓ − log v + log Σqv and ψ(t) = e^−t − 1 + t ≥ 0, and a sum of terms that it is made of.

        Where v is r, ψ(t) is ψ(c) with c = log Σqv; where v is 1, it is e^−c·ψ(ℓ) + ψ(c) − ℓ·(e^−c − 1).
        """
        xp = self._xp
        is_one, is_ratio = weight == 1.0, weight == self.ratio
        known = is_one | is_ratio
        one, of_known = (xp.astype(each, weight.dtype) for each in (is_one, known))
        shrunk, moved = xp.exp(-log_total), exp_remainder(-log_total)
        parts = [
            shrunk * xp.vecdot(one, self.kl_terms),
            moved * xp.vecdot(of_known, self.p),
            -xp.expm1(-log_total) * xp.vecdot(one, self._p_log_ratio),
        ]
        if self._has_gaps:  # p·ψ is qv·e^−c where p is 0
            parts.append(shrunk * xp.vecdot(xp.where(self.p > 0, 0.0, self.q), weight))
        other = ~known & (weight > 0)
        if self._has_gaps:
            other = other & self._shared
        parts.append(self._other_terms(weight, other, log_total[:, None]))
        return sum(parts[1:], parts[0]), sum((xp.abs(part) for part in parts[1:]), parts[0])

    def _other_terms(self, weight: Array, other: Array, log_total: Array) -> Array:
        """Σ p·ψ(t) over the tokens of a mask, shape (states,)."""
        xp = self._xp
        arrays: tuple[Array, ...] = (self.p, self.q, self._finite_log_ratio, weight)
        count = int(xp.count_nonzero(other))
        if count == 0:
            return xp.zeros_like(log_total[:, 0])
        if count < math.prod(other.shape):
            arrays = _picked(arrays, other)
        total = xp.zeros_like(log_total)
        # In pieces, whose temporaries stay in the cache.
        for start in range(0, arrays[0].shape[1], BLOCK_ELEMENTS):
            some = slice(start, min(start + BLOCK_ELEMENTS, arrays[0].shape[1]))
            p, q, ratio, v = (each[:, some] for each in arrays)
            terms = _scaled_remainder(p, ratio - xp.log(v) + log_total, q * v * xp.exp(-log_total))
            total = total + xp.sum(terms, axis=-1, keepdims=True)
        return total[:, 0]

    @cached_property
    def kl_terms(self) -> Array:
        """p·ψ(ℓ) = p·ℓ − p + q ≥ 0, whose sum is KL(p‖q); 0 where p or q is 0."""
        terms = _scaled_remainder(self.p, self._finite_log_ratio, self.q)
        return self._xp.where(self._shared, terms, 0.0) if self._has_gaps else terms

    @property
    def _reverse_kl_terms(self) -> Array:
        """q·ψ(−ℓ) = −q·ℓ − q + p, whose sum is KL(q‖p); 0 where p or q is 0."""
        terms = _scaled_remainder(self.q, -self._finite_log_ratio, self.p)
        return self._xp.where(self._shared, terms, 0.0) if self._has_gaps else terms

    @cached_property
    def _p_log_ratio(self) -> Array:
        """p·ℓ; 0 where p or q is 0."""
        return self.p * self._finite_log_ratio

    @cached_property
    def _shared(self) -> Array:
        """True at tokens that both policies write."""
        return (self.p > 0) & (self.q > 0)

    @cached_property
    def _finite_log_ratio(self) -> Array:
        """ℓ; 0 where p or q is 0."""
        return self._xp.where(self._shared, self.log_ratio, 0.0) if self._has_gaps else self.log_ratio

    @cached_property
    def _ratio_less_one(self) -> Array:
        """r − 1; 0 where q is 0."""
        ratio = self._xp.where(self.q > 0, self.log_ratio, 0.0) if self._has_gaps else self.log_ratio
        return self._xp.expm1(ratio)

    @cached_property
    def _ratio_in_parts(self) -> tuple[Array | float, Array]:
        """b and r − b, where b is 1 near r = 1, and 0 elsewhere, where r − 1 has fewer digits than r."""
        near = self._xp.abs(self._ratio_less_one) < _NEAR_ONE
        if bool(self._xp.all(near)):
            return 1.0, self._ratio_less_one
        return self._xp.astype(near, self.q.dtype), self._xp.where(near, self._ratio_less_one, self.ratio)

    @cached_property
    def _lost(self) -> Array | None:
        """p where q is 0, and 0 elsewhere; None where q is nowhere 0."""
        return self._xp.where(self.q > 0, 0.0, self.p) if self._has_gaps else None

    @cached_property
    def _out_of_reach(self) -> Array:
        """True at states where the policy writes a token that the actor cannot, shape (states,)."""
        return self._xp.any((self.log_q == -math.inf) & (self.log_p > -math.inf), axis=-1)


def kl_by_blocks(policy_log_probs: Array, actor_log_probs: Array) -> Array:
    """KL(p‖q) at each state, nats, shape (states,): `divergences.kl` without gradients, a few states at a time.

    Args:
        policy_log_probs: log p, shape (states, vocab), nats.
        actor_log_probs: log q, the same shape.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: a law is not normalised, or the shapes differ.
    """
    laws = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs)
    check_axes(policy_log_probs, "policy_log_probs", "states", "vocab")
    policy, actor = (on_host(law) for law in laws)
    parts = []
    for rows in row_blocks(*policy.shape):
        with overflow_to_inf():
            parts.append(TwoLaws(*check_pair(policy[rows, :], actor[rows, :])).kl_as_given)
    return namespace(policy).concat(parts)


def _picked(arrays: tuple[Array, ...], mask: Array) -> tuple[Array, ...]:
    """p, q, ℓ and v of a mask's tokens: of one state these alone, of several with p = q = ℓ = 0 and v = 1 between."""
    xp = namespace(mask)
    if mask.shape[0] == 1:
        (places,) = xp.nonzero(mask[0, :])
        return tuple(xp.take(each[0, :], places)[None, :] for each in arrays)
    return tuple(xp.where(mask, each, blank) for each, blank in zip(arrays, (0.0, 0.0, 0.0, 1.0), strict=True))


def _scaled_remainder(p: Array, shift: Array, measure: Array) -> Array:
    """p·(e^−t − 1 + t), elementwise, from p, t and p·e^−t, all finite; small t keep their digits."""
    xp = namespace(p)
    near = xp.abs(shift) < NEAR
    far = p * shift - p + measure
    if not bool(xp.any(near)):
        return far
    # Products with a mask: a `where` over so many changes of side takes several times as long.
    close = xp.astype(near, p.dtype)
    return p * near_exp_remainder(-shift * close) + far * (1 - close)
