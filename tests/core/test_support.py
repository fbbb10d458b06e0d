"""Laws on the support that a sampler left, and what is no support."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.support import BelievedLaws, cuts, on_support
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
