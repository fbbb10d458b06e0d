"""The centred form of corrections at states, against brute force, identities and extended precision."""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import backend
from jackpot_sim.estimators import Denominator, centred
from jackpot_sim.estimators.states import moments, sampled
from tests.cases import each, every, rotating
from tests.conftest import ToLibrary
from tests.estimators import brute
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import assert_same, columns, random_cell

PLAIN = [estimators.get(name) for name in estimators.names() if estimators.get(name).is_per_token]
MORE = [
    estimators.get("topr"),
    estimators.get("tis", clip=0.7),
    estimators.get("mis", low=0.0, high=1.5),
    estimators.get("obrs", lam=1.7),
    estimators.get("jackpot", lam=1.5, c1=0.6),
    estimators.get("jackpot", lam=0.5, c1=math.inf),
]
TOKEN = [*PLAIN, *MORE[1:]]
CELL = random_cell(3, 9)
ALL = {**CELLS, "random": CELL}
DENOMINATORS = list(Denominator)


def same_support(cell: Cell) -> Cell:
    """States of the cell in which the actor can write whatever the policy can."""
    reached = ~np.any((cell.actor == -math.inf) & (cell.policy > -math.inf), axis=-1)
    return Cell(*(x[reached] for x in cell))


@each("correction, cell, denominator", rotating(TOKEN, ALL, DENOMINATORS))
def test_moments_are_those_of_brute_force(correction: Any, cell: str, denominator: str) -> None:
    found = columns(moments.exact(*ALL[cell], centred(correction), denominator=denominator, n_samples=7))
    rule, lam = brute.rule_of(correction), correction.overlap_lam
    for name, expected in brute.moments(ALL[cell], rule, lam, denominator, 7, centred=True).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)


@each("correction, denominator", rotating(TOKEN, DENOMINATORS))
def test_the_form_of_the_mean_does_not_depend_on_the_order_of_wrappers(correction: Any, denominator: str) -> None:
    first, second = centred(estimators.rao_blackwell(correction)), estimators.rao_blackwell(centred(correction))
    cell = CELLS["three states"]
    found, expected = (moments.exact(*cell, form, denominator=denominator, n_samples=4) for form in (first, second))
    assert_same(found, expected)
    plain, smooth = (moments.exact(*cell, form, n_samples=4) for form in (centred(correction), first))
    assert smooth.bias == pytest.approx(plain.bias, rel=1e-12, abs=1e-15)
    assert smooth.variance <= plain.variance * (1 + 1e-12)


@each("cell, denominator", every(ALL, DENOMINATORS))
def test_importance_sampling_has_no_mean_to_lose(cell: str, denominator: str) -> None:
    states = same_support(ALL[cell])
    found = moments.exact(*states, centred(estimators.get("is")), denominator=denominator, n_samples=4)
    expected = moments.exact(*states, estimators.get("is"), denominator=denominator, n_samples=4)
    assert_same(found, expected, rtol=1e-12, atol=1e-14)


@each("correction, denominator", every(TOKEN, DENOMINATORS))
def test_a_constant_advantage_moves_nothing(correction: Any, denominator: str) -> None:
    for constant in (0.1, -7.3):
        cell = Cell(CELL.policy, CELL.actor, np.full((3, 9), constant))
        found = moments.exact(*cell, centred(correction), denominator=denominator).per_state
        assert np.all(np.abs(found.estimate_sq) < 1e-30)
        assert np.all(np.abs(found.error_sq) < 1e-30)


def test_without_centring_it_moves_at_once() -> None:
    cell = Cell(CELL.policy, CELL.actor, np.ones((3, 9)))
    assert np.all(moments.exact(*cell, estimators.get("none")).per_state.estimate_sq > 1e-3)


@each("correction, denominator", every(PLAIN, DENOMINATORS))
def test_the_laws_stay_those_of_the_correction_inside(correction: Any, denominator: str) -> None:
    found = moments.exact(*CELL, centred(correction), denominator=denominator)
    inner = moments.exact(*CELL, correction, denominator=denominator)
    for name in ("acceptance_rate", "kl_accepted", "kl_effective", "kl_prefix", "ess_fraction", "grad_norm_sq"):
        assert getattr(found, name) == pytest.approx(getattr(inner, name), rel=1e-12), name
    assert found.on_policy_variance == pytest.approx(inner.on_policy_variance, rel=1e-12)


@each("denominator, sign", every(DENOMINATORS, [1.0, -1.0]))
def test_one_sign_of_the_advantage_is_one_mean(denominator: str, sign: float) -> None:
    """Where all advantages have one sign, TOPR is no correction, or TIS at 1."""
    cell = Cell(CELL.policy, CELL.actor, sign * np.abs(CELL.advantage))
    same = estimators.get("none") if sign > 0 else estimators.get("tis", clip=1.0)
    found = moments.exact(*cell, centred(estimators.get("topr")), denominator=denominator, n_samples=4)
    assert_same(found, moments.exact(*cell, centred(same), denominator=denominator, n_samples=4), rtol=1e-12)


