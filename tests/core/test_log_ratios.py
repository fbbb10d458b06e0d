"""Statistics of a mismatch against closed forms: laws whose KL and χ² are known, and limits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import divergences, log_ratios
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import Aggregate
from tests.conftest import ToLibrary
from tests.core.laws import normalised
from tests.estimators.corrections.test_sequence import toy_law

INF, NAN = math.inf, math.nan


def test_k1_and_k3_have_the_kl_as_their_mean() -> None:
    generator = np.random.default_rng(2)
    policy, actor = (normalised(generator.normal(size=7)) for _ in range(2))
    kl = float(divergences.kl(actor, policy))
    for statistic in (log_ratios.k1, log_ratios.k3):
        assert float(np.exp(actor) @ statistic(policy - actor)) == pytest.approx(kl, rel=1e-13)


@given(value=st.floats(-5, 5))
def test_k_statistics_are_what_they_are_called(value: float) -> None:
    l = np.array([value])
    assert log_ratios.k1(l)[0] == -value
    assert log_ratios.k2(l)[0] == value * value / 2
    with mpmath.workdps(700):
        k3 = float(mpmath.expm1(value) - mpmath.mpf(value))
    assert log_ratios.k3(l)[0] == pytest.approx(k3, rel=4e-15, abs=1e-300)
    assert log_ratios.k3(l)[0] >= 0


def test_k3_at_the_ends(xp: ToLibrary) -> None:
    found = to_numpy(log_ratios.k3(xp(np.array([-INF, -1e4, 0.0, 800.0, INF]))))
    np.testing.assert_array_equal(found, [INF, 9999.0, 0.0, INF, INF])


# ------------------------------------------------------------------- aggregate


def test_aggregates_by_hand(xp: ToLibrary) -> None:
    values = xp(np.array([[1.0, 2.0, NAN], [-1.0, NAN, 4.0], [NAN, INF, NAN], [INF, 1.0, -INF]]))
    mask = xp(np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=bool))
    expected = {Aggregate.SUM: [3, 3, 0, -INF], Aggregate.MEAN: [1.5, 1.5, 0, -INF], Aggregate.MAX: [2, 4, 0, INF]}
    for how, numbers in expected.items():
        found = to_numpy(log_ratios.aggregate(values, mask, how))
        np.testing.assert_array_equal(found, np.array(numbers)[:, None])


# ------------------------------------------------------------------ chi-square


def test_chi_square_of_tokens_is_the_laws_on_average() -> None:
    # Four tokens that the actor writes with probability 1/4 each: their mean is the expectation.
    policy = normalised(np.array([0.3, -0.2, 0.5, 0.1]))
    actor = normalised(np.zeros(4))
    expected = float(divergences.chi_square(policy, actor))
    assert float(log_ratios.chi_square((policy - actor)[:, None])) == pytest.approx(expected, rel=1e-13)


def test_chi_square_of_sequences_grows_with_their_length() -> None:
    # All sequences of a uniform actor over two tokens, each once: (1+χ²)^T − 1.
    ratio = np.array([1.4, 0.6])
    single = float(np.mean(ratio**2)) - 1
    for length in (1, 2, 4):
        log_ratio = np.log(ratio)[np.array(list(itertools.product([0, 1], repeat=length)))]
        found = float(log_ratios.chi_square(log_ratio, how=Aggregate.SUM))
        assert found == pytest.approx((1 + single) ** length - 1, rel=1e-12)
        geometric = float(log_ratios.chi_square(log_ratio, how=Aggregate.MEAN))
        expected = np.mean(np.exp(2 * log_ratio.mean(axis=1))) - 1
        assert geometric == pytest.approx(expected, rel=1e-12)


def test_chi_square_counts_neither_padding_nor_empty_sequences(xp: ToLibrary) -> None:
    log_ratio = np.array([[0.5, NAN], [0.1, -0.3], [NAN, INF]])
    mask = np.array([[True, False], [True, True], [False, False]])
    tokens = np.array([0.5, 0.1, -0.3])
    expected = {
        None: np.mean(np.exp(2 * tokens)) - 1,
        Aggregate.SUM: np.mean(np.exp([1.0, -0.4])) - 1,
        Aggregate.MEAN: np.mean(np.exp([1.0, -0.2])) - 1,
    }
    for how, value in expected.items():
        assert float(log_ratios.chi_square(xp(log_ratio), xp(mask), how)) == pytest.approx(value, rel=1e-14)


def test_chi_square_may_be_infinite_but_not_nan() -> None:
    for how in (None, Aggregate.SUM):
        assert float(log_ratios.chi_square(np.array([[800.0, 0.0]]), how=how)) == INF
    assert float(log_ratios.chi_square(np.array([[-INF, INF]]), how=Aggregate.SUM)) == -1.0


# ------------------------------------------------------------------------- ess


def test_effective_sample_size_by_hand(xp: ToLibrary) -> None:
    for weight, expected in (([1.0, 1.0], 1), ([3.0, 0.0, 0.0], 1 / 3), ([1.0, 1.0, 2.0], 16 / 18)):
        assert float(log_ratios.effective_sample_size(xp(np.array(weight)))) == pytest.approx(expected, rel=1e-15)


@given(weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=6), scale=st.sampled_from([1e-200, 1.0, 1e200]))
def test_effective_sample_size_has_no_scale(weights: list[float], scale: float) -> None:
    weight = np.array(weights)
    found = float(log_ratios.effective_sample_size(weight * scale))
    assert found == pytest.approx(1 / np.mean((weight / weight.mean()) ** 2), rel=1e-12)
    assert 1 / len(weights) - 1e-12 <= found <= 1 + 1e-12


def test_effective_sample_size_at_its_ends() -> None:
    mask = np.array([True, True, False])
    assert math.isnan(float(log_ratios.effective_sample_size(np.array([0.0, 0.0, 5.0]), mask)))
    assert float(log_ratios.effective_sample_size(np.array([INF, 1.0, NAN]), mask)) == 0.5
    assert float(log_ratios.effective_sample_size(np.array([2.0, 2.0, NAN]), mask)) == 1.0


def test_ess_and_chi_square_are_one_number() -> None:
    # With E[w] = 1 the ESS fraction is 1/(1+χ²): here E[e^S] = 1 over the actor's law, drawn in proportion.
    probability, log_ratio = toy_law()
    copies = np.repeat(log_ratio, np.round(probability * 20_000).astype(int), axis=0)
    weight = np.exp(copies.sum(axis=1))
    chi_square = float(log_ratios.chi_square(copies, how=Aggregate.SUM))
    found = float(log_ratios.effective_sample_size(weight))
    assert found == pytest.approx(1 / (1 + chi_square), rel=5e-3)


@pytest.mark.parametrize("function", [log_ratios.chi_square, log_ratios.effective_sample_size])
def test_nothing_to_average_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="mask leaves nothing to average"):
        function(np.ones((2, 2)), np.zeros((2, 2), dtype=bool))


def test_chi_square_of_a_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be sum or mean"):
        log_ratios.chi_square(np.ones((2, 2)), how=Aggregate.MAX)


@pytest.mark.parametrize(
    "mask", [[[True], [False]], [[True, False, True]], [True, False, True], [[1, 0, 1], [1, 1, 1]]]
)
def test_a_mask_never_broadcasts_into_a_number(mask: Any) -> None:
    values, mask = np.ones((2, 3)), np.array(mask)
    for statistic in (log_ratios.masked_mean, log_ratios.chi_square, log_ratios.effective_sample_size):
        with pytest.raises((TypeError, ValueError), match="mask"):
            statistic(values, mask)
    with pytest.raises((TypeError, ValueError), match="mask"):
        log_ratios.aggregate(values, mask, Aggregate.SUM)
