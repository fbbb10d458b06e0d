"""The bracket that a trainer can afford: both laws on the same few tokens, and nothing else of either."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.topk import TopK
from tests.conftest import ToLibrary
from tests.core.laws import Law, Pair, law_pairs, normalised, of_probabilities

INF = math.inf

ks = st.integers(1, 14)
lams = st.sampled_from([1e-3, 0.3, 0.5, 1.0, 1.7, 4.0, 1e3])


def on(pair: Pair, ids: Any, lam: Any = 1.0) -> tuple[float, float]:
    low, high = normalizer.bracket_on_topk(pair.policy[ids], pair.actor[ids], lam)
    return float(low), float(high)


def likeliest(law: Law, k: int) -> Any:
    return np.argsort(-law, kind="stable")[:k]


def test_by_hand(xp: ToLibrary) -> None:
    # On K = {3, 4}, p = (1, 1)/16 and q = (8, 2)/16: low = 1/16 + 1/16, rests 14/16 of p and 6/16 of q.
    p, q = xp(np.log(np.array([1.0, 1]) / 16)), xp(np.log(np.array([8.0, 2]) / 16))
    for lam, expected in ((1.0, [2 / 16, 8 / 16]), (0.5, [4 / 16, 10 / 16]), (4.0, [0.5 / 16, 4 / 16])):
        found = [float(end) for end in normalizer.bracket_on_topk(p, q, lam)]
        assert found == pytest.approx(expected, rel=1e-14)


@given(pair=law_pairs(shared=False), k=ks, lam=lams)
def test_holds_z(pair: Pair, k: int, lam: float) -> None:
    z = float(np.sum(np.minimum(pair.q, pair.p / np.longdouble(lam))))
    # K may be the likeliest of either law, and any other set, with cut tokens in it.
    for ids in (likeliest(pair.actor, k), likeliest(pair.policy, k), likeliest(-pair.actor, k)):
        low, high = on(pair, ids, lam)
        assert 0 <= low <= high
        assert low - 1e-12 <= z <= high + 1e-12
    if k >= len(pair.policy):
        assert high - low < 1e-12


@given(pair=law_pairs(shared=False), k=ks, lam=lams)
def test_holds_z_in_single_precision(pair: Pair, k: int, lam: float) -> None:
    """Rests are differences, so they are known to the rounding of 1 and no better: relative to it the bracket holds."""
    top = TopK.of(pair.actor, k)
    low, high = normalizer.bracket_on_topk(top.gather(pair.policy.astype(np.float32)), top.log_probs, lam)
    assert low.dtype == high.dtype == np.float32
    z = float(np.sum(np.minimum(pair.q, pair.p / np.longdouble(lam))))
    assert low <= high
    slack = 1e-5 * max(1.0, 1 / lam)
    assert float(low) - 1e-5 <= z <= float(high) + slack


@given(pair=law_pairs(shared=False), k=ks, lam=lams)
def test_which_bracket_is_tighter(pair: Pair, k: int, lam: float) -> None:
    ids = likeliest(pair.actor, k)
    low, high = on(pair, ids, lam)
    # On the union: inside, and the same as `bracket`, which sums the rests.
    union = np.union1d(ids, likeliest(pair.policy, k))
    inner = on(pair, union, lam)
    assert low <= inner[0] + 1e-15
    assert inner[1] <= high + 1e-12
    summed = [float(end) for end in normalizer.bracket(pair.policy, pair.actor, k, lam)]
    assert summed == pytest.approx(inner, abs=1e-12)
    # With the policy in full: inside.
    full = [float(end) for end in normalizer.actor_topk_bracket(pair.policy, ids, pair.actor[ids], lam)]
    assert low <= full[0] + 1e-15
    assert full[1] <= high + 1e-12


@given(pair=law_pairs(), k=ks, lam=lams)
def test_more_tokens_narrow_it(pair: Pair, k: int, lam: float) -> None:
    outer, inner = on(pair, likeliest(pair.actor, k), lam), on(pair, likeliest(pair.actor, k + 1), lam)
    assert outer[0] <= inner[0] + 1e-15
    assert inner[1] <= outer[1] + 1e-12


@given(pair=law_pairs(shared=False), k=st.integers(1, 6), lam=lams)
def test_both_ends_are_reached_by_some_laws(pair: Pair, k: int, lam: float) -> None:
    """The masses outside K all on one token reach the high end, and on two different tokens the low end."""
    ids = likeliest(pair.actor, k)
    low, high = on(pair, ids, lam)
    policy, actor = (np.exp(law[ids]) for law in pair)
    rests = [max(0.0, 1 - np.sum(law)) for law in (policy, actor)]
    for outside, end in ((([rests[0], 0], [rests[1], 0]), high), (([rests[0], 0], [0, rests[1]]), low)):
        laws = [of_probabilities(*kept, *left) for kept, left in zip((policy, actor), outside, strict=True)]
        assert float(obrs.overlap(*laws, lam)) == pytest.approx(end, abs=1e-12)


def test_a_batch_with_one_lam_per_state(xp: ToLibrary) -> None:
    rng = np.random.default_rng(0)
    pair = Pair(*(normalised(2 * rng.normal(size=(3, 2, 40))) for _ in range(2)))
    top, lam = TopK.of(xp(pair.actor), 5), np.exp(rng.normal(size=(3, 2)))
    low, high = normalizer.bracket_on_topk(top.gather(xp(pair.policy)), top.log_probs, xp(lam))
    z = obrs.overlap(pair.policy, pair.actor, lam)
    assert np.all((to_numpy(low) - 1e-6 <= z) & (z <= to_numpy(high) + 1e-6))
    for i in np.ndindex(3, 2):
        alone = on(Pair(pair.policy[i], pair.actor[i]), likeliest(pair.actor[i], 5), float(lam[i]))
        np.testing.assert_allclose([float(low[i]), float(high[i])], alone, rtol=1e-6)


def test_a_rest_never_turns_negative_by_rounding() -> None:
    """All of a law summed in float32 misses 1 on either side, and the bracket never closes past itself."""
    rng = np.random.default_rng(1)
    law = normalised(rng.normal(size=(500, 30))).astype(np.float32)
    sums = np.sum(np.exp(law), axis=-1)
    assert np.any(sums > 1)
    for lam in (0.5, 1.0, 2.0):
        low, high = normalizer.bracket_on_topk(law, law, lam)
        assert np.all(low <= high)
        np.testing.assert_allclose(high, low, atol=1e-5)


def test_gradients_are_finite_with_cut_tokens() -> None:
    torch = pytest.importorskip("torch")
    policy = torch.tensor(of_probabilities(0.5, 0.0, 0.3), requires_grad=True)
    actor = torch.tensor(of_probabilities(0.2, 0.1, 0.0), requires_grad=True)
    sum(normalizer.bracket_on_topk(policy, actor)).backward()
    assert torch.isfinite(policy.grad).all()
    assert torch.isfinite(actor.grad).all()
    assert actor.grad.abs().sum() > 0


def test_errors_name_the_argument(xp: ToLibrary) -> None:
    one, two = xp([-1.0]), xp([-1.0, -2.0])
    with pytest.raises(ValueError, match=r"policy_topk_log_probs has shape \(1,\), actor_topk_log_probs has shape"):
        normalizer.bracket_on_topk(one, two)
    with pytest.raises(ValueError, match="actor_topk_log_probs has shape"):
        normalizer.bracket_on_topk(xp(np.zeros((2, 0))), xp(np.zeros((2, 0))))
    for bad in ([math.nan, -1.0], [-0.1, -0.1], [INF, -1.0], [800.0, -1.0]):
        with pytest.raises(ValueError, match="policy_topk_log_probs holds NaN, or probabilities that add up to more"):
            normalizer.bracket_on_topk(xp(bad), two)
        with pytest.raises(ValueError, match="actor_topk_log_probs holds NaN, or probabilities that add up to more"):
            normalizer.bracket_on_topk(two, xp(bad))
    for lam in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="lam must be positive"):
            normalizer.bracket_on_topk(two, two, lam)
