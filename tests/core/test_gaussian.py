"""The Gaussian closed forms against quadrature, large samples and their limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jackpot_sim.core import divergences, gaussian, obrs
from jackpot_sim.core.numerics import log_softmax

SIGMAS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0)


def under_policy(function: Callable[[float], float], sigma: float) -> float:
    """E_p[function(ℓ)] with ℓ ~ N(σ²/2, σ²), in two pieces that meet at the kink ℓ = 0."""

    def integrand(z: float) -> float:
        return float(function(sigma**2 / 2 + sigma * z) * norm.pdf(z))

    kink, width = -sigma / 2, 12 + 2 * sigma
    pieces = [(-width, kink), (kink, width)]
    return sum(quad(integrand, a, b, epsabs=1e-15, epsrel=1e-13, limit=200)[0] for a, b in pieces)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_against_quadrature(sigma: float) -> None:
    # Under p, E_q[g] = E_p[g e^−ℓ]: so Z = E_p[min(1, e^−ℓ)], and log(p/q̃) = log Z + max(ℓ, 0).
    z = under_policy(lambda l: min(1.0, math.exp(-l)), sigma)
    assert float(gaussian.overlap(sigma)) == pytest.approx(z, rel=1e-10)
    assert float(gaussian.kl(sigma)) == pytest.approx(under_policy(lambda l: l, sigma), rel=1e-10)
    after = math.log(z) + under_policy(lambda l: max(l, 0.0), sigma)
    assert float(gaussian.kl_accepted(sigma)) == pytest.approx(after, rel=1e-10, abs=1e-14)


def test_golden_values() -> None:
    # By scipy.stats.norm 1.17: 2Φ(−1/2), and log Z + φ(1/2) + Φ(1/2)/2
    assert float(gaussian.overlap(1.0)) == pytest.approx(0.6170750774519738, rel=1e-15)
    expected = math.log(2 * norm.cdf(-0.5)) + norm.pdf(0.5) + norm.cdf(0.5) / 2
    assert float(gaussian.kl_accepted(1.0)) == pytest.approx(expected, rel=1e-14)
    assert float(gaussian.kl(3.0)) == 4.5


@pytest.mark.parametrize("sigma", [1e-2, 1e-3, 1e-5, 1e-7])
def test_small_noise(sigma: float) -> None:
    """Acceptance 1 − √(KL/π), and a KL that falls to 1/2 − 1/(2π) + (φ/3 − 2φ³/3)σ with φ = 1/√(2π), up to σ²."""
    kl = float(gaussian.kl(sigma))
    assert 1 - float(gaussian.overlap(sigma)) == pytest.approx(math.sqrt(kl / math.pi), rel=sigma**2 + 1e-15 / sigma)
    ratio = float(gaussian.kl_accepted(sigma)) / kl
    density = 1 / math.sqrt(2 * math.pi)
    expected = gaussian.SMALL_NOISE_KL_RATIO + (density - 2 * density**3) / 3 * sigma
    assert ratio == pytest.approx(expected, abs=0.1 * sigma**2 + 1e-15 / sigma)
    assert pytest.approx(0.3408450569, abs=1e-10) == gaussian.SMALL_NOISE_KL_RATIO


def test_limits_of_no_noise_and_much_noise() -> None:
    assert [float(f(0.0)) for f in (gaussian.kl, gaussian.overlap, gaussian.kl_accepted)] == [0, 1, 0]
    # log Z ≈ −σ²/8 and Φ → 1: three quarters of the KL remain
    assert float(gaussian.kl_accepted(200.0)) / float(gaussian.kl(200.0)) == pytest.approx(0.75, abs=1e-3)


def test_arrays_and_monotonicity() -> None:
    sigma = np.linspace(0, 6, 600).reshape(3, 200)
    for function, sign in ((gaussian.kl, 1), (gaussian.overlap, -1), (gaussian.kl_accepted, 1)):
        values = function(sigma)
        assert values.shape == sigma.shape
        assert np.all(sign * np.diff(values.ravel()) > 0)
        assert float(values[1, 7]) == float(function(sigma[1, 7]))
    assert np.all(gaussian.kl_accepted(sigma) <= gaussian.kl(sigma))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, [1.0, -1.0]])
def test_a_scale_is_finite_and_not_negative(bad: float) -> None:
    for function in (gaussian.kl, gaussian.overlap, gaussian.kl_accepted):
        with pytest.raises(ValueError, match="sigma must be finite and not negative"):
            function(bad)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_against_a_large_vocabulary(sigma: float) -> None:
    """Sixteen vocabularies of 100,000: within 5 standard errors of their mean, itself below 1% of the value."""
    rng = np.random.default_rng(0)
    actor = log_softmax(rng.normal(size=(16, 100_000)))
    policy = log_softmax(actor + sigma * rng.normal(size=actor.shape))
    z, accepted = obrs.overlap(policy, actor), obrs.accepted_log_probs(policy, actor, 1.0)
    samples = {
        "kl": (divergences.kl(policy, actor), gaussian.kl(sigma)),
        "overlap": (z, gaussian.overlap(sigma)),
        "kl_accepted": (
            divergences.kl(policy, accepted),
            gaussian.kl_accepted(sigma),
        ),
    }
    for name, (sample, closed_form) in samples.items():
        error = float(np.std(sample, ddof=1)) / 4
        assert error < 0.01 * float(closed_form), name
        assert abs(float(np.mean(sample)) - float(closed_form)) < 5 * error, name
