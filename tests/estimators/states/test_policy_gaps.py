"""Biases far below 1e-8 along a path, and the sums that keep their digits, against 50 digits."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.states import moments, path
from jackpot_sim.estimators.states.cumulated import runs_of
from jackpot_sim.estimators.states.optimum import with_parameter
from jackpot_sim.estimators.states.policy_gaps import PolicyGaps
from tests.cases import each
from tests.core.laws import exact_law, normalised

Exact = Any
"""An mpmath number."""


@pytest.fixture(autouse=True)
def fifty_digits() -> Any:
    with mpmath.workdps(50):
        yield


def tailed(vocab: int = 40, tail: float = 24.0) -> tuple[Any, Any, Any]:
    """Two states whose largest ratios belong to tokens of mass down to e^−tail, (2, vocab)."""
    generator = np.random.default_rng(3)
    logits = 2 * generator.normal(size=(2, vocab)) - np.linspace(0, tail, vocab)
    actor = logits + 0.5 * generator.normal(size=(2, vocab)) - np.linspace(0, 1, vocab)
    return normalised(logits), normalised(actor), generator.normal(size=(2, vocab))


def update(law: list[Exact], p: list[Exact], advantage: Any) -> list[Exact]:
    total = mpmath.fsum(m * a for m, a in zip(law, advantage, strict=True))
    return [m * a - x * total for m, a, x in zip(law, advantage, p, strict=True)]


def exact_bias(laws: tuple[Any, Any, Any], law_of: Any, threshold: float, own: bool) -> float:
    """‖ĝ − g‖/‖g‖ over the states, for the law that `law_of` makes of p, q, r, Σmin(q, p) and the threshold."""
    missed, signal = mpmath.mpf(0), mpmath.mpf(0)
    for log_p, log_q, advantage in zip(*laws, strict=True):
        p, q = exact_law(log_p), exact_law(log_q)
        z = mpmath.fsum(map(min, p, q))
        law = [law_of(x, y, x / y, z, mpmath.mpf(threshold)) for x, y in zip(p, q, strict=True)]
        divisor = mpmath.fsum(law) / mpmath.fsum(p) if own else mpmath.mpf(1)
        error = update([m / divisor - x for m, x in zip(law, p, strict=True)], p, advantage)
        missed += mpmath.fsum(x * x for x in error)
        signal += mpmath.fsum(x * x for x in update(p, p, advantage))
    return float(mpmath.sqrt(missed / signal))


FAMILIES: dict[str, tuple[Any, str, str, Any]] = {
    "tis": (estimators.get("tis"), "clip", "proposed", lambda p, q, r, z, c: q * min(r, c)),
    "tis, own": (estimators.get("tis"), "clip", "self_normalized", lambda p, q, r, z, c: q * min(r, c)),
    "obrs, own": (estimators.get("obrs"), "lam", "self_normalized", lambda p, q, r, z, c: min(q, p / c)),
    "jackpot, own": (
        estimators.get("jackpot"),
        "c1",
        "self_normalized",
        lambda p, q, r, z, c: min(q, p) * min(z * max(1, r), c),
    ),
    "overlap-tis, own": (
        estimators.get("overlap-tis"),
        "c1",
        "self_normalized",
        lambda p, q, r, z, c: q * min(z * r, c),
    ),
}


@each("family", FAMILIES)
def test_a_bias_has_no_floor(family: str) -> None:
    correction, parameter, denominator, law_of = FAMILIES[family]
    laws = tailed()
    ratios = np.sort(np.exp(laws[0] - laws[1]).ravel())
    thresholds = np.array([*(ratios[-1] * np.linspace(0.99, 0.5, 6)), *(ratios[::8] * 1.001)])
    found = path.exact(*laws, with_parameter(correction, parameter, thresholds), denominator=denominator).bias
    expected = [exact_bias(laws, law_of, c, denominator == "self_normalized") for c in thresholds]
    assert min(expected) < 1e-9
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-30)


def test_a_shared_acceptance_rate_leaves_no_floor() -> None:
    # At λ ≥ max r OBRS accepts p/λ: over the rate 1/λ that is p, but for the rounding of the rate.
    laws = tailed()
    lam = np.exp(laws[0] - laws[1]).max() * np.array([1.0, 3.0])
    found = path.exact(*laws, estimators.get("obrs", lam=lam), denominator="accepted").bias
    assert np.all(found < 1e-15)
    single = moments.exact(*laws, estimators.get("obrs", lam=float(lam[1])), denominator="accepted")
    assert single.bias < 1e-15


# ------------------------------------------------------------------------ sums


def sums_by_hand(
    p: Any, q: Any, factors: Any, coefficient: float, power: int, span: slice, absolute: bool = False
) -> list[Exact]:
    error = [mpmath.mpf(coefficient) * y * (mpmath.mpf(x) / y) ** power - x for x, y in zip(p, q, strict=True)][span]
    error = [abs(e) for e in error] if absolute else error
    sums = [mpmath.fsum(e * mpmath.mpf(f) for e, f in zip(error, row[span], strict=True)) for row in factors]
    return [*sums, mpmath.fsum((e * mpmath.mpf(a)) ** 2 for e, a in zip(error, factors[1][span], strict=True))]


def laws_of_powers() -> tuple[Any, Any, Any]:
    """p, q and factors whose ratios, 1 + k·2⁻²⁰ and some far apart, are exact, so that nothing but sums is rounded."""
    generator = np.random.default_rng(1)
    ratio = np.array([0.0, 0.25, 1 - 2.0**-20, 1 - 2.0**-21, 1.0, 1.0, 1 + 2.0**-20, 1 + 2.0**-19, 4.0, 2.0**30])
    q = 2.0 ** -generator.integers(3, 20, size=len(ratio)) / np.maximum(ratio, 1)
    q[:2] *= 2.0**-60  # beside the sums of all others those of the lowest would be lost
    advantage = generator.normal(size=len(ratio))
    return q * ratio, q, np.stack([np.ones(len(ratio)), advantage, advantage * q * ratio, advantage**2 * q * ratio])


@each("power", [0, 1])
@each("coefficient", [0.0, 0.1, 0.5, 1 - 2.0**-20, 1.0, 1 + 2.0**-21, 3.0, 5.0, 2.0**40])
def test_sums_of_every_stretch(coefficient: float, power: int) -> None:
    p, q, factors = laws_of_powers()
    with np.errstate(divide="ignore"):
        runs = runs_of(np.log(p / q), np.zeros(len(p), dtype=np.int64))
    gaps = PolicyGaps(p, q, factors, runs)
    ratio = p / q
    everywhere = sums_by_hand(p, q, abs(factors), coefficient, power, slice(None), absolute=True)
    for start in (0, 2, 4):
        for stop in (2, 5, 8, 10):
            span = slice(start, max(start, stop))
            found = gaps.sums(coefficient, power, start, max(start, stop), 0)
            expected = sums_by_hand(p, q, factors, coefficient, power, span)
            size = sums_by_hand(p, q, abs(factors), coefficient, power, span, absolute=True)
            # The tokens on the far side of a stretch are subtracted, if c lies inside it or beyond.
            from_an_end = (start == 0 or coefficient <= ratio[start]) and (
                stop == len(p) or coefficient >= ratio[stop - 1]
            )
            for value, true, most, whole in zip(found, expected, size, everywhere, strict=True):
                far_side = 0.0 if from_an_end else 1e-15 * float(whole)
                assert abs(value - float(true)) <= 1e-13 * float(most) + far_side


def test_an_actor_that_hardly_reaches_a_token_leaves_finite_sums() -> None:
    # Squares of these ratios overflow, and those of the probabilities vanish.
    p = np.array([0.25, 0.25, 0.5, 0.0])
    q = np.array([1.0, 1e-130, 1e-150, 1e-300])
    order = np.array([3, 0, 1, 2])
    p, q = p[order], q[order]
    factors = np.stack([np.ones(4), np.ones(4), p, p])
    with np.errstate(divide="ignore"):
        runs = runs_of(np.log(p) - np.log(q), np.zeros(4, dtype=np.int64))
    gaps = PolicyGaps(p, q, factors, runs)
    found = gaps.sums(2.0, 0, 0, 4, 0)
    # Σ (2q − p) = 2 − 1, Σ (2q − p)p = 1.75/4 − 1/16 − 1/4, and Σ (2q − p)² = 1.75² + 1/16 + 1/4.
    expected = [1.0, 1.0, 1.75 / 4 - 1 / 16 - 1 / 4, 1.75 / 4 - 1 / 16 - 1 / 4, 1.75**2 + 1 / 16 + 1 / 4]
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-14)
    assert np.isfinite(gaps.sums(math.e, 0, 2, 4, 0)).all()
