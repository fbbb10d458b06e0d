"""The identities I1 to I3 as laws. Each check is also run on a broken correction, where it must fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.core import obrs
from jackpot_sim.core.backend import namespace
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights
from jackpot_sim.estimators.corrections.jackpot import Jackpot, OverlapTruncatedImportanceSampling
from jackpot_sim.estimators.corrections.token import RejectionSampling, TruncatedImportanceSampling
from jackpot_sim.estimators.states import moments
from tests.core import laws
from tests.core.laws import Pair, law_pairs

INF = math.inf
Make = Callable[..., Any]

thresholds = st.floats(-3.0, 3.0).map(math.exp)
factors_above = st.floats(1.0, 8.0)
factors_below = st.floats(0.01, 0.999)


@st.composite
def moderate_pairs(draw: st.DrawFn, absolutely_continuous: bool = False) -> Pair:
    pair = draw(law_pairs(absolutely_continuous=absolutely_continuous))
    assume(pair.moderate)
    return pair


@st.composite
def reaching_pairs(draw: st.DrawFn) -> Pair:
    """Pairs whose policy stays within the actor's support."""
    return draw(moderate_pairs(absolutely_continuous=True))


def advantages_for(pair: Pair, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=len(pair.policy))


seeds = st.integers(0, 1000)


def overlap_of(pair: Pair, lam: float) -> float:
    """Z(λ) in extended precision."""
    return float(np.minimum(pair.q, pair.p / lam).sum())


def mean_weight(pair: Pair, correction: Any) -> Any:
    """E[m·w | x] on the tokens that the actor can propose, in extended precision."""
    lam = correction.overlap_lam
    reach = np.isfinite(pair.actor)
    z = None if lam is None else np.float64(overlap_of(pair, lam))
    accept, weight = correction.weights(pair.policy[reach] - pair.actor[reach], z)
    return np.asarray(accept, np.longdouble) * weight


def ratios(pair: Pair) -> Any:
    reach = np.isfinite(pair.actor)
    return np.exp(pair.policy[reach].astype(np.longdouble) - pair.actor[reach])


def exact(pair: Pair, correction: Any, seed: int = 0, denominator: str = "proposed") -> moments.Moments:
    return moments.exact(pair.policy, pair.actor, advantages_for(pair, seed), correction, denominator=denominator)


def variance(found: moments.Moments) -> tuple[float, float]:
    """One state's variance per proposal, and the size of the terms that it is the difference of."""
    state = found.per_state
    return float(state.second_moment[0] - state.estimate_sq[0]), float(state.second_moment[0])


# ----------------------------------------------------------------- the checks


def check_i1(pair: Pair, lam: float, rejection: Make = RejectionSampling, clipped: Make = TruncatedImportanceSampling):  # type: ignore[no-untyped-def]
    """obrs(λ) and tis(C = λ) have the same effective law, min(q, p/λ)/Z."""
    first, second = mean_weight(pair, rejection(lam=lam)), mean_weight(pair, clipped(clip=lam))
    np.testing.assert_allclose((lam * first).astype(float), second.astype(float), rtol=1e-12)
    law = np.exp(obrs.accepted_log_probs(pair.policy, pair.actor, lam)[np.isfinite(pair.actor)])
    q = pair.q[np.isfinite(pair.actor)]
    np.testing.assert_allclose((q * second / (q * second).sum()).astype(float), law, rtol=1e-12, atol=1e-300)
    by_rejection, by_clip = (exact(pair, c).kl_effective for c in (rejection(lam=lam), clipped(clip=lam)))
    np.testing.assert_allclose(by_rejection, by_clip, rtol=1e-11, atol=1e-15)


def check_tis_is_optimal(pair: Pair, clip: float, wish: Any, clipped: Make = TruncatedImportanceSampling) -> None:
    """By T2 no weight in [0, C] with the same mean has an effective law nearer to p, for any f-divergence."""
    q = pair.q
    best = np.zeros(len(q), dtype=np.longdouble)
    best[np.isfinite(pair.actor)] = mean_weight(pair, clipped(clip=clip))
    assert np.all(best <= clip * (1 + 1e-12))
    mean = (q * best).sum()
    other = clip * laws.meet_budget(wish, pair.actor, float(mean / clip))
    np.testing.assert_allclose(float((q * other).sum()), float(mean), rtol=1e-12)
    for name, divergence in laws.F_DIVERGENCES.items():
        least, found = (divergence(pair.p, q * weight / (q * weight).sum()) for weight in (best, other))
        assert least <= found * (1 + 1e-12) + 1e-14, f"{name}: {found} < {least}"


