"""The top-k that a rollout keeps: the same tokens in the same order on every backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import backend
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.topk import TopK
from tests.conftest import ToLibrary
from tests.core.laws import Pair, law_pairs, normalised, of_probabilities

INF = math.inf


def tied_laws(seed: int, shape: tuple[int, ...]) -> Any:
    """Laws with many ties and many cut tokens, the first token never cut."""
    logits = np.random.default_rng(seed).integers(-2, 3, size=shape).astype(float)
    logits[logits == -2] = -INF
    logits[..., 0] = 0
    return normalised(logits)


def by_sorting(law: Any, k: int) -> Any:
    return np.argsort(-law, axis=-1, kind="stable")[..., :k]


def test_by_hand(xp: ToLibrary) -> None:
    top = TopK.of(xp(of_probabilities(0.25, 0.1, 0.25, 0.4, 0.0)), 3)
    assert to_numpy(top.ids).tolist() == [3, 0, 2]
    np.testing.assert_array_equal(to_numpy(top.log_probs), np.log(np.array([0.4, 0.25, 0.25])).astype(np.float32))
    assert to_numpy(top.ids).dtype == np.int32
    assert to_numpy(top.log_probs).dtype == np.float32
    assert (top.k, top.nbytes) == (3, 24)


def test_cut_tokens_come_last_in_order_of_id(xp: ToLibrary) -> None:
    top = TopK.of(xp(of_probabilities(0.0, 0.3, 0.0, 0.7, 0.0)), 4)
    assert to_numpy(top.ids).tolist() == [3, 1, 0, 2]
    assert to_numpy(top.log_probs)[2:].tolist() == [-INF, -INF]


@pytest.mark.parametrize("k", [1, 3, 8, 9, 100])
def test_ties_go_to_the_lower_id(xp: ToLibrary, k: int) -> None:
    laws = tied_laws(0, (4, 30, 9))
    top = TopK.of(xp(laws), k)
    ids = by_sorting(laws, k)
    np.testing.assert_array_equal(to_numpy(top.ids), ids)
    np.testing.assert_array_equal(to_numpy(top.log_probs), np.take_along_axis(laws, ids, -1).astype(np.float32))
    assert top.k == min(k, 9)
    assert top.nbytes == 4 * 30 * 8 * min(k, 9) == to_numpy(top.ids).nbytes + to_numpy(top.log_probs).nbytes


@given(pair=law_pairs(shared=False), k=st.integers(1, 14))
def test_any_law(pair: Pair, k: int) -> None:
    for law in pair:
        np.testing.assert_array_equal(TopK.of(law, k).ids, by_sorting(law, k))


def test_a_large_vocabulary(xp: ToLibrary) -> None:
    law = normalised(np.random.default_rng(1).normal(size=(2, 50_000)))
    np.testing.assert_array_equal(to_numpy(TopK.of(xp(law), 50).ids), by_sorting(law, 50))


def test_backend_topk_keeps_the_values(xp: ToLibrary) -> None:
    x = np.random.default_rng(2).integers(0, 4, size=(3, 5, 7)).astype(float)
    values, indices = (to_numpy(each) for each in backend.topk(xp(x), 4))
    np.testing.assert_array_equal(indices, by_sorting(x, 4))
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, -1))
    np.testing.assert_array_equal(to_numpy(backend.topk_mask(xp(x), 4)).sum(axis=-1), 4)


def test_first_and_gather(xp: ToLibrary) -> None:
    actor, policy = tied_laws(3, (2, 6, 9)), tied_laws(4, (2, 6, 9))
    top = TopK.of(xp(actor), 5).first(3)
    np.testing.assert_array_equal(to_numpy(top.ids), by_sorting(actor, 3))
    gathered = to_numpy(top.gather(xp(policy)))
    np.testing.assert_array_equal(gathered, np.take_along_axis(policy, by_sorting(actor, 3), -1))
    assert gathered.dtype == np.float64
    with pytest.raises(ValueError, match=r"log_probs has shape \(6, 9\), ids has shape \(2, 6, 3\)"):
        top.gather(xp(policy[0]))


def test_half_precision_and_no_graph() -> None:
    torch = pytest.importorskip("torch")
    law = torch.tensor(of_probabilities(0.0, 1.0, 0.0), dtype=torch.bfloat16, requires_grad=True)
    top = TopK.of(law, 2)
    assert top.log_probs.dtype == torch.float32
    assert not top.log_probs.requires_grad
    assert top.ids.tolist() == [1, 0]


def test_errors_name_the_argument(xp: ToLibrary) -> None:
    law = xp(of_probabilities(0.5, 0.5))
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            TopK.of(law, k)
    with pytest.raises(ValueError, match="log_probs is not normalised"):
        TopK.of(xp([0.0, 0.0]), 1)
    with pytest.raises(ValueError, match="log_probs holds NaN"):
        TopK.of(xp([math.nan, 0.0]), 1)
    top = TopK.of(law, 2)
    with pytest.raises(ValueError, match=r"ids has shape \(1,\), log_probs has shape \(2,\)"):
        TopK(top.ids[:1], top.log_probs)
    with pytest.raises(ValueError, match=r"log_probs has dtype .*float64: store it as .*float32"):
        TopK(top.ids, law)
    with pytest.raises(ValueError, match=r"ids has dtype .*int64: store it as .*int32"):
        TopK(xp(np.array([0, 1])), top.log_probs)
    with pytest.raises(ValueError, match=r"log_probs has shape \(0,\)"):
        top.first(0)
