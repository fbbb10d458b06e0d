"""λ from a budget: against a bracketing root finder, at the edges of what is attainable, and on every path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from jackpot_sim.core import backend, budget
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.budget import solve_lam
from tests.cases import each, every
from tests.conftest import ToLibrary
from tests.core.laws import Law, Pair, law_pairs, normalised, of_probabilities

BUDGETS = (1e-12, 0.01, 0.3, 0.8, 0.95, 0.9999)
EXACT = 1e-11
"""|Z(λ) − ā| that is allowed."""

HOLED = Pair(of_probabilities(0.5, 0.0, 0.3, 0.2, 0.0), of_probabilities(0.2, 0.1, 0.7, 0.0, 0.0))
"""Ratios 5/2 and 3/7, and 0.9 to be had."""


def z(pair: Pair, lam: Any) -> Any:
    """Z(λ) of each state, in extended precision."""
    lam = np.asarray(lam, dtype=np.longdouble)[..., None]
    return np.sum(np.minimum(pair.q, pair.p / lam), axis=-1)


def by_bisection(pair: Pair, rate: float) -> float:
    """The one λ at which the mean Z of the states is `rate`, by brentq over log λ."""
    r = pair.ratios
    ends = float(np.log(np.min(r))) - 1e-9, float(max(np.log(np.max(r)), -math.log(rate))) + 1.0
    log_lam = brentq(lambda x: float(np.mean(z(pair, np.exp(x))) - rate), *ends, xtol=1e-15, rtol=1e-14)
    return math.exp(log_lam)


def random_pair(shape: tuple[int, ...], kind: str = "gauss", seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    if kind == "mixture":
        policy = rng.standard_gamma(2.0, size=shape)
        noise = rng.standard_gamma(1.0, size=shape)
        actor = 0.9 * policy / policy.sum(-1, keepdims=True) + 0.1 * noise / noise.sum(-1, keepdims=True)
        return Pair(normalised(np.log(policy)), normalised(np.log(actor)))
    policy = rng.normal(size=shape) * 2
    if kind == "zipf":
        policy = policy / 2 - 1.2 * np.log(np.arange(1, shape[-1] + 1))
    if kind == "peaked":
        policy[..., shape[-1] // 3] += 40.0
    actor = policy + rng.normal(size=shape) * (1.0 if kind == "zipf" else 0.5)
    if kind == "holed":
        policy[..., ::7] = -math.inf
        actor[..., ::5] = -math.inf
    return Pair(normalised(policy), normalised(actor))


KINDS = ("gauss", "zipf", "mixture", "peaked", "holed")


@pytest.fixture(params=["rows", "tiles", "reread"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each way through the solver, at small vocabularies: whole rows, kept tiles, tiles read again."""
    if request.param != "rows":
        for module in (backend, budget):
            monkeypatch.setattr(module, "BLOCK_ELEMENTS", 32)
        monkeypatch.setattr(budget, "_SAMPLE", 16)
    if request.param == "reread":
        monkeypatch.setattr(budget, "_STORED", 40)
    return request.param


# ---------------------------------------------------------------- exactness


@each("vocab, kind", every([2, 7, 64, 300], KINDS))
def test_per_state_is_the_root_that_bisection_finds(kind: str, vocab: int, path: str) -> None:
    pair = random_pair((3, vocab), kind, seed=vocab)
    for share in BUDGETS:
        rates = share * np.array([Pair(*state).attainable for state in zip(*pair, strict=True)])
        lam = solve_lam(*pair, rates)
        np.testing.assert_allclose(np.asarray(z(pair, lam), dtype=float), rates, rtol=0, atol=EXACT)
        for state, rate, found in zip(zip(*pair, strict=True), rates, lam, strict=True):
            expected = by_bisection(Pair(*state), rate)
            # What rounding leaves of λ depends on how steeply Z falls there.
            assert found == pytest.approx(expected, rel=max(1e-11, 1e-13 / (1 - share))), (share, found, expected)


