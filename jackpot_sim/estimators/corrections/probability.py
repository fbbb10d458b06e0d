"""Corrections of each token by its probabilities p and q, of which the ratio r = p/q tells only the quotient.

A ratio of 3 is a slip at q = 1e-6 and a change of mind at q = 0.3. Masks on |p − q|, or on the binary KL of "this
token" against "another", tell the two apart. All have the weight r. The DPPO masks (arXiv 2602.04879) look at the
sign of A too: they drop a token only where the update would move p further away from q.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.divergences import binary_kl, binary_kl_exceeds
from jackpot_sim.core.numerics import exp_difference
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, given
from jackpot_sim.estimators.corrections.parameters import one_of, require_positive
from jackpot_sim.estimators.corrections.registry import register

_PROBABILITIES = frozenset({"policy_log_probs", "actor_log_probs"})


class BinaryKL(StrEnum):
    """The direction of a binary KL."""

    POLICY_ACTOR = "policy-actor"
    """bKL(p, q) = p log(p/q) + (1−p) log((1−p)/(1−q)), as in KL(p‖q)."""
    ACTOR_POLICY = "actor-policy"
    """bKL(q, p), as in KL(q‖p)."""
    LARGER = "larger"
    """The larger of the two."""

    def of(self, tokens: Tokens) -> Array:
        """The binary KL of each token, the shape of the log-ratio, nats."""
        policy, actor = given(tokens.policy_log_probs), given(tokens.actor_log_probs)
        if self is BinaryKL.POLICY_ACTOR:
            return binary_kl(policy, actor)
        if self is BinaryKL.ACTOR_POLICY:
            return binary_kl(actor, policy)
        return namespace(policy, actor).maximum(binary_kl(policy, actor), binary_kl(actor, policy))

    def exceeds(self, tokens: Tokens, bound: float) -> Array:
        """True at the tokens whose binary KL exceeds a bound, the shape of the log-ratio."""
        policy, actor = given(tokens.policy_log_probs), given(tokens.actor_log_probs)
        if self is BinaryKL.POLICY_ACTOR:
            return binary_kl_exceeds(policy, actor, bound)
        if self is BinaryKL.ACTOR_POLICY:
            return binary_kl_exceeds(actor, policy, bound)
        return binary_kl_exceeds(policy, actor, bound) | binary_kl_exceeds(actor, policy, bound)


def _total_variation(tokens: Tokens) -> Array:
    """|p − q| of each token, which is the TV of "this token" against "another"."""
    policy, actor = given(tokens.policy_log_probs), given(tokens.actor_log_probs)
    return tokens.once("total variation", lambda: namespace(policy, actor).abs(exp_difference(policy, actor)))


@dataclass(frozen=True)
class _ProbabilityMask(TokenCorrection):
    """A mask by p and q, with weight r."""

    _looks_at: ClassVar[frozenset[str]] = _PROBABILITIES

    @abstractmethod
    def _kept(self, tokens: Tokens) -> Array:
        """True at the tokens that stay."""

    @override
    def accept(self, tokens: Tokens) -> Array:
        """a = 1 where the token stays, else 0."""
        return namespace(tokens.log_ratio).astype(self._kept(tokens), tokens.log_ratio.dtype)

    @override
    def weight(self, tokens: Tokens) -> Array:
        """w = r."""
        return tokens.ratio


@register("tv-mask")
@dataclass(frozen=True)
class TotalVariationMask(_ProbabilityMask):
    """(1[|p − q| ≤ ε], r): the mask of prime-rl's IPO (ε = 0.3) and of ROLL (0.2)."""

    _threshold: ClassVar[str | None] = "epsilon"
    epsilon: float = 0.3
    """ε > 0, a difference of probabilities."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "epsilon", "c2")

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """|p − q|."""
        return _total_variation(tokens)

    @override
    def _kept(self, tokens: Tokens) -> Array:
        return self.kept_from(tokens) <= self.epsilon


@register("binary-kl-mask")
@dataclass(frozen=True)
class BinaryKLMask(_ProbabilityMask):
    """(1[bKL ≤ b], r): KPop, with the larger of bKL(p, q) and bKL(q, p) or one of them (AReaL, OpenRLHF)."""

    _threshold: ClassVar[str | None] = "bound"
    bound: float = 0.05
    """b > 0, nats. The default is DPPO-KL's δ; OpenRLHF bounds the mean over a sequence instead, by 5e-3."""
    direction: BinaryKL = BinaryKL.LARGER
    """Which bKL: `policy-actor` is bKL(p, q), `actor-policy` bKL(q, p), `larger` the larger of the two."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "bound", "c2")
        object.__setattr__(self, "direction", one_of(self, "direction", BinaryKL))

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """The token's bKL."""
        return self.direction.of(tokens)

    @override
    def _kept(self, tokens: Tokens) -> Array:
        return ~self.direction.exceeds(tokens, self.bound)