def check_i2(pair: Pair, lam: float, factor: float, jackpot: Make = Jackpot) -> None:
    """E[m·w | x] is Z·min(r, c1/Z) if c1 ≥ λZ, and (c1/λ)·min(r, λ) otherwise."""
    z = overlap_of(pair, lam)
    c1 = factor * lam * z
    found, r = mean_weight(pair, jackpot(lam=lam, c1=c1)), ratios(pair)
    expected = z * np.minimum(r, c1 / z) if factor >= 1 else c1 / lam * np.minimum(r, lam)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-11)


def check_i2_on_the_ratio(pair: Pair, lam: float, clip: float, jackpot: Make = Jackpot) -> None:
    """E[m·w | x] is Z·min(r, λ·c1) if c1 ≥ 1, and Z·c1·min(r, λ) otherwise, where c1 clips the ratio."""
    found, r = mean_weight(pair, jackpot(lam=lam, c1=clip, clip_on="ratio")), ratios(pair)
    expected = overlap_of(pair, lam) * (np.minimum(r, lam * clip) if clip >= 1 else clip * np.minimum(r, lam))
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-11)


def check_i3(pair: Pair, lam: float, factor: float, seed: int, jackpot: Make = Jackpot, smooth: Make = RaoBlackwell):  # type: ignore[no-untyped-def]
    """Var[jackpot] ≥ Var[rao_blackwell(jackpot)] = Z²·Var[TIS(c1/Z)], or (c1/λ)²·Var[TIS(λ)] where c1 < λZ."""
    z = overlap_of(pair, lam)
    c1 = factor * lam * z
    correction = jackpot(lam=lam, c1=c1)
    scale, clip = (z, c1 / z) if factor >= 1 else (c1 / lam, lam)
    masked, size = variance(exact(pair, correction, seed))
    smoothed, _ = variance(exact(pair, smooth(correction), seed))
    clipped, _ = variance(exact(pair, TruncatedImportanceSampling(clip=clip), seed))
    assert masked >= smoothed - 1e-12 * size
    np.testing.assert_allclose(smoothed, scale**2 * clipped, rtol=1e-9, atol=1e-12 * size)


def check_masking_noise(pair: Pair, lam: float, factor: float, seed: int, smooth: Make = RaoBlackwell) -> None:
    """The variance that Rao-Blackwell removes is E_q[w²a(1−a)‖f‖²], and the expectation stays."""
    correction = Jackpot(lam=lam, c1=factor)
    masked, smoothed = exact(pair, correction, seed), exact(pair, smooth(correction), seed)
    reach = np.isfinite(pair.actor)
    accept, weight = correction.weights(pair.policy[reach] - pair.actor[reach], np.float64(overlap_of(pair, lam)))
    advantage = advantages_for(pair, seed)[reach]
    # ‖e_x − p‖² over the other tokens: of a near-certain one neither 1 − p nor 1 − 2p + ‖p‖² keeps a digit.
    others = (np.asarray(pair.p) * (1 - np.eye(len(pair.p))))[reach]
    feature_sq = advantage**2 * (others.sum(axis=-1) ** 2 + (others**2).sum(axis=-1))
    noise = float((pair.q[reach] * weight**2 * accept * (1 - accept) * feature_sq).sum())
    (before, size), (after, _) = variance(masked), variance(smoothed)
    np.testing.assert_allclose(before - after, noise, rtol=1e-9, atol=1e-12 * size)
    for denominator in ("proposed", "self_normalized"):
        first, second = (exact(pair, c, seed, denominator).per_state for c in (correction, smooth(correction)))
        for name in ("weight_mean", "error_sq", "error_dot", "estimate_sq", "kl_effective"):
            np.testing.assert_allclose(
                getattr(first, name), getattr(second, name), rtol=1e-10, atol=1e-13, err_msg=name
            )


def check_unclipped_jackpot(pair: Pair, lam: float, seed: int, jackpot: Make = Jackpot) -> None:
    """With c1 = ∞ the effective law is p, and with `accepted` a state alone is unbiased."""
    correction = jackpot(lam=lam, c1=INF)
    z, r = overlap_of(pair, lam), ratios(pair)
    np.testing.assert_allclose(mean_weight(pair, correction).astype(float), (z * r).astype(float), rtol=1e-11)
    assert abs(exact(pair, correction, seed).kl_effective) < 1e-12
    for denominator in ("accepted", "self_normalized"):
        found = exact(pair, correction, seed, denominator).per_state
        assert found.error_sq[0] <= 1e-20 * max(1.0, found.estimate_sq[0])