@each("shape, kind", every([(5, 7), (3, 100), (2, 3, 20)], KINDS))
def test_one_lam_for_a_batch_is_the_root_of_the_mean(kind: str, shape: tuple[int, ...], path: str) -> None:
    pair = random_pair(shape, kind, seed=1)
    attainable = float(np.mean(np.sum(np.where(np.isfinite(pair.policy), pair.q, 0), axis=-1)))
    for share in BUDGETS:
        lam = solve_lam(*pair, share * attainable, per_state=False)
        assert lam.shape == ()
        assert float(np.mean(z(pair, lam))) == pytest.approx(share * attainable, rel=0, abs=EXACT)
        assert float(lam) == pytest.approx(by_bisection(pair, share * attainable), rel=max(1e-11, 1e-13 / (1 - share)))


@each("per_state, rate, kind", every([True, False], [1e-12, 0.3, 0.8, "close"], KINDS))
def test_exact_over_a_full_vocabulary(kind: str, rate: Any, per_state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_STORED", 200_000)  # one state is kept, two are read again
    pair = random_pair((2, 151_936), kind)
    # 0.8 of the actor can be had where the supports have holes, on the shared tokens alone.
    attainable = np.sum(np.where(np.isfinite(pair.policy), pair.q, 0), axis=-1)
    close = float(np.min(attainable)) - 1e-6
    rate = close if rate == "close" else rate * float(np.min(attainable))
    reached = z(pair, solve_lam(*pair, rate, per_state=per_state))
    np.testing.assert_allclose(np.asarray(reached if per_state else np.mean(reached), float), rate, rtol=0, atol=EXACT)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_z_of_lam_is_the_budget(data: st.DataObject) -> None:
    pair = data.draw(law_pairs())
    rate = data.draw(st.floats(1e-3, 0.999)) * pair.attainable
    lams = solve_lam(*pair, rate), solve_lam(*pair, rate, per_state=False)
    for lam in lams:
        assert float(lam) > 0
        assert float(z(pair, lam)) == pytest.approx(rate, rel=0, abs=EXACT)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_lam_falls_as_the_budget_grows(data: st.DataObject) -> None:
    pair = data.draw(law_pairs())
    shares = sorted(data.draw(st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=5)))
    lams = np.array([float(solve_lam(*pair, share * pair.attainable)) for share in shares])
    assert np.all(lams[1:] <= lams[:-1] * (1 + 1e-9))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_at_the_maximum_lam_is_the_lowest_shared_ratio(data: st.DataObject) -> None:
    pair = data.draw(law_pairs())
    for per_state in (True, False):
        lam = float(solve_lam(*pair, pair.attainable, per_state=per_state))
        assert lam == pytest.approx(float(np.min(pair.ratios)), rel=1e-11)
        with pytest.raises(ValueError, match="not attainable"):
            solve_lam(*pair, pair.attainable + 1e-9, per_state=per_state)


# ------------------------------------------------- the same on every path


def test_budgets_of_their_own() -> None:
    pair = random_pair((2, 3, 50))
    rates = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    lam = solve_lam(*pair, rates)
    assert lam.shape == (2, 3)
    np.testing.assert_allclose(np.asarray(z(pair, lam), float), rates, rtol=0, atol=EXACT)
    for wrong in (rates[0], rates.T, rates[..., None]):  # none of them one per state, and all would broadcast
        with pytest.raises(ValueError, match=r"acceptance_rate has shape .* not \(2, 3\): a number, or one per state"):
            solve_lam(*pair, wrong)
    assert solve_lam(pair.policy[0, 0], pair.actor[0, 0], 0.5).shape == ()


@each("kind", KINDS)
def test_a_batch_of_one_state_is_that_state(kind: str, path: str) -> None:
    pair = random_pair((1, 200), kind)
    attainable = Pair(pair.policy[0], pair.actor[0]).attainable
    for share in (0.2, 0.9, 1.0):
        together = solve_lam(*pair, share * attainable, per_state=False)
        assert float(together) == pytest.approx(float(solve_lam(*pair, share * attainable)[0]), rel=1e-12)


