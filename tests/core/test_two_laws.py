"""Two laws and the weighted forms of one, against the general formulas and against 50 digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from jackpot_sim.core.backend import BLOCK_ELEMENTS, to_numpy
from jackpot_sim.core.divergences import BY_NAME, kl
from jackpot_sim.core.two_laws import TwoLaws, kl_by_blocks
from jackpot_sim.core.weighted_laws import kl_to_weighted, weighted_less_policy
from tests.conftest import ToLibrary
from tests.core.laws import close_pair, exact_law, normalised

WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "1": np.ones_like,
    "r": lambda r: r,
    "clipped": lambda r: np.minimum(r, 1.2),
    "rejected": lambda r: np.minimum(r, 1.0),
    "scaled": lambda r: 0.7 * r,
    "smooth": lambda r: 4 * r / (1 + r) ** 2,
    "some dropped": lambda r: np.where(r < 1.5, r, 0.0),
    "all dropped": np.zeros_like,
}

ROUNDING = {"total_variation": 1e-16, "kl_policy_actor": 1e-30, "kl_actor_policy": 1e-30, "chi_square": 1e-30}
"""Of divergences of laws that are equal but for rounding."""


def pair_of(states: int, vocab: int, spread: float) -> tuple[Any, Any]:
    generator = np.random.default_rng(vocab)
    policy = normalised(3 * generator.standard_normal((states, vocab)))
    return policy, normalised(policy + spread * generator.standard_normal((states, vocab)))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("states", "spread"), [(1, 0.5), (1, 2.0), (4, 0.5)])
def test_any_weight_gives_what_the_general_formulas_give(name: str, states: int, spread: float, xp: ToLibrary) -> None:
    policy, actor = pair_of(states, 60, spread)
    laws = TwoLaws(xp(policy), xp(actor))
    weight = WEIGHTS[name](np.exp(policy - actor))
    less = laws.less_policy(xp(weight))
    expected = weighted_less_policy(np.exp(actor), np.exp(policy), weight, policy - actor)
    np.testing.assert_allclose(np.asarray(less), expected, rtol=0, atol=1e-15)
    kl = kl_to_weighted(policy, actor, weight)
    for given in (less, None):
        np.testing.assert_allclose(np.asarray(laws.kl_to(xp(weight), given)), kl, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("certain", [0.0, 20.0, 40.0])
def test_a_difference_from_a_nearly_certain_policy_keeps_its_digits(name: str, certain: float, xp: ToLibrary) -> None:
    generator = np.random.default_rng(3)
    actor = normalised(generator.standard_normal((2, 8)))
    policy = normalised(actor + certain * np.eye(8)[:2] + 0.1 * generator.standard_normal((2, 8)))
    weight = WEIGHTS[name](np.exp(policy - actor))
    p, law = np.exp(policy), np.exp(actor) * weight
    found = np.asarray(TwoLaws(xp(policy), xp(actor)).less_policy(xp(weight)))
    # Each term has the rounding of its own law and p, of which most are far below that of q.
    rounding = 8 * np.finfo(float).eps * (1 + np.abs(policy - actor)) * (law + p)
    expected = weighted_less_policy(np.exp(actor), p, weight, policy - actor)
    assert np.all(np.abs(found - expected) <= rounding)


@pytest.mark.parametrize("name", ["1", "rejected", "smooth"])
@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9])
def test_near_equal_laws_keep_their_digits(name: str, scale: float) -> None:
    pair = close_pair(scale)
    laws = TwoLaws(*(x[None, :] for x in pair))
    weight = WEIGHTS[name](laws.ratio)
    with mpmath.workdps(50):
        p, q = (exact_law(law) for law in pair)
        # A smooth weight near 1 is taken as it was rounded.
        of_one = {"1": lambda r, v: 1, "rejected": lambda r, v: min(r, 1), "smooth": lambda r, v: mpmath.mpf(float(v))}
        measure = [y * of_one[name](x / y, v) for x, y, v in zip(p, q, weight[0], strict=True)]
        factor = mpmath.fsum(measure) / mpmath.fsum(p)
        expected = float(mpmath.fsum(x * mpmath.log(x / m * factor) for x, m in zip(p, measure, strict=True)))
    tolerance = 1e-11 + (1e-14 / scale if name == "smooth" else 0)
    assert laws.kl_to(weight)[0] == pytest.approx(expected, rel=tolerance, abs=1e-32)


@pytest.mark.parametrize("name", WEIGHTS)
def test_probabilities_of_zero(name: str) -> None:
    inf = -math.inf
    policy = np.array([[inf, inf, *np.log([0.3, 0.7])], [inf, *np.log([0.2, 0.3, 0.5])]])
    actor = np.array([[inf, *np.log([0.1, 0.4, 0.5])], [np.log(0.4), inf, *np.log([0.1, 0.5])]])
    laws = TwoLaws(policy, actor)
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isfinite(policy) & np.isfinite(actor), np.exp(policy - actor), 0.0)
    weight = WEIGHTS[name](ratio)
    np.testing.assert_allclose(laws.less_policy(weight), np.exp(actor) * weight - np.exp(policy), rtol=0, atol=1e-16)
    np.testing.assert_allclose(laws.kl_to(weight), kl_to_weighted(policy, actor, weight), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_plain_takes_the_general_formulas(dtype: str) -> None:
    policy = np.log(np.array([[0.5, 0.5], [0.4, 0.6]], dtype=dtype))
    actor = np.array([[-720.0, 0.0], [math.log(0.5)] * 2], dtype=dtype)
    laws = TwoLaws(policy, actor)
    assert not laws.is_plain
    weight = np.ones_like(policy)
    np.testing.assert_array_equal(laws.kl_to(weight), kl_to_weighted(policy, actor, weight))
    for divergence, values in laws.divergences().items():
        np.testing.assert_array_equal(values, BY_NAME[divergence](policy, actor))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.5, 3.0])
def test_divergences_are_those_by_name(spread: float, xp: ToLibrary) -> None:
    policy, actor = pair_of(3, 50, spread)
    found = TwoLaws(xp(policy), xp(actor)).divergences()
    assert list(found) == list(BY_NAME)
    for name, values in found.items():
        np.testing.assert_allclose(
            np.asarray(values), BY_NAME[name](policy, actor), rtol=1e-12, atol=ROUNDING.get(name, 0)
        )


def test_divergences_where_supports_differ() -> None:
    cases = [([0.5, 0.5, 0], [0.2, 0.3, 0.5]), ([0.2, 0.3, 0.5], [0.5, 0.5, 0]), ([0.5, 0, 0.5], [0, 0.5, 0.5])]
    with np.errstate(divide="ignore"):
        policy, actor = (np.log(np.array(each, dtype=float)) for each in zip(*cases, strict=True))
    found = TwoLaws(policy, actor).divergences()
    for name, values in found.items():
        np.testing.assert_allclose(values, BY_NAME[name](policy, actor), rtol=1e-14)


def test_the_kl_by_blocks_is_that_of_all_states_at_once(xp: ToLibrary) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(5, BLOCK_ELEMENTS // 2))
    policy, actor = normalised(logits), normalised(logits + 0.3 * rng.normal(size=logits.shape))
    actor[1, 7] = -math.inf
    actor[1] = normalised(actor[1])
    policy[2, 9] = -math.inf
    policy[2] = normalised(policy[2])
    expected = kl(policy, actor)
    np.testing.assert_array_equal(np.isinf(expected), [False, True, False, False, False])
    np.testing.assert_allclose(to_numpy(kl_by_blocks(xp(policy), xp(actor))), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="normalised"):
        kl_by_blocks(xp(policy + 1.0), xp(actor))
