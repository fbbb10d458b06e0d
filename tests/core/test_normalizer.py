"""What a few log-probs say of Z: brackets that always hold, and estimates that stay inside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.numerics import log_ratio, log_softmax
from jackpot_sim.core.sampling import categorical
from tests.cases import each
from tests.conftest import ToLibrary
from tests.core.laws import Law, Pair, law_pairs, normalised, of_probabilities

INF = math.inf

ks = st.integers(1, 14)
lams = st.sampled_from([1e-3, 0.3, 0.5, 1.0, 1.7, 4.0, 1e3])


def random_pair(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Pair:
    rng = np.random.default_rng(seed)
    actor = 2 * rng.normal(size=shape)
    return Pair(normalised(actor + scale * rng.normal(size=shape)), normalised(actor))


def likeliest(law: Law, k: int) -> Any:
    """Ids of the k likeliest tokens, ties to the lower id, by a stable sort."""
    return np.argsort(-law, kind="stable")[:k]


def exact(pair: Pair, lam: float) -> float:
    return float(np.sum(np.minimum(pair.q, pair.p / np.longdouble(lam))))


def topk_by_sorting(pair: Pair, k: int, lam: float) -> tuple[float, float]:
    """(Z_k, the bracket's width) in extended precision."""
    union = np.zeros(len(pair.policy), dtype=bool)
    union[likeliest(pair.policy, k)] = union[likeliest(pair.actor, k)] = True
    terms = np.minimum(pair.q, pair.p / np.longdouble(lam))
    rest = min(np.sum(pair.q[~union]), np.sum(pair.p[~union]) / np.longdouble(lam))
    return float(np.sum(terms[union])), float(rest)


# ---------------------------------------------------------- top-k and bracket


def test_by_hand(xp: ToLibrary) -> None:
    # p = (8, 4, 2, 1, 1)/16, q = (1, 1, 4, 8, 2)/16, k = 1: the union is {0, 3}, Z_1 = 1/16 + 1/16,
    # the masses outside are 7/16 of p and of q, and Z = (1 + 1 + 2 + 1 + 1)/16.
    p, q = (xp(np.log(np.array(x) / 16)) for x in ([8.0, 4, 2, 1, 1], [1.0, 1, 4, 8, 2]))
    assert float(normalizer.topk(p, q, 1)) == pytest.approx(2 / 16, rel=1e-14)
    # Both top-1 share nothing, and both top-3, {0, 1, 2} and {3, 2, 4}, share token 2.
    assert float(normalizer.intersection(p, q, 1)) == 0
    assert float(normalizer.intersection(p, q, 3)) == pytest.approx(2 / 16, rel=1e-14)
    assert float(normalizer.intersection(p, q, 5, 2.0)) == pytest.approx((0.5 + 0.5 + 2 + 1 + 1) / 16, rel=1e-14)
    low, high = normalizer.bracket(p, q, 1)
    assert [float(low), float(high)] == pytest.approx([2 / 16, 9 / 16], rel=1e-14)
    low, high = normalizer.bracket(p, q, 1, 2.0)
    assert [float(low), float(high)] == pytest.approx([1.5 / 16, 5 / 16], rel=1e-14)


@given(pair=law_pairs(shared=False), k=ks, lam=lams)
def test_bracket_holds_z(pair: Pair, k: int, lam: float) -> None:
    low, high = (float(x) for x in normalizer.bracket(pair.policy, pair.actor, k, lam))
    z = exact(pair, lam)
    assert low - 1e-12 <= z <= high + 1e-12
    assert low <= high
    kept, width = topk_by_sorting(pair, k, lam)
    assert low == pytest.approx(kept, rel=1e-12, abs=1e-15)
    assert high == pytest.approx(kept + width, rel=1e-12, abs=1e-15)
    assert low == float(normalizer.topk(pair.policy, pair.actor, k, lam))
    if k >= len(pair.policy):
        assert low == high == float(obrs.overlap(pair.policy, pair.actor, lam))


@given(pair=law_pairs(), k=ks, lam=lams)
def test_a_larger_k_narrows_the_bracket(pair: Pair, k: int, lam: float) -> None:
    low, high = normalizer.bracket(pair.policy, pair.actor, k, lam)
    inner_low, inner_high = normalizer.bracket(pair.policy, pair.actor, k + 1, lam)
    assert low <= inner_low + 1e-15
    assert inner_high <= high + 1e-15


@given(pair=law_pairs(), k=ks, lam=lams, random=st.randoms(use_true_random=False))
def test_renaming_the_tokens_changes_nothing_without_ties(pair: Pair, k: int, lam: float, random: Any) -> None:
    """With ties the lower id is kept, which is the one thing that depends on names."""
    step = 1e-3 * np.arange(len(pair.policy))
    untied = Pair(normalised(pair.policy + step), normalised(pair.actor + 2 * step))
    if min(len(np.unique(law[np.isfinite(law)])) for law in untied) < max(np.sum(np.isfinite(law)) for law in untied):
        return
    order = np.array(random.sample(range(len(step)), len(step)))
    ends = normalizer.bracket(untied.policy, untied.actor, k, lam)
    renamed = normalizer.bracket(untied.policy[order], untied.actor[order], k, lam)
    np.testing.assert_allclose(renamed, ends, rtol=1e-13, atol=1e-15)


def test_ties_go_to_the_lower_id(xp: ToLibrary) -> None:
    # A uniform actor: its top-k are the first k tokens, and the policy's are the last k.
    actor = np.log(np.full(6, 1 / 6))
    policy = np.log(np.array([1.0, 2, 3, 4, 5, 6]) / 21)
    for k, union in ((1, [0, 5]), (2, [0, 1, 4, 5])):
        expected = np.sum(np.minimum(np.exp(actor), np.exp(policy))[union])
        assert float(normalizer.topk(xp(policy), xp(actor), k)) == pytest.approx(expected, rel=1e-14)
    # Two tied for the last place: token 1 stays, token 3 goes.
    policy = of_probabilities(0.4, 0.25, 0.1, 0.25)
    actor = of_probabilities(0.5, 0.2, 0.1, 0.2)
    expected = 0.4 + 0.2
    assert float(normalizer.topk(xp(policy), xp(actor), 2)) == pytest.approx(expected, rel=1e-14)


def test_ties_in_a_batch_with_holes(xp: ToLibrary) -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(-2, 3, size=(2, 30, 9)).astype(float)
    logits[logits == -2] = -INF
    logits[..., 0] = 0
    pair = Pair(normalised(logits[0]), normalised(logits[1]))
    for k in (1, 3, 8):
        actual = to_numpy(normalizer.topk(xp(pair.policy), xp(pair.actor), k))
        expected = [topk_by_sorting(Pair(*laws), k, 1.0)[0] for laws in zip(*pair, strict=True)]
        np.testing.assert_allclose(actual, expected, rtol=1e-13)


@each("seed", range(3))
def test_zipf(seed: int) -> None:
    """Zipf(1.5), V = 50,000, k = 20, Gaussian log-noise 0.1: Z_k is about 0.835 Z and the upper end 1.005 Z."""
    zipf = -1.5 * np.log(np.arange(1, 50_001))
    actor = log_softmax(zipf)
    policy = log_softmax(zipf + 0.1 * np.random.default_rng(seed).normal(size=zipf.shape))
    z = float(obrs.overlap(policy, actor))
    low, high = normalizer.bracket(policy, actor, 20)
    assert float(low) / z == pytest.approx(0.835, abs=0.01)
    assert float(high) / z == pytest.approx(1.005, abs=0.003)


@each("dtype", [np.float32, np.float64])
def test_a_large_vocabulary(xp: ToLibrary, dtype: type) -> None:
    pair = random_pair(1, (151_936,), 0.2)
    kept, width = topk_by_sorting(pair, 50, 1.2)
    if dtype is np.float64:
        low, high = normalizer.bracket(xp(pair.policy), xp(pair.actor), 50, 1.2)
    else:
        low, high = normalizer.bracket(*(log_softmax(x.astype(dtype)) for x in pair), 50, 1.2)
        assert low.dtype == high.dtype == np.float32
    assert [float(low), float(high)] == pytest.approx([kept, kept + width], rel=1e-11 if dtype is np.float64 else 2e-5)


# ------------------------------------------------ only the actor's top-k known


def from_topk(pair: Pair, k: int) -> tuple[Law, Any, Law]:
    ids = likeliest(pair.actor, k)
    return pair.policy, ids, pair.actor[ids]


@given(pair=law_pairs(shared=False), k=ks, lam=lams)
def test_actor_topk_bracket_holds_z(pair: Pair, k: int, lam: float) -> None:
    low, high = (float(x) for x in normalizer.actor_topk_bracket(*from_topk(pair, k), lam))
    assert low - 1e-12 <= exact(pair, lam) <= high + 1e-12
    assert 0 <= low <= high <= 1 + 1e-12
    if k >= len(pair.policy):
        assert high - low < 1e-12


def test_actor_topk_bracket_never_closes_past_itself() -> None:
    """With all of the actor known both widths are rounding, of either sign."""
    pair = random_pair(6, (500, 7))
    ids = np.broadcast_to(np.arange(7), pair.actor.shape)
    for lam in (0.5, 1.0, 2.0):
        low, high = normalizer.actor_topk_bracket(pair.policy, ids, pair.actor, lam)
        assert np.all(low <= high)
        np.testing.assert_allclose(low, obrs.overlap(pair.policy, pair.actor, lam), rtol=1e-13)
        np.testing.assert_allclose(high, low, rtol=1e-13)


def fill(room: Any, mass: float) -> Any:
    """`mass` poured into places of the given room, in order."""
    before = np.concatenate([[0.0], np.cumsum(room)[:-1]])
    return np.clip(mass - before, 0, room)


def extremal_actor(policy: Law, ids: Any, topk: Law, lam: float, *, largest: bool) -> Law:
    """An actor with this top-k whose overlap is the largest, or the smallest, that there is."""
    q = np.zeros(len(policy))
    q[ids] = np.exp(topk)
    outside = np.setdiff1d(np.arange(len(policy)), ids)
    rest, cap = 1 - np.sum(q), np.exp(topk).min()
    if largest:
        useful = np.minimum(cap, np.exp(policy[outside]) / lam)
        q[outside] = fill(useful, rest)
        q[outside] += fill(cap - q[outside], 1 - np.sum(q))
    else:
        poorest_first = outside[np.argsort(policy[outside], kind="stable")]
        q[poorest_first] = fill(np.full(len(outside), cap), rest)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(q))


