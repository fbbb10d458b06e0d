"""Corrections that reshape r: identities with others, their gradients, and the ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators

INF = math.inf
RATIOS = np.array([1e-3, 0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0, 50.0])


def weight_of(name: str, ratio: Any, advantage: float, **parameters: float) -> Any:
    with np.errstate(divide="ignore"):
        log_ratio = np.log(np.asarray(ratio, dtype=float))
    found = estimators.get(name, **parameters).weights(log_ratio, advantages=np.array(advantage))
    np.testing.assert_array_equal(found.accept, 1.0)
    return found.weight


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (1.0, 4.0), (0.0, INF)])
def test_cispo_is_tis_with_a_floor(low: float, high: float) -> None:
    found = weight_of("cispo", RATIOS, 1.0, low=low, high=high)
    np.testing.assert_array_equal(found, weight_of("tis", RATIOS, 1.0, clip=1 + high, floor=1 - low))
    np.testing.assert_array_equal(found, weight_of("cispo", RATIOS, -1.0, low=low, high=high))


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_sapo_is_the_gradient_of_its_gate(advantage: float) -> None:
    # d/dℓ of 4/τ · sigmoid(τ(e^ℓ − 1)), by central differences.
    tau = 1.3 if advantage > 0 else 0.7
    log_ratio, step = np.log(RATIOS[:-1]), 1e-6

    def gate(l: Any) -> Any:
        return 4 / tau / (1 + np.exp(-tau * np.expm1(l)))

    slope = (gate(log_ratio + step) - gate(log_ratio - step)) / (2 * step)
    found = weight_of("sapo", RATIOS[:-1], advantage, tau_positive=1.3, tau_negative=0.7)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-9)


def test_topr_trusts_good_tokens_and_tapers_bad_ones() -> None:
    np.testing.assert_array_equal(weight_of("topr", RATIOS, 1.0), 1.0)
    for advantage in (-1.0, 0.0):
        np.testing.assert_allclose(weight_of("topr", RATIOS, advantage), np.minimum(RATIOS, 1.0), rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "at_0", "at_1", "at_inf"),
    [("cispo", 0.8, 1.0, 1.2), ("sapo", 0.0, 1.0, 0.0), ("topr", 0.0, 1.0, 1.0)],
)
def test_the_ends(name: str, at_0: float, at_1: float, at_inf: float) -> None:
    for ratio in (0.0, 1e-300):
        np.testing.assert_allclose(weight_of(name, ratio, -1.0), at_0, atol=1e-200, rtol=1e-15)
    np.testing.assert_array_equal(weight_of(name, 1.0, -1.0), at_1)
    for ratio in (1e300, INF):
        np.testing.assert_allclose(weight_of(name, ratio, -1.0), at_inf, rtol=1e-15)


@pytest.mark.parametrize("name", ["sapo", "topr"])
def test_the_sign_of_the_advantage_is_needed(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs advantages"):
        estimators.get(name).weights(np.zeros(2))
