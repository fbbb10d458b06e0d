"""What corrections leave between near-equal laws, against 50 digits at the float64 log-probs as given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.states import moments, path
from tests.conftest import ToLibrary
from tests.core.enumerations import of_two_tokens
from tests.core.laws import Pair, close_pair, exact_law

SCALES = (1e-3, 1e-6, 1e-9)
"""By how much log-probs differ."""
RTOL = 1e-11
"""Of what follows from log-ratios, weights of 1 and weights of r alone."""

Exact = Any
"""An mpmath number."""


@pytest.fixture(autouse=True)
def fifty_digits() -> Any:
    with mpmath.workdps(50):
        yield


RULES: dict[str, tuple[Any, Callable[[Exact, Exact], tuple[Exact, Exact]]]] = {
    "none": (estimators.get("none"), lambda r, z: (1, 1)),
    "obrs": (estimators.get("obrs", lam=1.0), lambda r, z: (min(1, r), 1)),
    "tis": (estimators.get("tis", clip=1.0), lambda r, z: (1, min(r, 1))),
    "overlap-tis": (estimators.get("overlap-tis", lam=1.0, c1=1.0), lambda r, z: (1, min(z * r, 1))),
    "jackpot": (estimators.get("jackpot", lam=1.0, c1=1.0), lambda r, z: (min(1, r), min(z * max(1, r), 1))),
}
"""A correction, and its accept probability and weight from r and Z(1)."""
ROUNDED = ("overlap-tis", "jackpot")
"""Those whose weights near 1 are rounded to 1e-16."""


def tolerance(name: str, scale: float) -> float:
    return RTOL + (1e-15 / scale if name in ROUNDED else 0)


def gradient(law: list[Exact], p: list[Exact], advantage: Any) -> list[Exact]:
    total = mpmath.fsum(m * a for m, a in zip(law, advantage, strict=True))
    return [m * a - x * total for m, a, x in zip(law, advantage, p, strict=True)]


def exact_kl(p: list[Exact], measure: list[Exact]) -> Exact:
    factor = mpmath.fsum(measure) / mpmath.fsum(p)
    return mpmath.fsum(x * mpmath.log(x / m * factor) for x, m in zip(p, measure, strict=True)) / mpmath.fsum(p)


def reference(pair: Pair, advantage: Any, name: str, own_divisor: bool = False) -> dict[str, float]:
    p, q = (exact_law(law) for law in pair)
    ratios = [x / y for x, y in zip(p, q, strict=True)]
    z = mpmath.fsum(min(x, y) for x, y in zip(p, q, strict=True))
    rules = [RULES[name][1](r, z) for r in ratios]
    accepted = [y * a for y, (a, _) in zip(q, rules, strict=True)]
    law = [m * w for m, (_, w) in zip(accepted, rules, strict=True)]
    # A mean of weights near 1 is compared with the sum of the policy's probabilities, which is near 1 as well.
    divisor = mpmath.fsum(law) / mpmath.fsum(p) if own_divisor else mpmath.mpf(1)
    true = gradient(p, p, advantage)
    found = [x / divisor for x in gradient(law, p, advantage)]
    signal = mpmath.fsum(x * x for x in true)
    size = mpmath.fsum(x * x for x in found)
    dot = mpmath.fsum(x * y for x, y in zip(found, true, strict=True))
    return {
        "bias": float(mpmath.sqrt(mpmath.fsum((x - y) ** 2 for x, y in zip(found, true, strict=True)) / signal)),
        "direction_bias": float(1 - dot / mpmath.sqrt(size * signal)),
        "kl_accepted": float(exact_kl(p, accepted)),
        "kl_effective": float(exact_kl(p, law)),
    }


def advantages(shape: tuple[int, ...] = (30,)) -> Any:
    return np.random.default_rng(1).normal(size=shape)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("denominator", ["proposed", "self_normalized"])
@pytest.mark.parametrize("name", RULES)
def test_moments(xp: ToLibrary, name: str, denominator: str, scale: float) -> None:
    pair, advantage = close_pair(scale), advantages()
    found = moments.exact(*(xp(x) for x in (*pair, advantage)), RULES[name][0], denominator=denominator)
    for column, expected in reference(pair, advantage, name, denominator == "self_normalized").items():
        assert getattr(found, column) == pytest.approx(expected, rel=tolerance(name, scale), abs=1e-30), column


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("denominator", ["proposed", "self_normalized"])
@pytest.mark.parametrize("name", RULES)
def test_path(name: str, denominator: str, scale: float) -> None:
    pair, advantage = close_pair(scale), advantages()
    found = path.exact(*pair, advantage, RULES[name][0], denominator=denominator)
    for column, expected in reference(pair, advantage, name, denominator == "self_normalized").items():
        assert getattr(found, column)[0] == pytest.approx(expected, rel=tolerance(name, scale), abs=1e-30), column


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["none", "tis"])
def test_enumerated(name: str, scale: float) -> None:
    given = of_two_tokens(close_pair(scale, (4, 3)), advantages((9,)))
    found = enumerated.exact([given], RULES[name][0])
    p, q = ([exact_law(row) for row in each] for each in (given.laws.policy_log_probs, given.laws.actor_log_probs))
    # Σ_y A(y) Σ_t m_t (e_t − p(·|s_t)), by prefix and token, for m_t = q(y)·w_t and for m_t = p(y).
    error, true = ([[mpmath.mpf(0)] * 3 for _ in range(4)] for _ in range(2))
    for y, (prefixes, tokens) in enumerate(zip(given.sequences.prefix, given.sequences.token, strict=True)):
        places = list(zip(prefixes, tokens, strict=True))
        whole = [mpmath.fprod(law[s][x] for s, x in places) for law in (p, q)]
        for s, x in places:
            weight = RULES[name][1](p[s][x] / q[s][x], None)[1]
            for table, mass in ((error, whole[1] * weight - whole[0]), (true, whole[0])):
                for i in range(3):
                    table[s][i] += mass * given.advantage[y] * ((i == x) - p[s][i])
    sizes = [mpmath.fsum(x * x for row in table for x in row) for table in (error, true)]
    assert found.bias == pytest.approx(
        float(mpmath.sqrt(sizes[0] / sizes[1])), rel=RTOL + 1e-15 / scale * (name != "none")
    )