@given(pair=law_pairs(shared=False), k=st.integers(1, 6), lam=lams)
def test_the_upper_end_is_reached_by_some_actor(pair: Pair, k: int, lam: float) -> None:
    k = min(k, int(np.sum(np.isfinite(pair.actor))))
    policy, ids, topk = from_topk(pair, k)
    actor = extremal_actor(policy, ids, topk, lam, largest=True)
    assert np.all(actor[np.setdiff1d(np.arange(len(policy)), ids)] <= topk.min() + 1e-12)
    high = float(normalizer.actor_topk_bracket(policy, ids, topk, lam)[1])
    assert float(obrs.overlap(policy, actor, lam)) == pytest.approx(high, abs=1e-12)


@given(pair=law_pairs(shared=False), k=st.integers(1, 6), lam=lams)
def test_the_lower_end_is_reached_by_some_actor(pair: Pair, k: int, lam: float) -> None:
    k = min(k, int(np.sum(np.isfinite(pair.actor))))
    policy, ids, topk = from_topk(pair, k)
    actor = extremal_actor(policy, ids, topk, lam, largest=False)
    assert np.all(actor[np.setdiff1d(np.arange(len(policy)), ids)] <= topk.min() + 1e-12)
    low = float(normalizer.actor_topk_bracket(policy, ids, topk, lam)[0])
    assert float(obrs.overlap(policy, actor, lam)) == pytest.approx(low, abs=1e-11)


