"""Figures at visited states: what they take. Their values are tested with the sweeps that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.rollouts.at_states import Visited, at_states

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
