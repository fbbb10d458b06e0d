"""Quantities that vanish where two laws meet, against 50 digits.

The reference takes the float64 log-probs as exact numbers. Their rounding leaves sums that miss 1 by 1e-16,
and a divergence of second order is that of the normalised laws all the same. Where it is of first order, as TV
is, the reference is the formula of the docstring at the numbers given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from jackpot_sim.core import divergences, gaussian, numerics, sequence_divergences
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.sequences import kl_of_measures
from tests.conftest import ToLibrary
from tests.core.enumerations import of_two_tokens
from tests.core.laws import Pair, close_pair, exact_law

SCALES = (1e-3, 1e-6, 1e-9)
"""By how much log-probs differ."""
RTOL = 1e-13
"""What is left where the log-ratio, which is exact here, enters without any cancellation."""

Exact = Any
"""An mpmath number."""


@pytest.fixture(autouse=True)
def fifty_digits() -> Any:
    with mpmath.workdps(50):
        yield


def terms(pair: Pair, term: Callable[[Exact, Exact], Exact], normalise: bool = True) -> Exact:
    """Σ term(p, q) over the tokens of either law."""
    laws = (exact_law(law, normalise) for law in pair)
    return mpmath.fsum(term(p, q) for p, q in zip(*laws, strict=True) if p or q)


def exact_renyi(pair: Pair, alpha: float) -> Exact:
    a = mpmath.mpf(alpha)
    return mpmath.log(terms(pair, lambda p, q: p**a * q ** (1 - a))) / (a - 1)


REFERENCES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Pair], Exact]]] = {
    "kl": (divergences.kl, lambda pair: terms(pair, lambda p, q: p * mpmath.log(p / q))),
    "total_variation": (divergences.total_variation, lambda pair: terms(pair, lambda p, q: abs(p - q), False) / 2),
    "chi_square": (divergences.chi_square, lambda pair: terms(pair, lambda p, q: p * p / q) - 1),
    "hellinger": (divergences.hellinger, lambda pair: 1 - terms(pair, lambda p, q: mpmath.sqrt(p * q))),
    "jensen_shannon": (
        divergences.jensen_shannon,
        lambda pair: terms(pair, lambda p, q: (p * mpmath.log(2 * p / (p + q)) + q * mpmath.log(2 * q / (p + q))) / 2),
    ),
    **{
        f"renyi_{alpha!r}": (
            lambda p, q, alpha=alpha: divergences.renyi(p, q, alpha),
            lambda pair, alpha=alpha: exact_renyi(pair, alpha),
        )
        for alpha in (0.5, 1 - 1e-9, 1 + 1e-9, 2.0, 30.0)
    },
}
"""By name: the function, and what it computes."""


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", REFERENCES)
def test_divergences(xp: ToLibrary, name: str, scale: float) -> None:
    function, reference = REFERENCES[name]
    pair = close_pair(scale)
    found = function(*(xp(np.append(law, -math.inf)) for law in pair))  # a token of neither law changes nothing
    assert float(found) == pytest.approx(float(reference(pair)), rel=RTOL, abs=0)


def exact_binary_kl(p: float, q: float) -> Exact:
    with mpmath.workdps(800):  # of 1 − e⁻⁷⁰⁰ fifty digits are all nines
        u, v = (mpmath.exp(mpmath.mpf(x)) for x in (p, q))
        return u * mpmath.log(u / v) + (1 - u) * mpmath.log((1 - u) / (1 - v))


@pytest.mark.parametrize("apart", [1e-12, 1e-9, 1e-3, 0.3, 5.0])
@pytest.mark.parametrize("p", [-1e-15, -1e-6, -0.01, -math.log(2), -3.0, -40.0, -700.0])
def test_binary_kl(xp: ToLibrary, p: float, apart: float) -> None:
    # Near p = 1 it is the log-probs that hold the digits: q there is p times 1 − apart or 1 + apart.
    for q in (p * (1 + apart), p * (1 - apart) if apart < 1 else p / (1 + apart)):
        found = float(divergences.binary_kl(xp(np.array([p])), xp(np.array([q])))[0])
        assert found == pytest.approx(float(exact_binary_kl(p, q)), rel=1e-12, abs=0), (p, q)


@pytest.mark.parametrize("near", [1.0, -1.0])
def test_renyi_near_one_of_laws_that_are_not_close(near: float) -> None:
    pair = close_pair(2.0)
    for distance in (1e-3, 1e-6, 1e-9, 1e-12, 1e-13, 1e-14, 1e-15, 2.0**-52):
        alpha = 1 + near * distance
        found = float(divergences.renyi(pair.policy, pair.actor, alpha))
        assert found == pytest.approx(float(exact_renyi(pair, alpha)), rel=RTOL)
        # D_α is KL + O(α − 1).
        assert found == pytest.approx(float(divergences.kl(pair.policy, pair.actor)), rel=10 * distance + 1e-15)


@pytest.mark.parametrize("x", [0.0, 1e-18, 1e-9, -1e-9, 1e-3, 0.12, -0.12, 0.13, -0.13, 3.0, -40.0, 700.0])
def test_remainder_of_the_exponential(xp: ToLibrary, x: float) -> None:
    exact = mpmath.exp(x) - 1 - mpmath.mpf(x)
    assert float(numerics.exp_remainder(xp(np.array(x)))) == pytest.approx(float(exact), rel=4e-15, abs=0)


def test_ends_of_the_remainder_of_the_exponential(xp: ToLibrary) -> None:
    found = to_numpy(numerics.exp_remainder(xp(np.array([-math.inf, math.inf]))))
    np.testing.assert_array_equal(found, math.inf)


@pytest.mark.parametrize("sigma", [*SCALES, 0.3, 1.0, 2.9, 8.0])
def test_gaussian(sigma: float) -> None:
    s = mpmath.mpf(sigma)
    z = mpmath.erfc(s / mpmath.sqrt(8))
    kl = mpmath.log(z) + s * mpmath.npdf(s / 2) + s**2 / 2 * mpmath.ncdf(s / 2)
    assert float(gaussian.kl_accepted(sigma)) == pytest.approx(float(kl), rel=1e-14, abs=0)
    assert float(gaussian.total_variation(sigma)) == pytest.approx(float(1 - z), rel=1e-14, abs=0)


@pytest.mark.parametrize("scale", SCALES)
def test_chi_square_of_sequences(scale: float) -> None:
    given = of_two_tokens(close_pair(scale, (4, 3)), np.arange(9.0))
    laws = [[exact_law(row) for row in table] for table in (given.laws.policy_log_probs, given.laws.actor_log_probs)]
    p, q = ([law[0][i] * law[1 + i][j] for i in range(3) for j in range(3)] for law in laws)
    expected = mpmath.fsum((x - y) ** 2 / y for x, y in zip(p, q, strict=True))
    assert sequence_divergences.exact(given)["chi_square_sequence"] == pytest.approx(float(expected), rel=RTOL, abs=0)


@pytest.mark.parametrize("scale", SCALES)
def test_kl_of_measures(scale: float) -> None:
    pair = close_pair(scale)
    first, second = np.exp(pair.policy), np.exp(pair.actor) * (1 + scale)
    p, q = ([mpmath.mpf(float(x)) for x in each] for each in (first, second))
    sums = [mpmath.fsum(each) for each in (p, q)]
    kl = mpmath.fsum(x * mpmath.log(x / y * sums[1] / sums[0]) for x, y in zip(p, q, strict=True)) / sums[0]
    assert kl_of_measures(first, second) == pytest.approx(float(kl), rel=RTOL, abs=0)
