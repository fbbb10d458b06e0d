"""The gradient in logits, against explicit vectors, finite differences, and extended precision near certainty."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.policy_gradient import feature_norm_sq, gradient_under, policy_gradient, score_dot
from tests.conftest import ToLibrary
from tests.core.laws import normalised

P = np.exp(normalised(np.random.default_rng(0).normal(size=(3, 4))))
ADVANTAGE = np.random.default_rng(1).normal(size=(3, 4))


def features(p: Any, advantage: Any) -> Any:
    """f(x) = A(x)(e_x − p), one row per token."""
    return advantage[:, None] * (np.eye(len(p)) - p)


def test_explicit_vectors(xp: ToLibrary) -> None:
    law = np.random.default_rng(2).normal(size=P.shape)  # signed, of any mass
    under = np.asarray(gradient_under(xp(law), xp(P), xp(ADVANTAGE)))
    gradient, norm = (np.asarray(f(xp(P), xp(ADVANTAGE))) for f in (policy_gradient, feature_norm_sq))
    dot = np.asarray(score_dot(xp(P), xp(law)))
    for s in range(3):
        np.testing.assert_allclose(dot[s], features(P[s], np.ones(4)) @ law[s], rtol=1e-13, atol=1e-15)
        f = features(P[s], ADVANTAGE[s])
        np.testing.assert_allclose(under[s], law[s] @ f, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(gradient[s], P[s] @ f, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(norm[s], np.sum(f**2, axis=-1), rtol=1e-13)


def test_it_is_the_derivative_of_the_expected_advantage() -> None:
    logits, step = np.log(P[0]), 1e-5

    def objective(x: Any) -> float:
        return float(np.exp(normalised(x)) @ ADVANTAGE[0])

    slopes = [(objective(logits + step * e) - objective(logits - step * e)) / (2 * step) for e in np.eye(4)]
    np.testing.assert_allclose(policy_gradient(P[0], ADVANTAGE[0]), slopes, rtol=1e-8, atol=1e-10)


def test_a_constant_advantage_has_no_gradient_at_all() -> None:
    assert np.all(policy_gradient(P, np.full_like(P, 0.1)) == 0.0)


@pytest.mark.parametrize("rest", [1e-3, 1e-9, 1e-30, 1e-300])
def test_a_near_certain_token_keeps_its_digits(rest: float) -> None:
    p = np.array([0.3 * rest, 1.0 - rest, 0.7 * rest])
    advantage = np.array([2.0, 1.0, -1.0])
    # The likeliest token's component is minus the others': Σ_x p_x A_x (e_x − p) adds up to 0.
    small = [0.3 * rest * (2.0 - 1.0), 0.7 * rest * (-1.0 - 1.0)]
    mean = 0.3 * (2.0 - 1.0) - 0.7 * 2.0
    expected = [small[0] - p[0] * rest * mean, -(1 - rest) * rest * mean, small[1] - p[2] * rest * mean]
    np.testing.assert_allclose(policy_gradient(p, advantage), expected, rtol=1e-12)
    found = float(feature_norm_sq(p, np.ones(3))[1])
    assert found == pytest.approx(rest**2 + (0.3**2 + 0.7**2) * rest**2, rel=1e-12, abs=0)
    assert math.isfinite(found)
    # ⟨e − p, v⟩ of the likeliest token for v = e − p itself, whose component there is the rest as well.
    vector = np.array([-p[0], rest, -p[2]])
    assert float(score_dot(p, vector)[1]) == pytest.approx(found, rel=1e-12, abs=0)


def test_components_add_up_to_zero() -> None:
    law = np.random.default_rng(3).dirichlet(np.ones(4), size=3)
    assert np.max(np.abs(np.sum(gradient_under(law, P, ADVANTAGE), axis=-1))) < 1e-15
