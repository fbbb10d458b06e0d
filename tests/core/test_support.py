"""Laws on the support that a sampler left, and what is no support."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.support import BelievedLaws, SamplingMask, cuts, on_support
from tests.conftest import ToLibrary
from tests.core.laws import normalised, of_probabilities

INF = np.inf
P = np.stack([of_probabilities(0.5, 0.3, 0.2), of_probabilities(0.25, 0.25, 0.5)])
CUT = np.stack([of_probabilities(0.9, 0.1, 0.0), of_probabilities(0.2, 0.3, 0.5)])


def test_both_laws_stand_on_the_same_tokens(xp: ToLibrary) -> None:
    found = np.exp(to_numpy(on_support(xp(P), xp(CUT))))
    np.testing.assert_allclose(found, [[0.625, 0.375, 0.0], [0.25, 0.25, 0.5]], rtol=1e-15)  # 0.5 and 0.3 over 0.8
    assert cuts(xp(P), xp(CUT))
    assert not cuts(xp(CUT), xp(P)), "only the policy lacks a token"


def test_on_its_own_support_a_law_stays_as_it_is() -> None:
    law = normalised(np.random.default_rng(0).normal(size=(7, 50)))
    np.testing.assert_allclose(on_support(law, law), law, rtol=1e-14)


def test_a_support_without_the_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy_log_probs gives no mass .* S is 0"):
        on_support(of_probabilities(0.0, 1.0), of_probabilities(1.0, 0.0))
    with pytest.raises(ValueError, match="actor_log_probs is not normalised"):
        on_support(P, CUT + 0.1)
    with pytest.raises(ValueError, match="has shape"):
        BelievedLaws(P, CUT[:1])


MASK = SamplingMask(np.array([2, 0, 1], dtype=np.int32), np.array([0, 1, 1, 3]), np.array([[0, 1], [2, 2]]))
"""Of three states: one token kept, nothing recorded, two tokens kept; the last state has two tokens."""


def test_a_recorded_support_is_where_it_was_recorded() -> None:
    found = MASK.dense(3)
    assert found.tolist() == [[[False, False, True], [True] * 3], [[True, True, False]] * 2]
    assert MASK.take(np.array([1])).dense(4).tolist() == [[[True, True, False, False]] * 2]
    assert MASK.take(slice(0, 1)).places.tolist() == [[0, 1]]


def test_a_support_that_cannot_be_is_refused() -> None:
    for changed, message in (
        ({"offsets": np.array([0, 1, 1])}, "offsets must grow from 0 to the number of ids, which is 3"),
        ({"offsets": np.array([0, 2, 1, 3])}, "offsets must grow"),
        ({"places": np.array([[0, 3]])}, "places must lie from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(MASK, **changed)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ids must hold integers"):
        dataclasses.replace(MASK, ids=np.zeros(3))
    with pytest.raises(ValueError, match="ids must lie from 0 to 1"):
        MASK.dense(2)
