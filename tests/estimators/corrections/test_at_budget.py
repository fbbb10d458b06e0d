"""λ from an acceptance budget, on a correction."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, rao_blackwell
from jackpot_sim.estimators.corrections.jackpot import Jackpot
from jackpot_sim.estimators.states import moments
from tests.conftest import ToLibrary
from tests.core.laws import of_probabilities
from tests.estimators.cells import random_cell

CELL = random_cell(states=4, vocab=9, seed=3)


@pytest.mark.parametrize("name", ["obrs", "jackpot"])
@pytest.mark.parametrize("rate", [0.2, 0.7, 0.95])
def test_each_state_meets_the_budget(name: str, rate: float, xp: ToLibrary) -> None:
    laws = [xp(x) for x in CELL]
    solved = estimators.at_budget(estimators.get(name), laws[0], laws[1], rate)
    assert tuple(solved.parameters()["lam"].shape) == (4, 1)
    found = moments.exact(*laws, solved)
    np.testing.assert_allclose(found.per_state.acceptance_rate, rate, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.7, 0.95])
def test_the_batch_meets_the_budget(rate: float) -> None:
    solved = estimators.at_budget(estimators.get("jackpot", c1=3.0), CELL.policy, CELL.actor, rate, per_state=False)
    assert isinstance(solved, Jackpot)
    assert isinstance(solved.lam, float)
    assert solved.c1 == 3.0
    found = moments.exact(*CELL, solved)
    assert found.acceptance_rate == pytest.approx(rate, rel=1e-12)
    assert np.ptp(found.per_state.acceptance_rate) > 0.01


def test_one_budget_per_state() -> None:
    rates = np.array([0.3, 0.5, 0.6, 0.9])
    solved = estimators.at_budget(estimators.get("obrs"), CELL.policy, CELL.actor, rates)
    np.testing.assert_allclose(moments.exact(*CELL, solved).per_state.acceptance_rate, rates, rtol=1e-12)


def test_by_hand() -> None:
    # r = (3, 1/3): Z(λ) = 1/4 + 1/(4λ) on [1/3, 3], so that Z = 3/8 gives λ = 2.
    policy, actor = of_probabilities(0.75, 0.25)[None], of_probabilities(0.25, 0.75)[None]
    for per_state in (True, False):
        solved = estimators.at_budget(estimators.get("obrs"), policy, actor, 0.375, per_state)
        np.testing.assert_allclose(np.squeeze(solved.parameters()["lam"]), 2.0, rtol=1e-14)


def test_through_rao_blackwell() -> None:
    plain = estimators.at_budget(estimators.get("jackpot"), CELL.policy, CELL.actor, 0.5)
    smooth = estimators.at_budget(rao_blackwell(estimators.get("jackpot")), CELL.policy, CELL.actor, 0.5)
    assert isinstance(smooth, RaoBlackwell)
    np.testing.assert_array_equal(smooth.parameters()["lam"], plain.parameters()["lam"])
    found = moments.exact(*CELL, smooth)
    expected = moments.exact(*CELL, plain).per_state
    np.testing.assert_allclose(found.per_state.kl_effective, expected.kl_effective, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.per_state.error_sq, expected.error_sq, rtol=1e-12)
    assert found.acceptance_rate == pytest.approx(1.0)  # without a mask every token stays


def test_thresholds_follow_their_states_through_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jackpot_sim.core.backend.BLOCK_ELEMENTS", 9)
    rates = np.array([0.3, 0.5, 0.6, 0.9])
    for form in (estimators.get("jackpot"), estimators.get("obrs")):
        solved = estimators.at_budget(form, CELL.policy, CELL.actor, rates)
        np.testing.assert_allclose(moments.exact(*CELL, solved).per_state.acceptance_rate, rates, rtol=1e-12)


def test_errors() -> None:
    for correction in (estimators.get("tis"), rao_blackwell(estimators.get("mis"))):
        with pytest.raises(ValueError, match="has no lam to solve for"):
            estimators.at_budget(correction, CELL.policy, CELL.actor, 0.5)
    policy, actor = of_probabilities(0.5, 0.5, 0.0)[None], of_probabilities(0.5, 0.2, 0.3)[None]
    with pytest.raises(ValueError, match=r"0\.7"):
        estimators.at_budget(estimators.get("obrs"), policy, actor, 0.9)
    with pytest.raises(ValueError, match="acceptance_rate"):
        estimators.at_budget(estimators.get("obrs"), CELL.policy, CELL.actor, 0.0)
