"""Figures at the states that rollouts visit, against the exact moments of the same states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.two_laws import TwoLaws
from jackpot_sim.estimators.rollouts.at_states import Visited, at_states
from jackpot_sim.estimators.states import moments
from tests.cases import each
from tests.conftest import ToLibrary
from tests.core.laws import of_probabilities
from tests.estimators.cells import random_cell

CORRECTIONS = [
    estimators.get("none"),
    estimators.get("is"),
    estimators.get("tis", clip=0.8),
    estimators.get("mis", low=0.8, high=1.5),
    estimators.get("mask-k3", bound=0.05),
    estimators.get("obrs", lam=1.4),
    estimators.get("jackpot", lam=0.7, c1=0.9),
    estimators.get("overlap-tis", lam=1.3, c1=0.8),
]


@each("correction", CORRECTIONS)
def test_figures_are_the_exact_moments_of_each_state(xp: ToLibrary, correction: Any) -> None:
    cell = random_cell(states=5, vocab=7, seed=3)
    kl = divergences.kl(cell.policy, cell.actor)
    found = at_states(*(xp(x) for x in (cell.policy, cell.actor, cell.actor, kl)), correction)
    expected = moments.exact(*cell, correction).per_state
    for name in ("acceptance_rate", "kl_accepted", "kl_effective"):
        np.testing.assert_allclose(to_numpy(getattr(found, name)), getattr(expected, name), rtol=1e-12, err_msg=name)


def test_a_law_that_is_only_believed_gives_the_weights() -> None:
    policy, actor, believed = (of_probabilities(*x)[None] for x in ((0.5, 0.5), (0.4, 0.6), (0.25, 0.75)))
    found = at_states(policy, actor, believed, divergences.kl(policy, actor), estimators.get("obrs"))
    # r is 2 and 2/3 in what is believed: a is 1 and 2/3.
    np.testing.assert_allclose(found.acceptance_rate, 0.4 + 0.6 * 2 / 3, rtol=1e-14)
    np.testing.assert_allclose(found.kl_accepted, math.log(0.5 / 0.5), atol=1e-15)


def test_a_policy_on_a_recorded_support_gives_the_weights_and_the_kls_stay_those_of_the_whole_one() -> None:
    policy, actor, support = (of_probabilities(*x)[None] for x in ((0.4, 0.4, 0.2), (0.25, 0.75, 0), (0.5, 0.5, 0)))
    visited = Visited(np.array([[1]]), [estimators.get("obrs")], [1.0])
    at = np.array([0])
    visited.add(at, at, policy, actor, actor, support)
    (found,) = visited.at
    assert found is not None
    # On the support r is 2 and 2/3, and Z is 0.25 + 0.5.
    np.testing.assert_allclose([found.acceptance_rate[0, 0], visited.overlap[1.0][0, 0]], 0.75, rtol=1e-14)
    np.testing.assert_allclose(np.exp([visited.policy_log_probs[0, 0], visited.told_log_probs[0, 0]]), [0.4, 0.5])
    assert found.kl_accepted[0, 0] == visited.divergences["kl_policy_actor"][0, 0] == math.inf


def test_tokens_that_the_actor_cannot_write_are_left_out() -> None:
    policy, actor = of_probabilities(0.5, 0.3, 0.2)[None], of_probabilities(0.6, 0.4, 0.0)[None]
    kl = divergences.kl(policy, actor)
    for name in ("none", "is", "tis", "obrs"):
        found = at_states(policy, actor, actor, kl, estimators.get(name))
        expected = moments.exact(policy, actor, np.array([[1.0, 2.0, 3.0]]), estimators.get(name))
        np.testing.assert_allclose(found.acceptance_rate, expected.acceptance_rate, rtol=1e-14)
        assert found.kl_accepted == found.kl_effective == math.inf


def test_visited_states_stand_at_their_tokens() -> None:
    cell = random_cell(states=3, vocab=4, seed=5)
    tokens = np.array([[2, 0], [3, 1]])
    tis, whole = estimators.get("jackpot", lam=1.5), estimators.get("sequence-tis")
    visited = Visited(tokens, [tis, whole], [1.0])
    places = np.array([0, 0, 1]), np.array([0, 1, 0])
    visited.add(*places, cell.policy, cell.actor, cell.actor)
    assert visited.at[1] is None
    assert list(visited.overlap) == [1.0, 1.5]
    assert visited.at[0] is not None
    kl = divergences.kl(cell.policy, cell.actor)
    found = at_states(cell.policy, cell.actor, cell.actor, kl, tis)
    columns = [
        (visited.divergences["kl_policy_actor"], kl),
        (visited.divergences["chi_square"], divergences.chi_square(cell.policy, cell.actor)),
        (visited.overlap[1.5], obrs.overlap(cell.policy, cell.actor, 1.5)),
        (visited.policy_log_probs, cell.policy[[0, 1, 2], [2, 0, 3]]),
        *zip(visited.at[0], found, strict=True),
    ]
    for table, values in columns:
        np.testing.assert_allclose(table[places], values, rtol=1e-14)
        assert table[1, 1] == 0


LAWS = {name: np.log(np.full((3, 3), 1 / 3)) for name in ("policy", "actor", "believed")}
PLACES = {"sequence": np.array([0, 1, 1]), "step": np.array([0, 0, 1])}
TOKENS = np.array([[0, 0], [1, 2]])


def add(tokens: Any = TOKENS, **changed: Any) -> None:
    Visited(tokens, [estimators.get("jackpot")]).add(**PLACES | LAWS | changed)


def test_laws_and_places_fit_each_other() -> None:
    add()
    for name, place in PLACES.items():
        for wrong in (place[:2], place[:, None], place[:1], place[0]):
            with pytest.raises(ValueError, match=f"{name} has shape .*one place per row"):
                add(**{name: np.asarray(wrong)})
        for off in (-1, 2):
            with pytest.raises(ValueError, match=f"{name} must lie from 0 to 1, got"):
                add(**{name: np.array([0, 1, off])})
        with pytest.raises(TypeError, match=f"{name} must hold integers"):
            add(**{name: place.astype(bool)})
    for name in ("actor", "believed"):
        for wrong in (LAWS[name][:1], LAWS[name][0], LAWS[name][..., None]):
            with pytest.raises(ValueError, match=f"policy has shape .* {name} has shape"):
                add(**{name: wrong})


def test_tokens_are_ids_of_the_vocabulary() -> None:
    for wrong in (TOKENS + 1, TOKENS - 1):
        with pytest.raises(ValueError, match="tokens must lie from 0 to 2, got"):
            add(wrong)
    with pytest.raises(TypeError, match="tokens must hold integers"):
        add(TOKENS.astype(float))
    with pytest.raises(ValueError, match=r"tokens has shape \(4,\): it must be \(n, length\)"):
        add(TOKENS.reshape(-1))


def test_a_kl_per_state_and_a_correction_that_fits_a_table() -> None:
    given = [LAWS[name] for name in ("policy", "actor", "believed")]
    for wrong in (np.zeros((3, 1)), np.zeros(1), np.zeros(()), np.zeros((1, 3))):
        with pytest.raises(ValueError, match=r"kl has shape .*, not \(3,\): one number per state"):
            at_states(*given, wrong, estimators.get("none"))
    with pytest.raises(TypeError, match="kl must hold real floating numbers"):
        at_states(*given, np.zeros(3, dtype=int), estimators.get("none"))
    with pytest.raises(ValueError, match="sequence-is looks at more"):
        at_states(*given, np.zeros(3), estimators.get("sequence-is"))


def test_laws_have_two_axes() -> None:
    for fold in (lambda law: law[0], lambda law: law[None]):
        folded = {name: fold(law) for name, law in LAWS.items()}
        with pytest.raises(ValueError, match=r"policy has shape .*: it must be \(rows, vocab\)"):
            add(**folded)
        with pytest.raises(ValueError, match=r"policy_log_probs has shape .*: it must be \(states, vocab\)"):
            at_states(*folded.values(), np.zeros(folded["policy"].shape[0]), estimators.get("none"))


def test_places_and_tokens_are_numpy() -> None:
    torch = pytest.importorskip("torch")
    for name, place in PLACES.items():
        with pytest.raises(TypeError, match=f"{name} must be a numpy array, got Tensor"):
            add(**{name: torch.as_tensor(place)})
    with pytest.raises(TypeError, match="tokens must be a numpy array, got Tensor"):
        add(torch.as_tensor(TOKENS))


def test_corrections_of_one_weight_share_its_kl_and_their_figures_are_those_of_each_alone(
    xp: ToLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections = [estimators.get("obrs"), estimators.get("jackpot"), estimators.get("tis", clip=0.8)]
    cell = random_cell(states=4, vocab=9, seed=2)
    tokens, at = np.zeros((1, 4), dtype=np.int64), (np.zeros(4, dtype=np.int64), np.arange(4))
    laws = xp(cell.policy), xp(cell.actor), xp(cell.actor)
    alone = []
    for correction in corrections:
        one = Visited(tokens, [correction])
        one.add(*at, *laws)
        alone += one.at
    taken: list[Any] = []
    whole = TwoLaws.kl_to

    def counted(self: TwoLaws, weight: Any, less_policy: Any = None) -> Any:
        taken.append(weight)
        return whole(self, weight, less_policy)

    monkeypatch.setattr(TwoLaws, "kl_to", counted)
    together = Visited(tokens, corrections)
    together.add(*at, *laws)
    # The acceptance of obrs and jackpot; jackpot's a·w; the weights of tis.
    assert len(taken) == 3
    for found, expected in zip(together.at, alone, strict=True):
        assert found is not None
        assert expected is not None
        for values, single in zip(found, expected, strict=True):
            np.testing.assert_array_equal(values, single)