@given(pair=law_pairs(shared=False), k=st.integers(1, 6), lam=lams, seed=st.integers(0, 99))
def test_no_actor_with_this_topk_lies_outside(pair: Pair, k: int, lam: float, seed: int) -> None:
    """Random ways to share the rest, none above the k-th: mixtures of orders in which the tokens are filled."""
    k = min(k, int(np.sum(np.isfinite(pair.actor))))
    policy, ids, topk = from_topk(pair, k)
    low, high = (float(x) for x in normalizer.actor_topk_bracket(policy, ids, topk, lam))
    rng, outside = np.random.default_rng(seed), np.setdiff1d(np.arange(len(policy)), ids)
    rest, cap = 1 - np.sum(np.exp(topk)), np.exp(topk).min()
    orders = [fill(np.full(len(outside), cap), rest)[rng.permutation(len(outside))] for _ in range(5)]
    for share in rng.dirichlet(np.full(5, 0.3), size=10):
        q = np.zeros(len(policy))
        q[ids], q[outside] = np.exp(topk), share @ np.array(orders)
        assert low - 1e-12 <= np.sum(np.minimum(q, np.exp(policy) / lam)) <= high + 1e-12


def test_the_lower_end_counts_what_the_rest_cannot_avoid(xp: ToLibrary) -> None:
    # k = 1, q_(1) = 1/2 of three tokens, p uniform: the other half overlaps by 1/3 at the least.
    policy, ids, topk = xp(np.log(np.full(3, 1 / 3))), xp(np.array([0])), xp(np.log([0.5]))
    low, high = normalizer.actor_topk_bracket(policy, ids, topk)
    assert [float(low), float(high)] == pytest.approx([2 / 3, 5 / 6], rel=1e-14)


