"""Strengths that follow the measured KL: their bounds, their direction, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from jackpot_sim.core import obrs
from jackpot_sim.training.loop import closed_loop
from jackpot_sim.training.loop.closed_loop import Budget, Feedback

positive = st.floats(1e-6, 1e6)
kls = st.floats(0, math.inf, allow_nan=False)


@st.composite
def feedbacks(draw: st.DrawFn) -> Feedback:
    least, most = sorted((draw(positive), draw(positive)))
    return Feedback(target_kl=draw(positive), gain=draw(st.floats(1e-3, 3)), least=least, most=most)


LOOSE = Feedback(target_kl=0.1, gain=0.5, least=1e-9, most=1e9)


@given(feedbacks(), positive, kls)
def test_a_strength_stays_between_its_bounds(feedback: Feedback, strength: float, kl: float) -> None:
    assert feedback.least <= feedback.next(strength, kl) <= feedback.most


@given(feedbacks(), positive, kls, kls)
def test_more_mismatch_never_gives_less_strength(feedback: Feedback, strength: float, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert feedback.next(strength, low) <= feedback.next(strength, high)


@given(feedbacks(), positive, positive, kls)
def test_more_strength_now_never_gives_less_next(feedback: Feedback, one: float, two: float, kl: float) -> None:
    low, high = sorted((one, two))
    assert feedback.next(low, kl) <= feedback.next(high, kl)


@given(feedbacks(), positive)
def test_at_the_target_nothing_changes(feedback: Feedback, strength: float) -> None:
    assume(feedback.least <= strength <= feedback.most)
    assert feedback.next(strength, feedback.target_kl) == strength


@given(positive, kls)
def test_a_step_is_the_formula(strength: float, kl: float) -> None:
    if kl == 0:
        expected = strength * math.exp(-0.5)
    elif kl == math.inf:
        expected = strength * math.exp(0.5)
    else:
        expected = strength * math.exp(0.5 * max(-1.0, min(1.0, math.log(kl / 0.1))))
    assert LOOSE.next(strength, kl) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kl", "exponent"),
    [(0.1, 0.0), (0.1 * math.exp(0.3), 0.15), (0.1 * math.exp(-0.3), -0.15), (1e9, 0.5), (1e-9, -0.5)],
)
def test_golden_steps(kl: float, exponent: float) -> None:
    assert LOOSE.next(2.0, kl) == pytest.approx(2 * math.exp(exponent))


def test_no_mismatch_lowers_as_much_and_infinite_mismatch_raises_as_much_as_a_step_can() -> None:
    assert LOOSE.next(1.0, 0.0) == pytest.approx(math.exp(-0.5))
    assert LOOSE.next(1.0, math.inf) == pytest.approx(math.exp(0.5))
    # KL / target may be too small to be told from 0.
    assert Feedback(target_kl=2.0, gain=0.5, least=1e-9, most=1e9).next(1.0, 5e-324) == LOOSE.next(1.0, 0.0)
    # Rounding may leave an estimate of a KL just below 0.
    assert LOOSE.next(1.0, -1e-18) == LOOSE.next(1.0, 0.0)


def test_what_was_not_measured_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="the measured KL is NaN"):
        LOOSE.next(1.0, math.nan)


def test_a_strength_outside_its_bounds_is_brought_inside() -> None:
    feedback = Feedback(target_kl=1.0, least=0.5, most=2.0)
    assert feedback.next(100.0, 1.0) == 2.0
    assert feedback.next(0.0, 1.0) == 0.5


def test_a_loop_finds_the_strength_that_meets_the_target() -> None:
    """Of a system whose KL falls as the strength grows."""
    strength = 1.0
    for _ in range(200):
        strength = LOOSE.next(strength, 1 / strength)
    assert 1 / strength == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_kl": 0.0},
        {"target_kl": math.inf},
        {"gain": 0.0},
        {"gain": math.nan},
        {"least": 0.0},
        {"least": -1.0},
        {"most": math.inf},
        {"least": 3.0, "most": 2.0},
        {"unknown": 1.0},
    ],
    ids=str,
)
def test_a_loop_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    Feedback(**(fine := {"target_kl": 0.1, "gain": 0.1, "least": 0.1, "most": 10.0}))
    with pytest.raises(ValidationError):
        Feedback(**fine | wrong)


def test_bounds_in_the_wrong_order_are_named() -> None:
    with pytest.raises(ValidationError, match=r"least must be at most most, got 3\.0 and 2\.0"):
        Feedback(target_kl=1.0, least=3.0, most=2.0)


@pytest.mark.parametrize("rejected", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_budget_is_a_share(rejected: float) -> None:
    assert Budget(rejected=0.3).rejected == 0.3
    with pytest.raises(ValidationError):
        Budget(rejected=rejected)


def test_a_budget_never_grows_to_all_tokens() -> None:
    fine = Feedback(target_kl=0.1, least=0.01, most=0.99)
    assert Budget(feedback=fine).feedback == fine
    with pytest.raises(ValidationError, match="give less than 1, got 1"):
        Budget(feedback=Feedback(target_kl=0.1, least=0.01, most=1.0))


# ------------------------------------------------------------------- a budget of rejections


def mean_rejected(log_ratio: Any, lam: float) -> float:
    return float((1 - obrs.acceptance_probability(torch.as_tensor(log_ratio, dtype=torch.float64), lam)).mean())


def by_bisection(log_ratio: list[float], rejected: float) -> float:
    low, high = -800.0, 800.0  # log λ
    for _ in range(200):
        middle = (low + high) / 2
        mean = math.fsum(1 - math.exp(min(0.0, l - middle)) for l in log_ratio) / len(log_ratio)
        low, high = (middle, high) if mean < rejected else (low, middle)
    return math.exp(low)


def lam_at(rejected: float, log_ratio: list[float]) -> float:
    values = torch.tensor([log_ratio, [math.nan] * len(log_ratio)], dtype=torch.float64)
    return closed_loop.lam_at(rejected, values, torch.isfinite(values) | (values == -math.inf))


log_ratios = st.lists(
    st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 0.0, 0.5, -1.0]), st.floats(-300, 300)), min_size=1, max_size=40
)
shares = st.floats(1e-6, 1 - 1e-6)


@given(shares, log_ratios)
@example(0.5, [0.0] * 7)
@example(1e-6, [1.0] * 40)
@example(1 - 1e-6, [300.0, -300.0])
def test_the_threshold_of_a_budget_rejects_that_share(rejected: float, log_ratio: list[float]) -> None:
    lam = lam_at(rejected, log_ratio)
    assert mean_rejected(log_ratio, lam) == pytest.approx(rejected, abs=1e-9)


@given(st.floats(0.01, 0.99), st.lists(st.floats(-3, 3), min_size=1, max_size=40))
def test_the_threshold_of_a_budget_is_that_of_bisection(rejected: float, log_ratio: list[float]) -> None:
    assert lam_at(rejected, log_ratio) == pytest.approx(by_bisection(log_ratio, rejected), rel=1e-7)


def test_the_threshold_of_one_token_and_of_equal_ones() -> None:
    assert lam_at(0.25, [math.log(3.0)]) == pytest.approx(4.0)
    assert lam_at(0.2, [0.0] * 9) == pytest.approx(1.25)
    # Of r = 1 and 3, λ ≤ 3: (1 − 1/λ)/2 = 0.1; beyond: 1 − 2/λ = 0.75.
    assert lam_at(0.1, [0.0, math.log(3.0)]) == pytest.approx(1.25)
    assert lam_at(0.75, [0.0, math.log(3.0)]) == pytest.approx(8.0)


@given(st.floats(0.3, 0.99), log_ratios)
def test_tokens_beyond_the_policy_are_rejected_and_count(rejected: float, log_ratio: list[float]) -> None:
    beyond = [-math.inf] * (len(log_ratio) // 4)
    lam = lam_at(rejected, log_ratio + beyond)
    assert mean_rejected(log_ratio + beyond, lam) == pytest.approx(rejected, abs=1e-9)


@pytest.mark.parametrize("log_ratio", [[-math.inf, -math.inf, 0.0], [-math.inf], [-2000.0, -math.inf, 1.0]])
def test_a_budget_below_what_is_always_rejected_is_refused(log_ratio: list[float]) -> None:
    beyond = sum(l < -1000 for l in log_ratio)
    with pytest.raises(ValueError, match=rf"no lam rejects as few as 0.3 .* {beyond} of {len(log_ratio)} are beyond"):
        lam_at(0.3, log_ratio)


@pytest.mark.parametrize(("rejected", "log_ratio"), [(0.6, [math.inf, 0.0]), (0.5, [800.0, -1.0]), (0.1, [math.inf])])
def test_a_budget_above_what_is_ever_rejected_is_refused(rejected: float, log_ratio: list[float]) -> None:
    values = torch.tensor([log_ratio], dtype=torch.float64)
    told = rf"as many as {rejected} of the tokens: 1 of {len(log_ratio)} have an infinite .* smaller share"
    with pytest.raises(ValueError, match=told):
        closed_loop.lam_at(rejected, values, torch.ones_like(values, dtype=torch.bool))


def test_a_budget_of_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="mask is False everywhere"):
        closed_loop.lam_at(0.3, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    "mask", [torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool), torch.ones(2, dtype=torch.bool)]
)
def test_a_mask_that_would_index_or_broadcast_has_no_threshold(mask: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="mask "):
        closed_loop.lam_at(0.3, torch.zeros(2, 2), mask)