def check_overlap_tis(pair: Pair, lam: float, factor: float, seed: int, direct: Make) -> None:
    """overlap-tis is rao_blackwell(jackpot) for c1 ≥ λZ."""
    c1 = factor * lam * overlap_of(pair, lam)
    first, second = direct(lam=lam, c1=c1), rao_blackwell(Jackpot(lam=lam, c1=c1))
    np.testing.assert_allclose(
        mean_weight(pair, first).astype(float), mean_weight(pair, second).astype(float), rtol=1e-11
    )
    found, expected = exact(pair, first, seed).per_state, exact(pair, second, seed).per_state
    for name in ("acceptance_rate", "weight_square", "second_moment", "error_sq", "kl_accepted", "kl_effective"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-13, err_msg=name)


# ------------------------------------------------------------------- they hold


@given(moderate_pairs(), thresholds)
def test_i1(pair: Pair, lam: float) -> None:
    check_i1(pair, lam)


@given(moderate_pairs(), st.sampled_from(range(12)))
def test_i1_at_a_ratio(pair: Pair, index: int) -> None:
    shared = pair.ratios
    check_i1(pair, float(shared[index % len(shared)]))


@given(moderate_pairs(), thresholds, st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12))
def test_tis_is_optimal(pair: Pair, clip: float, wish: list[float]) -> None:
    check_tis_is_optimal(pair, clip, np.array(wish[: len(pair.policy)]))


@given(moderate_pairs(), thresholds, factors_above | st.just(1.0))
def test_i2_with_a_loose_clip(pair: Pair, lam: float, factor: float) -> None:
    check_i2(pair, lam, factor)


@given(moderate_pairs(), thresholds, factors_below)
def test_i2_with_a_tight_clip(pair: Pair, lam: float, factor: float) -> None:
    check_i2(pair, lam, factor)


@given(moderate_pairs(), thresholds, factors_above | factors_below | st.just(1.0))
def test_i2_where_c1_clips_the_ratio(pair: Pair, lam: float, clip: float) -> None:
    check_i2_on_the_ratio(pair, lam, clip)


@given(moderate_pairs(), thresholds)
def test_c1_of_one_suffices(pair: Pair, lam: float) -> None:
    z = overlap_of(pair, lam)
    assert lam * z <= 1 + 1e-12
    check_i2(pair, lam, 1 / (lam * z) * (1 + 1e-15))


@given(moderate_pairs(), thresholds, factors_above | factors_below, seeds)
def test_i3(pair: Pair, lam: float, factor: float, seed: int) -> None:
    check_i3(pair, lam, factor, seed)


@given(moderate_pairs(), thresholds, thresholds, seeds)
def test_rao_blackwell_removes_the_masking_noise_and_nothing_else(pair: Pair, lam: float, c1: float, seed: int) -> None:
    check_masking_noise(pair, lam, c1, seed)


@given(reaching_pairs(), thresholds, seeds)
def test_unclipped_jackpot_is_unbiased(pair: Pair, lam: float, seed: int) -> None:
    check_unclipped_jackpot(pair, lam, seed)


@given(moderate_pairs(), thresholds, factors_above, seeds)
def test_overlap_tis_is_the_smoothed_jackpot(pair: Pair, lam: float, factor: float, seed: int) -> None:
    check_overlap_tis(pair, lam, factor, seed, OverlapTruncatedImportanceSampling)


# ------------------------------------------------------ and broken ones are caught


@dataclass(frozen=True)
class SmoothlyAccepted(RejectionSampling):
    def accept(self, tokens: Tokens) -> Any:
        ratio = np.exp(tokens.log_ratio)
        return ratio / (self.lam + ratio)


@dataclass(frozen=True)
class ClippedFromBelow(TruncatedImportanceSampling):
    def weight(self, tokens: Tokens) -> Any:
        return np.exp(np.maximum(tokens.log_ratio, math.log(self.clip)))


@dataclass(frozen=True)
class SquashedRatio(TruncatedImportanceSampling):
    """In [0, C], but no truncation."""

    def weight(self, tokens: Tokens) -> Any:
        ratio = np.exp(tokens.log_ratio)
        return self.clip * ratio / (self.clip + ratio)


@dataclass(frozen=True)
class WithoutOverlap(Jackpot):
    def weight(self, tokens: Tokens) -> Any:
        return super().weight(Tokens(tokens.log_ratio, overlap=np.ones_like(tokens.overlap)))


@dataclass(frozen=True)
class MinimumForMaximum(Jackpot):
    def weight(self, tokens: Tokens) -> Any:
        return np.minimum(tokens.overlap * np.exp(np.minimum(tokens.log_ratio, math.log(self.lam))), self.c1)


@dataclass(frozen=True)
class ClippedBeforeTheOverlap(Jackpot):
    def weight(self, tokens: Tokens) -> Any:
        return tokens.overlap * np.minimum(np.exp(np.maximum(tokens.log_ratio, math.log(self.lam))), self.c1)