def test_a_rest_of_rounding_fills_nothing() -> None:
    """The rest 1 − q(K) of a certain state is rounding over a tiny q_(k): it must not cost a sort of the vocabulary."""
    actor = np.log(np.array([1 - 1e-9, *np.full(999, 1e-9 / 999)])).astype(np.float32)
    policy = log_softmax(np.zeros(1000, dtype=np.float32))
    low, high = normalizer.actor_topk_bracket(policy, np.arange(20), actor[:20])
    assert float(low) == pytest.approx(1e-3, rel=1e-4)
    assert float(high) == pytest.approx(1e-3, rel=1e-3)


def test_actor_topk_bracket_on_a_batch(xp: ToLibrary) -> None:
    pair, k = random_pair(2, (3, 2, 40)), 5
    ids = np.argsort(-pair.actor, axis=-1, kind="stable")[..., :k]
    topk = np.take_along_axis(pair.actor, ids, axis=-1)
    lam = np.exp(np.random.default_rng(3).normal(size=(3, 2)))
    low, high = normalizer.actor_topk_bracket(xp(pair.policy), xp(ids), xp(topk), xp(lam))
    for i in np.ndindex(3, 2):
        alone = normalizer.actor_topk_bracket(pair.policy[i], ids[i], topk[i], float(lam[i]))
        np.testing.assert_allclose([float(low[i]), float(high[i])], alone, rtol=1e-12)
        least = extremal_actor(pair.policy[i], ids[i], topk[i], float(lam[i]), largest=False)
        assert float(obrs.overlap(pair.policy[i], least, float(lam[i]))) == pytest.approx(float(low[i]), rel=1e-12)
    # The order in which the server lists its top-k does not matter.
    backwards = normalizer.actor_topk_bracket(xp(pair.policy), xp(ids[..., ::-1]), xp(topk[..., ::-1]), xp(lam))
    np.testing.assert_allclose(to_numpy(backwards[1]), to_numpy(high), rtol=1e-13)


# ---------------------------------------------------------------- estimates


def test_kappa_is_exact_for_the_batch_mean(xp: ToLibrary) -> None:
    pair = random_pair(4, (200, 60))
    z = obrs.overlap(pair.policy, pair.actor)
    kept = normalizer.topk(xp(pair.policy), xp(pair.actor), 3)
    estimate = to_numpy(normalizer.bias_correction(kept, xp(z)))
    assert float(np.mean(estimate)) == pytest.approx(float(np.mean(z)), rel=1e-14)
    np.testing.assert_allclose(estimate / to_numpy(kept), float(np.mean(z) / np.mean(to_numpy(kept))), rtol=1e-13)
    assert np.max(np.abs(estimate - z)) > 0.01  # … and for no single state