@dataclass(frozen=True)
class _TrustRegion(_ProbabilityMask):
    """(0 where A·(p − q) > 0 and the token's divergence exceeds δ, r).

    A token with A = 0 stays; it moves nothing, and counts as accepted. verl counts it like one with A < 0.
    """

    _looks_at: ClassVar[frozenset[str]] = _PROBABILITIES | {"advantages"}
    _threshold: ClassVar[str | None] = "delta"
    delta: float

    @abstractmethod
    def _divergence(self, tokens: Tokens) -> Array:
        """The divergence of each token, of which δ is the largest allowed."""

    @override
    def kept_from(self, tokens: Tokens) -> Array:
        """The divergence where the update would widen it; 0 elsewhere."""
        return namespace(tokens.log_ratio).where(_widened(tokens), self._divergence(tokens), 0.0)

    def _far(self, tokens: Tokens) -> Array:
        """True where the token's divergence exceeds δ."""
        return self._divergence(tokens) > self.delta

    @override
    def _kept(self, tokens: Tokens) -> Array:
        return ~(_widened(tokens) & self._far(tokens))


def _widened(tokens: Tokens) -> Array:
    """True where the update would move p further away from q."""
    sign, log_ratio = given(tokens.advantages), tokens.log_ratio
    return ((sign > 0) & (log_ratio > 0)) | ((sign < 0) & (log_ratio < 0))


@register("dppo-tv")
@dataclass(frozen=True)
class DivergenceTotalVariation(_TrustRegion):
    """(0 where A·(p − q) > 0 and |p − q| > δ, r): DPPO-TV (verl and SkyRL with δ = 0.2, arXiv 2602.04879 with 0.15).

    A token with A = 0 stays. verl also truncates r, at 20 or 3, which is left out here.
    """

    delta: float = 0.2
    """δ > 0, a difference of probabilities."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "delta", "c2")

    @override
    def _divergence(self, tokens: Tokens) -> Array:
        return _total_variation(tokens)


@register("dppo-kl")
@dataclass(frozen=True)
class DivergenceKL(_TrustRegion):
    """(0 where A·(p − q) > 0 and bKL(q, p) > δ, r): DPPO-KL (arXiv 2602.04879; verl, SkyRL).

    A token with A = 0 stays. verl also truncates r, at 20 or 3.
    """

    delta: float = 0.05
    """δ > 0, nats."""
    c2: float | None = None
    """Cap on p_ref/p_new where the target is p_new; None refuses that target."""

    def __post_init__(self) -> None:
        require_positive(self, "delta", "c2")

    @override
    def _divergence(self, tokens: Tokens) -> Array:
        return BinaryKL.ACTOR_POLICY.of(tokens)

    @override
    def _far(self, tokens: Tokens) -> Array:
        return BinaryKL.ACTOR_POLICY.exceeds(tokens, self.delta)
