"""Two laws from two top-k: brackets that hold the truth, and a KL without bias."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.laws import Laws, laws
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.measure.tables import table_of


def pair(tokens: int, vocab: int = 30, seed: int = 0, scale: float = 0.3) -> tuple[Floats, Floats]:
    """log p and log q, (tokens, vocab)."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(tokens, vocab))
    return log_softmax(logits + scale * generator.normal(size=logits.shape), axis=1), log_softmax(logits, axis=1)


def table_from(p: Floats, q: Floats, token: Any, k: int, **columns: Any) -> TokenTable:
    rows = np.arange(len(p))
    tops = {"actor_topk": TopK.of(q, k), "policy_topk": TopK.of(p, k), "token": token} | columns
    return table_of(p[rows, token], q[rows, token], np.array([len(p)]), **tops)


def found(table: TokenTable) -> Laws:
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    result = laws(table, table.policy_log_probs, table.actor_log_probs)
    assert result is not None
    return result


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("scale", [1e-4, 0.3, 2.0])
def test_brackets_hold_the_truth_and_meet_it_with_all_tokens(k: int, scale: float) -> None:
    p, q = pair(5000, scale=scale)
    token = np.random.default_rng(1).integers(30, size=5000)
    mine = found(table_from(p, q, token, k))
    z, forward, backward = obrs.overlap(p, q), divergences.kl(q, p), divergences.kl(p, q)
    assert mine.known.all()
    assert np.all(mine.overlap_low <= z + 1e-6)
    assert np.all(z <= mine.overlap_high + 1e-6)
    assert np.all(mine.kl_low <= forward + 1e-6)
    assert np.all(mine.kl_reverse_low <= backward + 1e-6)
    assert np.all(mine.kl_low >= 0)
    if k == 30:
        assert mine.overlap_low == pytest.approx(z, abs=1e-6)
        assert mine.kl_low == pytest.approx(forward, rel=1e-2, abs=1e-6)
        assert mine.kl == pytest.approx(forward, rel=1e-2, abs=1e-6)
    elif scale == 0.3:
        assert np.mean(mine.kl_low) > 0.2 * np.mean(forward)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_the_kl_has_no_bias_and_in_the_end_less_variance_than_k3(k: int) -> None:
    """The mean over all tokens that can be drawn, each with its probability, is KL(q‖p)."""
    p, q = pair(40)
    vocab = q.shape[1]
    everything = np.tile(np.arange(vocab), len(q))
    mine = found(table_from(*(np.repeat(each, vocab, axis=0) for each in (p, q)), everything, k))
    weight = np.exp(q)
    kl = mine.kl.reshape(q.shape)
    assert (weight * kl).sum(axis=1) == pytest.approx(divergences.kl(q, p), rel=1e-5)
    ratio = p - q
    k3 = np.exp(ratio) - 1 - ratio
    spread = [((weight * each**2).sum(axis=1) - (weight * each).sum(axis=1) ** 2).mean() for each in (kl, k3)]
    assert k < 12 or spread[0] < 0.5 * spread[1]


def test_by_hand() -> None:
    """K = {7, 3} of the top-2 {7, 3} and {3, 7}, and {9}, drawn: p = (.4, .3, .1), q = (.5, .2, .2)."""
    actor = TopK(np.array([[7, 3]], dtype=np.int32), np.log(np.array([[0.5, 0.2]], dtype=np.float32)))
    policy = TopK(np.array([[7, 3]], dtype=np.int32), np.log(np.array([[0.4, 0.3]], dtype=np.float32)))
    policy = TopK(policy.ids[:, ::-1], policy.log_probs[:, ::-1])
    table = table_of(
        np.log([0.1]), np.log([0.2]), np.array([1]), actor_topk=actor, policy_topk=policy, token=np.array([9])
    )
    mine = found(table)
    assert mine.overlap_low == pytest.approx([0.4 + 0.2 + 0.1], abs=1e-6)
    assert mine.overlap_high == pytest.approx([0.7 + 0.1], abs=1e-6)
    inside = 0.5 * np.log(5 / 4) + 0.2 * np.log(2 / 3) + 0.2 * np.log(2)
    assert mine.kl_low == pytest.approx([inside + 0.1 * np.log(0.1 / 0.2)], abs=1e-5)
    exact = 0.5 * np.log(5 / 4) + 0.2 * np.log(2 / 3) - 0.7 + 0.7
    assert mine.kl == pytest.approx([exact + 0.5 - 1 + np.log(2)], abs=1e-6)


def test_what_is_not_there_is_not_counted() -> None:
    p, q = pair(50)
    token = np.zeros(50, dtype=np.int64)
    whole = table_from(p, q, token, 5)
    assert whole.actor_topk is not None
    assert whole.policy_topk is not None
    logs = [each.log_probs.copy() for each in (whole.actor_topk, whole.policy_topk)]
    for each in logs:
        each[:10] = np.nan
    logs[0][10] = np.log(0.5)  # a mass of 2.5
    logs[0][11, 3:] = np.nan
    tops = [TopK(top.ids, each) for top, each in zip((whole.actor_topk, whole.policy_topk), logs, strict=True)]
    mine = found(dataclasses.replace(whole, actor_topk=tops[0], policy_topk=tops[1]))
    assert list(np.flatnonzero(~mine.known)) == list(range(11))
    rest = found(whole)
    for name in Laws._fields:
        np.testing.assert_array_equal(getattr(mine, name)[12:], getattr(rest, name)[12:])
    assert mine.overlap_low[11] <= rest.overlap_low[11]
    assert mine.overlap_high[11] >= rest.overlap_high[11]


def test_a_row_padded_with_one_id_is_read_as_its_log_probs_say() -> None:
    p, q = pair(20, vocab=3)
    token = np.zeros(20, dtype=np.int64)
    plain = table_from(p, q, token, 3)
    assert plain.actor_topk is not None
    ids = np.concatenate([plain.actor_topk.ids, np.zeros((20, 2), dtype=np.int32)], axis=1)
    for value in (-np.inf, np.nan):
        padding = np.full((20, 2), value, dtype=np.float32)
        padded = TopK(ids, np.concatenate([plain.actor_topk.log_probs, padding], axis=1))
        mine = found(dataclasses.replace(plain, actor_topk=padded))
        for name in Laws._fields:
            np.testing.assert_allclose(getattr(mine, name), getattr(found(plain), name), rtol=1e-12)


def test_one_side_or_no_ids_give_wider_brackets() -> None:
    p, q = pair(100)
    token = np.random.default_rng(1).integers(30, size=100)
    whole = table_from(p, q, token, 10)
    both = found(whole)
    for less in ({"policy_topk": None}, {"actor_topk": None}, {"token": None}):
        mine, z = found(dataclasses.replace(whole, **less)), obrs.overlap(p, q)
        assert mine.known.all()
        assert np.all((mine.overlap_low <= z + 1e-6) & (z <= mine.overlap_high + 1e-6))
        assert np.mean(mine.overlap_high - mine.overlap_low) > np.mean(both.overlap_high - both.overlap_low)
    assert np.isnan(found(dataclasses.replace(whole, token=None)).kl).all()
    bare = dataclasses.replace(whole, policy_topk=None, actor_topk=None)
    assert laws(bare, p[:, 0], q[:, 0]) is None