def test_kappa_takes_drawn_masks(xp: ToLibrary) -> None:
    kept = xp([0.2, 0.6])
    estimate = normalizer.bias_correction(kept, xp(np.array([True, True, False, True])))
    np.testing.assert_allclose(to_numpy(estimate), np.array([0.2, 0.6]) * (0.75 / 0.4), rtol=1e-14)


def test_kappa_needs_some_overlap(xp: ToLibrary) -> None:
    with pytest.raises(ValueError, match=r"topk_overlap is zero everywhere: kappa"):
        normalizer.bias_correction(xp([0.0, 0.0]), xp([1.0]))


@given(
    ends=st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=8),
    accepted=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_calibrated_stays_inside_and_meets_the_mean(ends: list[tuple[float, float]], accepted: list[float]) -> None:
    low = np.array([a for a, _ in ends])
    high = low + np.array([b for _, b in ends])
    estimate = normalizer.calibrated(low, high, np.array(accepted))
    assert np.all((low <= estimate) & (estimate <= high + 1e-15))
    mean = float(np.clip(np.mean(accepted), np.mean(low), np.mean(high)))
    assert float(np.mean(estimate)) == pytest.approx(mean, abs=1e-14)


def test_calibrated_by_hand(xp: ToLibrary) -> None:
    low, high = xp([0.2, 0.4]), xp([0.4, 0.8])  # mean 0.3 and width 0.3: a mean of 0.45 is half-way
    for mean, expected in ((0.45, [0.3, 0.6]), (0.1, [0.2, 0.4]), (0.9, [0.4, 0.8])):
        np.testing.assert_allclose(to_numpy(normalizer.calibrated(low, high, xp([mean]))), expected, rtol=1e-14)
    exact_already = normalizer.calibrated(low, low, xp([0.9]))
    np.testing.assert_array_equal(to_numpy(exact_already), [0.2, 0.4])


@pytest.mark.parametrize(("sigma", "stated"), [(0.1, 0.003), (0.5, 0.014)])
def test_calibrated_error_is_what_is_stated(sigma: float, stated: float) -> None:
    """Zipf-like states of mixed steepness: the error per state is of the size that the reference states."""
    rng = np.random.default_rng(5)
    steep = rng.uniform(1.0, 2.0, size=(64, 1))
    logits = -steep * np.log(np.arange(1, 5001))
    actor = log_softmax(logits)
    policy = log_softmax(logits + sigma * rng.normal(size=logits.shape))
    low, high = normalizer.bracket(policy, actor, 20)
    z = obrs.overlap(policy, actor)
    ids = categorical(actor, rng.random((64, 200)))
    accept = obrs.acceptance_probability(np.take_along_axis(log_ratio(policy, actor), ids, axis=-1), 1.0)
    error = float(np.sqrt(np.mean((normalizer.calibrated(low, high, accept) - z) ** 2)))
    assert error < 3 * stated
    assert error < float(np.sqrt(np.mean((low - z) ** 2))) / 3


# ------------------------------------------------------------------ gradients


def test_gradients_are_finite_with_holes() -> None:
    torch = pytest.importorskip("torch")
    p, q = of_probabilities(0.5, 0.0, 0.3, 0.2, 0.0), of_probabilities(0.2, 0.1, 0.7, 0.0, 0.0)
    for k in (1, 3, 5):
        policy, actor = (torch.tensor(x, requires_grad=True) for x in (p, q))
        sum(normalizer.bracket(policy, actor, k)).backward()
        assert torch.isfinite(policy.grad).all()
        assert torch.isfinite(actor.grad).all()
        assert actor.grad.abs().sum() > 0


# -------------------------------------------------------------------- errors

P, Q = of_probabilities(0.5, 0.3, 0.2), of_probabilities(0.2, 0.3, 0.5)
SPLITTERS: list[Callable[..., Any]] = [normalizer.topk, normalizer.bracket]