@dataclass(frozen=True)
class ForgetsTheMask(RaoBlackwell):
    def pair(self, tokens: Tokens) -> TokenWeights:
        accept, weight = self.of.pair(tokens)
        return TokenWeights(namespace(accept).ones_like(accept), weight)


@dataclass(frozen=True)
class KeepsTheMask(RaoBlackwell):
    def pair(self, tokens: Tokens) -> TokenWeights:
        return self.of.pair(tokens)


@dataclass(frozen=True)
class Unscaled(OverlapTruncatedImportanceSampling):
    def weight(self, tokens: Tokens) -> Any:
        return np.minimum(np.exp(tokens.log_ratio), self.c1)


PAIR = Pair(laws.of_probabilities(0.5, 0.3, 0.15, 0.05), laws.of_probabilities(0.15, 0.35, 0.3, 0.2))


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_i1(PAIR, 0.9, rejection=SmoothlyAccepted),
        lambda: check_i1(PAIR, 0.9, clipped=ClippedFromBelow),
        lambda: check_i1(PAIR, 0.9, clipped=SquashedRatio),
        lambda: check_i1(PAIR, 0.9, rejection=lambda lam: RejectionSampling(lam=1.01 * lam)),
        lambda: check_tis_is_optimal(PAIR, 1.5, np.minimum(np.asarray(PAIR.p / PAIR.q), 1.5), SquashedRatio),
        lambda: check_tis_is_optimal(PAIR, 1.5, np.full(4, 0.5), lambda clip: TruncatedImportanceSampling(2 * clip)),
        *(
            lambda broken=broken, factor=factor: check_i2(PAIR, 0.8, factor, broken)  # type: ignore[misc]
            for broken, factor in [
                (WithoutOverlap, 2.0),
                (MinimumForMaximum, 2.0),
                (ClippedBeforeTheOverlap, 1.5),
                (MinimumForMaximum, 0.5),
            ]
        ),
        lambda: check_i2_on_the_ratio(PAIR, 0.8, 1.5, lambda lam, c1, clip_on: Jackpot(lam=lam, c1=c1)),
        lambda: check_i2_on_the_ratio(PAIR, 0.8, 0.5, lambda lam, c1, clip_on: Jackpot(lam=lam, c1=c1)),
        lambda: check_i3(PAIR, 1.2, 1.5, 0, jackpot=WithoutOverlap),
        lambda: check_i3(PAIR, 1.2, 1.5, 0, smooth=ForgetsTheMask),
        lambda: check_i3(PAIR, 1.2, 1.5, 0, smooth=KeepsTheMask),
        lambda: check_i3(PAIR, 1.2, 0.5, 0, jackpot=MinimumForMaximum),
        lambda: check_masking_noise(PAIR, 1.2, 2.0, 0, smooth=ForgetsTheMask),
        lambda: check_masking_noise(PAIR, 1.2, 2.0, 0, smooth=KeepsTheMask),
        lambda: check_unclipped_jackpot(PAIR, 0.7, 0, MinimumForMaximum),
        lambda: check_unclipped_jackpot(PAIR, 0.7, 0, WithoutOverlap),
        lambda: check_overlap_tis(PAIR, 0.7, 1.2, 0, Unscaled),
    ],
)
def test_a_broken_correction_is_caught(check: Callable[[], None]) -> None:
    with pytest.raises(AssertionError):
        check()


def test_the_checks_pass_on_the_pair_that_catches_the_broken() -> None:
    check_i1(PAIR, 0.9)
    check_tis_is_optimal(PAIR, 1.5, np.minimum(np.asarray(PAIR.p / PAIR.q), 1.5))
    for factor in (0.5, 1.5, 2.0):
        check_i2(PAIR, 0.8, factor)
        check_i3(PAIR, 1.2, factor, 0)
    check_masking_noise(PAIR, 1.2, 2.0, 0)
    check_unclipped_jackpot(PAIR, 0.7, 0)
    check_overlap_tis(PAIR, 0.7, 1.2, 0, OverlapTruncatedImportanceSampling)


def test_states_with_little_overlap_count_less() -> None:
    # Of two states jackpot weighs each by its Z(s); TIS does not. By hand Z = 1 and Z = 1/2.
    policy = np.stack([laws.of_probabilities(0.5, 0.5), laws.of_probabilities(0.75, 0.25)])
    actor = np.stack([laws.of_probabilities(0.5, 0.5), laws.of_probabilities(0.25, 0.75)])
    found = moments.exact(policy, actor, np.array([[1.0, 0.0]] * 2), estimators.get("jackpot", c1=INF))
    np.testing.assert_allclose(found.per_state.weight_mean, [1.0, 0.5], rtol=1e-14)