@each("stored, per_state, kind", every([0, 8, 1000], [True, False], KINDS))
def test_tiles_agree_with_the_whole(kind: str, per_state: bool, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = random_pair((4, 150), kind)
    whole = [solve_lam(*pair, rate, per_state=per_state) for rate in (1e-12, 0.2, 0.5)]
    for block in (1, 7, 64, 256):
        with monkeypatch.context() as patch:
            for module in (backend, budget):
                patch.setattr(module, "BLOCK_ELEMENTS", block)
            patch.setattr(budget, "_STORED", stored)
            patch.setattr(budget, "_SAMPLE", 8)
            tiled = [solve_lam(*pair, rate, per_state=per_state) for rate in (1e-12, 0.2, 0.5)]
        np.testing.assert_allclose(tiled, whole, rtol=1e-12)


def test_a_batch_holds_no_more_tokens_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the ratios are nearly 3/2: any bracket around it would pick out half of the batch."""
    monkeypatch.setattr(budget, "_STORED", 100)
    monkeypatch.setattr(budget, "_SAMPLE", 16)
    held: list[int] = []
    newton = budget._newton
    monkeypatch.setattr(budget, "_newton", lambda p, *rest: held.append(p.shape[0]) or newton(p, *rest))
    vocab, states = 40, 50
    actor = np.full((states, vocab), -math.log(vocab))
    jitter = 1e-5 * np.random.default_rng(0).normal(size=actor.shape)
    pair = Pair(normalised(actor + jitter + np.log(np.where(np.arange(vocab) % 2, 0.5, 1.5))), actor)
    for rate in (0.3, 2 / 3 - 1e-9, 2 / 3, 2 / 3 + 1e-9, 0.7, 0.9):
        lam = solve_lam(*pair, rate, per_state=False)
        assert float(np.mean(z(pair, lam))) == pytest.approx(rate, abs=EXACT)
    assert held
    assert max(held) <= 100


@each("kind, per_state", every(KINDS, [True, False]))
def test_libraries_agree(xp: ToLibrary, kind: str, per_state: bool, path: str) -> None:
    pair = random_pair((3, 120), kind)
    for rate in (0.2, 0.6):
        theirs = solve_lam(xp(pair.policy), xp(pair.actor), rate, per_state=per_state)
        assert type(theirs) is type(xp(pair.policy))
        assert theirs.dtype == xp(pair.policy).dtype
        np.testing.assert_allclose(to_numpy(theirs), solve_lam(*pair, rate, per_state=per_state), rtol=1e-12)
    # The attainable maximum, and an error, in the library's own arrays.
    holed = [xp(np.stack([x] * 3)) for x in HOLED]
    np.testing.assert_allclose(to_numpy(solve_lam(*holed, 0.9, per_state=per_state)), 3 / 7, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\(0, 0\.9\]"):
        solve_lam(*holed, 0.95, per_state=per_state)


@each("kind, per_state", every(KINDS, [True, False]))
def test_single_precision(kind: str, per_state: bool, path: str) -> None:
    torch = pytest.importorskip("torch")
    pair = random_pair((3, 120), kind)
    single = [torch.tensor(x, dtype=torch.float32) for x in pair]
    attainable = float(np.min(np.sum(np.where(np.isfinite(pair.policy), pair.q, 0), axis=-1)))
    for share in (1e-12, 0.2, 0.6, 0.9, 0.999):
        rate = share * attainable
        for laws in (single, [x.numpy() for x in single]):
            lam = solve_lam(*laws, rate, per_state=per_state)
            assert str(lam.dtype).endswith("float32")
            reached = z(pair, to_numpy(lam).astype(float))
            np.testing.assert_allclose(
                np.asarray(reached if per_state else np.mean(reached), float), rate, rtol=2e-6, atol=3e-6
            )


def test_torch_gradients_are_cut() -> None:
    torch = pytest.importorskip("torch")
    pair = random_pair((2, 20))
    lam = solve_lam(torch.tensor(pair.policy, requires_grad=True), torch.tensor(pair.actor), 0.8)
    assert not lam.requires_grad


@pytest.mark.cuda
@pytest.mark.parametrize("per_state", [True, False])
def test_on_the_device(per_state: bool) -> None:
    import torch

    pair = random_pair((2, 40_000))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        lam = solve_lam(*(torch.tensor(x, dtype=dtype, device="cuda") for x in pair), 0.8, per_state=per_state)
        assert lam.device.type == "cuda"
        np.testing.assert_allclose(to_numpy(lam), solve_lam(*pair, 0.8, per_state=per_state), rtol=tolerance)


# ------------------------------------------------------------------- edges


@each("per_state", [True, False])
def test_the_maximum_and_what_lies_beside_it(per_state: bool, path: str) -> None:
    pair = Pair(*(np.stack([np.tile(x - math.log(12), 12)] * 2) for x in HOLED))  # 60 tokens: more than a tile
    for rate in (0.9, 0.9 + 5e-13, 0.9 - 5e-13):
        np.testing.assert_allclose(solve_lam(*pair, rate, per_state=per_state), 3 / 7, rtol=1e-12)
    below = solve_lam(*pair, 0.9 - 1e-9, per_state=per_state)
    np.testing.assert_allclose(below, 0.3 / (0.7 - 1e-9), rtol=1e-12)
    assert np.all(below > 3 / 7)
    for rate in (0.9 + 1e-9, 0.95, 1.0, 7.0, math.inf):
        with pytest.raises(ValueError, match=r"not attainable: it must lie in \(0, 0\.9\]"):
            solve_lam(*pair, rate, per_state=per_state)


@each("mass, per_state", every([1e-6, 1e-13, 1e-100], [True, False]))
def test_a_small_maximum_is_known_as_closely(mass: float, per_state: bool, path: str) -> None:
    # Ratios 2 and 1/2 on a support to which the actor gives `mass`.
    policy, actor = of_probabilities(1 / 3, 2 / 3, 0.0), np.log([2 * mass / 3, mass / 3, 1.0])
    pair = Pair(np.tile(policy, (2, 1)), np.tile(actor - np.log(1 + mass), (2, 1)))
    attainable = float(np.sum(np.exp(pair.actor[0, :2])))
    lowest = float(np.exp(pair.policy - pair.actor)[0, 0])
    for share in (1 - 3e-13, 1.0, 1 + 3e-13):
        np.testing.assert_allclose(solve_lam(*pair, share * attainable, per_state=per_state), lowest, rtol=1e-12)
    for share in (0.5, 0.9, 1 - 1e-9):
        reached = z(pair, solve_lam(*pair, share * attainable, per_state=per_state))
        np.testing.assert_allclose(reached.astype(float), share * attainable, rtol=1e-11)
    for share in (1 + 1e-9, 2.0):
        with pytest.raises(ValueError, match="not attainable"):
            solve_lam(*pair, share * attainable, per_state=per_state)


def test_the_error_names_the_state_that_cannot() -> None:
    policy = np.stack([np.log([0.5, 0.5]), of_probabilities(1.0, 0.0)])
    actor = np.log([[0.5, 0.5], [0.25, 0.75]])
    with pytest.raises(ValueError, match=r"acceptance_rate 0\.5 is not attainable: it must lie in \(0, 0\.25\]"):
        solve_lam(policy, actor, 0.5)
    assert float(solve_lam(policy, actor, 0.625, per_state=False)) == pytest.approx(1.0)  # the mean of 1 and 1/4
    with pytest.raises(ValueError, match=r"\(0, 0\.625\]"):
        solve_lam(policy, actor, 0.7, per_state=False)


@each("per_state", [True, False])
def test_disjoint_supports(per_state: bool, path: str) -> None:
    policy, actor = (np.tile(of_probabilities(*x), (2, 1)) for x in ((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.5, 0.5)))
    with pytest.raises(ValueError, match="share no token"):
        solve_lam(policy, actor, 0.5, per_state=per_state)


@each("vocab, per_state", every([1, 2, 100], [True, False]))
def test_equal_laws(vocab: int, per_state: bool, path: str) -> None:
    law = random_pair((2, vocab)).policy
    for rate in (1e-12, 0.25, 0.5, 1 - 1e-9):
        np.testing.assert_allclose(solve_lam(law, law, rate, per_state=per_state), 1 / rate, rtol=1e-12)
    np.testing.assert_allclose(solve_lam(law, law, 1.0, per_state=per_state), 1.0, rtol=1e-12)


@each("per_state", [True, False])
def test_a_law_that_misses_one_is_solved_as_it_is(per_state: bool, path: str) -> None:
    """Within the tolerance of the checks λ may exceed 1/ā, and Z is still met."""
    pair = random_pair((2, 100))
    pair = Pair(pair.policy + 9e-7, pair.actor - 9e-7)
    for rate in (1e-6, 0.5):
        reached = z(pair, solve_lam(*pair, rate, per_state=per_state))
        np.testing.assert_allclose(np.asarray(reached, float).mean(), rate, rtol=1e-12)


EXTREME: dict[str, tuple[Law, Law]] = {
    "all on one token": (normalised([0.0, -800.0, -800.0]), normalised([0.0, -1.0, -800.0])),
    "denormal": (normalised([0.0, -740.0, -744.0]), normalised([-1.0, 0.0, -743.0])),
    "opposite": (normalised([0.0, -700.0]), normalised([-700.0, 0.0])),
    "nothing but the tail": (normalised([0.0] + [-50.0] * 99), normalised([-60.0] + [0.0] * 99)),
}


@each("per_state, name", every([True, False], EXTREME))
def test_extreme_laws_end_in_the_budget(name: str, per_state: bool, path: str) -> None:
    pair = Pair(*(x[None, :] for x in EXTREME[name]))
    attainable = float(np.sum(np.where(np.exp(pair.policy) > 0, pair.q, 0)))
    for rate in (1e-300, 1e-12, *np.linspace(0.05, 0.95, 7) * attainable):
        lam = solve_lam(*pair, rate, per_state=per_state)
        assert np.all(np.isfinite(lam) & (lam > 0))
        if np.all(lam > 1e-300):  # below that a λ has lost its digits
            assert float(np.mean(z(pair, lam))) == pytest.approx(rate, rel=1e-11)


def bad_laws() -> dict[str, tuple[Law, str]]:
    good = random_pair((2, 100)).policy
    bad = {name: (good.copy(), "not normalised") for name in ("off by 1e-5", "+inf", "all -inf", "too large")}
    bad["off by 1e-5"][0][1] += 1e-5
    bad["+inf"][0][1, 3] = math.inf
    bad["all -inf"][0][1] = -math.inf
    bad["too large"][0][1] = 1000.0
    bad["NaN"] = (good.copy(), "holds NaN")
    bad["NaN"][0][1, 99] = math.nan
    bad["all NaN"] = (np.full_like(good, math.nan), "holds NaN")
    return bad


@each("per_state, name", every([True, False], bad_laws()))
def test_a_bad_law_is_refused_by_name(name: str, per_state: bool, path: str) -> None:
    good, (bad, message) = random_pair((2, 100)).policy, bad_laws()[name]
    for rate in (0.5, 1.0):
        with pytest.raises(ValueError, match=f"policy_log_probs.*{message}"):
            solve_lam(bad, good, rate, per_state=per_state)
        with pytest.raises(ValueError, match=f"actor_log_probs.*{message}"):
            solve_lam(good, bad, rate, per_state=per_state)


def test_arguments_are_checked() -> None:
    law = of_probabilities(0.5, 0.5)
    for rate in (0.0, -0.5, math.nan, 1e-320):
        for per_state in (True, False):
            with pytest.raises(ValueError, match="acceptance_rate must be positive"):
                solve_lam(law, law, rate, per_state=per_state)
    with pytest.raises(ValueError, match="single number"):
        solve_lam(law, law, np.array([0.5]), per_state=False)
    with pytest.raises(ValueError, match="the same"):
        solve_lam(law, law[None, :], 0.5)
    with pytest.raises(ValueError, match="no state"):
        solve_lam(law[None, :][:0], law[None, :][:0], 0.5)
    with pytest.raises(ValueError, match="must not be empty"):
        solve_lam(law[:0], law[:0], 0.5)
    with pytest.raises(TypeError, match="floating"):
        solve_lam(np.array([0, 1]), np.array([0, 1]), 0.5)