@each("function", SPLITTERS)
def test_topk_errors_name_the_argument(xp: ToLibrary, function: Callable[..., Any]) -> None:
    p, q = xp(P), xp(Q)
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            function(p, q, k)
    for lam in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="lam must be positive"):
            function(p, q, 2, lam)
    with pytest.raises(ValueError, match="policy_log_probs holds NaN"):
        function(xp([math.nan, 0.0, 0.0]), q, 2)
    with pytest.raises(ValueError, match="actor_log_probs is not normalised"):
        function(p, xp([0.0, 0.0, 0.0]), 2)
    with pytest.raises(ValueError, match=r"policy_log_probs has shape .*, actor_log_probs has shape"):
        function(p, xp(Q[None]), 2)
    with pytest.raises(ValueError, match=r"policy_log_probs has shape .*vocabulary"):
        function(xp(np.zeros(0)), xp(np.zeros(0)), 2)


def test_actor_topk_errors_name_the_argument(xp: ToLibrary) -> None:
    ids, topk = xp(np.array([2, 1])), xp(Q[[2, 1]])
    with pytest.raises(ValueError, match="lam must be positive"):
        normalizer.actor_topk_bracket(xp(P), ids, topk, 0.0)
    with pytest.raises(ValueError, match=r"actor_topk_ids has shape \(1,\), actor_topk_log_probs has shape \(2,\)"):
        normalizer.actor_topk_bracket(xp(P), xp(np.array([2])), topk)
    with pytest.raises(ValueError, match="actor_topk_log_probs holds NaN"):
        normalizer.actor_topk_bracket(xp(P), ids, xp([math.nan, -1.0]))
    with pytest.raises(ValueError, match=r"actor_topk_log_probs .*more than 1"):
        normalizer.actor_topk_bracket(xp(P), ids, xp([-0.1, -0.1]))
    with pytest.raises(ValueError, match="policy_log_probs holds NaN"):
        normalizer.actor_topk_bracket(xp([math.nan, 0.0, 0.0]), ids, topk)
    with pytest.raises(ValueError, match="policy_log_probs is not normalised"):
        normalizer.actor_topk_bracket(xp([0.0, 0.0, 0.0]), ids, topk)
    with pytest.raises(ValueError, match="actor_topk_log_probs has shape"):
        normalizer.actor_topk_bracket(xp(P), xp(np.zeros(0, dtype=np.int64)), xp(np.zeros(0)))


def test_calibrated_compares_the_ends(xp: ToLibrary) -> None:
    with pytest.raises(ValueError, match=r"low has shape \(1,\), high has shape \(2,\)"):
        normalizer.calibrated(xp([0.1]), xp([0.2, 0.3]), xp([0.1]))


@given(law_pairs(), ks, lams)
def test_the_intersection_is_its_sum_and_no_more_than_the_union_at_lam_1(pair: Pair, k: int, lam: float) -> None:
    both = [x for x in likeliest(pair.policy, k) if x in likeliest(pair.actor, k)]
    expected = np.sum(np.minimum(pair.q[both] / np.longdouble(lam), pair.p[both]))
    found = float(normalizer.intersection(pair.policy, pair.actor, k, lam))
    assert found == pytest.approx(float(expected), rel=1e-12, abs=1e-300)
    assert float(normalizer.intersection(pair.policy, pair.actor, k)) <= topk_by_sorting(pair, k, 1.0)[0] * (1 + 1e-12)


def test_the_intersection_of_all_tokens_is_z_at_lam_1_only() -> None:
    pair = random_pair(3, (40,))
    for lam in (0.5, 1.0, 2.0):
        found = float(normalizer.intersection(pair.policy, pair.actor, 40, lam))
        assert (found == pytest.approx(exact(pair, lam), rel=1e-12)) is (lam == 1.0)
        assert found == pytest.approx(exact(pair, 1 / lam) / lam, rel=1e-12)


def test_a_kappa_may_be_cut(xp: ToLibrary) -> None:
    # κ = 0.9/0.6, by hand.
    overlap, accepted = xp(np.array([0.4, 0.8])), xp(np.array([0.8, 1.0]))
    np.testing.assert_allclose(to_numpy(normalizer.bias_correction(overlap, accepted)), [0.6, 1.2], rtol=1e-14)
    np.testing.assert_allclose(to_numpy(normalizer.bias_correction(overlap, accepted, 1.0)), [0.6, 1.0], rtol=1e-14)