@each(
    "correction, cell, denominator",
    rotating(TOKEN, ["three states", "an actor that cannot reach the policy"], DENOMINATORS),
)
def test_monte_carlo_agrees_within_its_standard_error(correction: Any, cell: str, denominator: str) -> None:
    n = 300
    exact = columns(moments.exact(*ALL[cell], centred(correction), denominator=denominator, n_samples=n))
    generator = np.random.default_rng(zlib.crc32(f"{correction}{cell}{denominator}".encode()))
    found = sampled.estimate(*ALL[cell], centred(correction), generator, n_samples=n, denominator=denominator)
    for name in ("acceptance_rate", "bias_sq", "direction_bias", "gain", "variance", "mse", "ess_fraction"):
        if math.isnan(exact[name]):  # nothing is kept
            assert math.isnan(found.value[name]), name
        else:
            ratio = denominator != Denominator.PROPOSED or name == "direction_bias"
            slack = 0.5 / n if ratio else 1e-9  # a ratio of sums is biased by O(1/n)
            assert abs(found.value[name] - exact[name]) < 4 * found.standard_error[name] + slack, name


# ------------------------------------------------------------------- precision


@each("size, denominator", every([1e-3, 1e-6], DENOMINATORS))
def test_a_small_bias_keeps_its_digits(size: float, denominator: str) -> None:
    cell = random_cell(states=3, vocab=8, seed=4, shift=size)
    found = moments.exact(*cell, centred(estimators.get("none")), denominator=denominator)
    p, q = (np.exp(x.astype(np.longdouble)) for x in (cell.policy, cell.actor))
    moved = cell.advantage - np.sum(q * cell.advantage, axis=-1, keepdims=True)
    g, estimate = (x * moved - p * np.sum(x * moved, axis=-1, keepdims=True) for x in (p, q))
    expected = float(np.sqrt(np.sum((estimate - g) ** 2) / np.sum(g**2)))
    assert 0 < expected < size
    assert found.bias == pytest.approx(expected, rel=1e-14 / size + 1e-13, abs=0)


@pytest.mark.parametrize("rest", [1e-4, 1e-8])
@each("name", ["none", "tis", "jackpot"])
def test_a_near_certain_token_keeps_its_digits(name: str, rest: float) -> None:
    """1 − p = t: every gradient is of the order of t, and the likeliest token's own terms of the order of 1."""
    p, q = np.array([[0.6, 0.3, 0.1]]) * rest, np.array([[0.1, 0.5, 0.4]]) * rest
    policy, actor = (np.concatenate([np.log1p(-x.sum(axis=-1, keepdims=True)), np.log(x)], axis=-1) for x in (p, q))
    cell = Cell(policy, actor, np.array([[0.3, -1.0, 2.0, 0.5]]))
    correction = estimators.get(name)
    found = moments.exact(*cell, centred(correction)).per_state
    exact = Cell(*(x.astype(np.longdouble) for x in cell))
    expected = moments_in_long_double(exact, correction)
    for column, value in expected.items():
        assert getattr(found, column)[0] == pytest.approx(value, rel=3e-10 * 1e-8 / rest, abs=0), column


def moments_in_long_double(cell: Cell, correction: Any) -> dict[str, float]:
    """‖ĝ‖² and E‖X‖² of one state, each token's term summed as a vector."""
    accept, weight = correction.weights(
        (cell.policy - cell.actor).astype(float),
        None if correction.overlap_lam is None else np.minimum(np.exp(cell.policy), np.exp(cell.actor)).sum(),
    )
    p, q = np.exp(cell.policy[0]), np.exp(cell.actor[0])
    rest = np.array([p[np.arange(len(p)) != x].sum() for x in range(len(p))])
    unit = -np.tile(p, (len(p), 1))
    np.fill_diagonal(unit, rest)  # e_x − p, with 1 − p_x as a sum
    h = (q * (accept * weight)[0]) @ unit
    terms = [
        (chance, a * ((w * f if kept else 0 * f) - h))
        for a, alpha, w, f, qx in zip(cell.advantage[0], accept[0], weight[0], unit, q, strict=True)
        for kept, chance in ((True, qx * alpha), (False, qx * (1 - alpha)))
    ]
    mean = sum(chance * x for chance, x in terms)
    return {"estimate_sq": float(mean @ mean), "second_moment": float(sum(c * (x @ x) for c, x in terms))}


@each("correction, denominator", rotating(MORE, DENOMINATORS))
def test_torch_gives_the_same_as_numpy(correction: Any, denominator: str, xp: ToLibrary) -> None:
    expected = moments.exact(*CELL, centred(correction), denominator=denominator, n_samples=5)
    found = moments.exact(*(xp(x) for x in CELL), centred(correction), denominator=denominator, n_samples=5)
    assert_same(found, expected)


@each("name, denominator", every(["jackpot", "topr"], DENOMINATORS))
def test_results_do_not_depend_on_the_block(name: str, denominator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, correction = random_cell(states=6, vocab=13, seed=7), centred(estimators.get(name))
    if name == "jackpot":
        lam = np.linspace(0.3, 3.0, 6)[:, None]
        correction = centred(dataclasses.replace(estimators.get(name), lam=lam))  # type: ignore[type-var]
    expected = moments.exact(*cell, correction, denominator=denominator, n_samples=5)
    for size in (1, 39):
        monkeypatch.setattr(backend, "BLOCK_ELEMENTS", size)
        assert_same(moments.exact(*cell, correction, denominator=denominator, n_samples=5), expected)
