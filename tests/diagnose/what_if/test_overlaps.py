"""The overlap from the top-k of both laws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.what_if import overlaps
from jackpot_sim.diagnose.what_if.overlaps import overlap
from jackpot_sim.estimators import given
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.what_if.dumps import VOCAB, dump

LENGTHS = np.full(40, 6)


def whole(table: TokenTable, lam: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Z from top-k that are the whole laws, (N,)."""
    laws = []
    for topk in (given(table.policy_topk), given(table.actor_topk)):
        law = np.zeros((len(table), VOCAB))
        np.put_along_axis(law, np.asarray(topk.ids, np.int64), np.exp(np.asarray(topk.log_probs, np.float64)), axis=-1)
        laws.append(law)
    return np.minimum(laws[1], laws[0] / lam).sum(axis=-1)


@pytest.mark.parametrize("lam", [0.7, 1.0, 1.8])
def test_of_whole_laws_it_is_z(monkeypatch: pytest.MonkeyPatch, lam: float) -> None:
    monkeypatch.setattr(overlaps, "_ROWS", 37)
    table = dump(2, LENGTHS, spread=0.8)
    np.testing.assert_allclose(given(overlap(Batch(table, 0), lam)), whole(table, lam), atol=2e-6)


@pytest.mark.parametrize("lam", [0.7, 1.0, 1.8])
def test_of_part_of_the_laws_it_is_near(lam: float) -> None:
    exact = whole(dump(2, LENGTHS, spread=0.3), lam)
    found = given(overlap(Batch(dump(2, LENGTHS, spread=0.3, k=5), 0), lam))
    assert abs(found.mean() - exact.mean()) < 0.02
    assert np.max(np.abs(found - exact)) < 0.3
    assert np.corrcoef(found, exact)[0, 1] > 0.5


def test_a_token_without_a_top_k_is_bracketed_by_0_and_1() -> None:
    table = dump(2, LENGTHS)
    log_probs = given(table.actor_topk).log_probs.copy()
    log_probs[3] = np.nan
    holed = dataclasses.replace(table, actor_topk=TopK(given(table.actor_topk).ids, log_probs))
    found = given(overlap(Batch(holed, 0), 1.0))
    assert np.all((found >= 0) & (found <= 1 + 1e-6))
    np.testing.assert_allclose(np.delete(found, 3), np.delete(given(overlap(Batch(table, 0), 1.0)), 3), atol=1e-5)


def test_without_both_there_is_none() -> None:
    table = dataclasses.replace(dump(2, LENGTHS), policy_topk=None)
    assert overlap(Batch(table, 0), 1.0) is None
