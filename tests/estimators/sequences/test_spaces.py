"""Spaces of gradients: each takes arrays of its own shapes alone. Their values are tested with the enumeration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core.sequences import Sequences
from jackpot_sim.estimators.sequences import enumerated, sampled, updates
from jackpot_sim.estimators.sequences.spaces import Logits, Parameters, Space
from tests.estimators.rollouts.test_weights import REPLICATES, TABLES
from tests.estimators.sequence_brute import Shape
from tests.estimators.sequence_cells import enumeration, random_prompt

GENERATOR = np.random.default_rng(0)
P = GENERATOR.dirichlet(np.ones(3), size=3)
FEATURES = GENERATOR.normal(size=(3, 3, 3))
STEPS = Sequences(np.array([[0, 1], [2, 0]]), np.array([[1, 2], [0, 0]]), np.array([[True, True], [True, False]]))
PROMPT = enumeration(Shape(3, 2, None), random_prompt(Shape(3, 2, None), 1))


@pytest.mark.parametrize("space", [Logits(P), Parameters(FEATURES)], ids=["logits", "parameters"])
def test_arrays_have_the_axes_of_the_space(space: Space) -> None:
    vector = space.update(P)
    calls = {
        "mass": (space.update, P),
        "vector": (space.along, vector),
        "coefficients": (lambda c: space.path_norm_sq(STEPS, c), np.where(STEPS.mask, 0.5, 0.0)),
    }
    for name, (call, good) in calls.items():
        call(good)
        for wrong in (good[..., :1], good[..., None], good[:1], good.reshape(-1)[:-1], np.asarray(good.reshape(-1)[0])):
            with pytest.raises(ValueError, match=f"{name} has shape"):
                call(wrong)
        for kind in (np.int64, np.bool_, np.complex128):
            with pytest.raises(TypeError, match=f"{name} must hold real floating numbers"):
                call(good.astype(kind))


def test_laws_and_features_have_their_axes() -> None:
    for wrong in (P[0], P[None]):
        with pytest.raises(ValueError, match=r"p has shape .*: it must be \(prefixes, vocab\)"):
            Logits(wrong)
    for wrong in (FEATURES[0], FEATURES[None]):
        with pytest.raises(ValueError, match=r"features has shape .*: it must be \(prefixes, vocab, parameters\)"):
            Parameters(wrong)


def test_features_are_those_of_the_prompts() -> None:
    good = GENERATOR.normal(size=(*PROMPT.laws.shape, 2))
    enumerated.exact([PROMPT], estimators.get("is"), features=[good])
    for wrong in ([], [good, good]):
        with pytest.raises(ValueError, match=f"features holds {len(wrong)} arrays for 1 prompts"):
            enumerated.Referee([PROMPT], wrong)
    for other in (good[:-1], good[:, :-1], good[..., 0], good.swapaxes(0, 1)):
        with pytest.raises(ValueError, match="features has shape"):
            enumerated.exact([PROMPT], estimators.get("is"), features=[other])


def test_truth_and_features_fit_the_rollouts() -> None:
    def estimate(along: list[np.ndarray], features: list[np.ndarray] | None = None) -> None:
        given = TABLES, estimators.get("is"), np.random.default_rng(0)
        truth = sampled.Truth(along, 1.0, 1.0)
        sampled.estimate(*given, replicates=REPLICATES, truth=truth, features=features)

    along = [np.ones(each.laws.shape) for each in TABLES]
    features = [np.ones((*each.laws.shape, 2)) for each in TABLES]
    estimate(along, features)
    with pytest.raises(ValueError, match="truth holds 1 tables for 2 prompts"):
        estimate(along[:1])
    for wrong in (along[0][:1], along[0][:, :1], along[0].T, along[0][..., None]):
        with pytest.raises(ValueError, match=r"truth\.along has shape"):
            estimate([wrong, along[1]])
    with pytest.raises(ValueError, match="features holds 1 arrays for 2 prompts"):
        estimate(along, features[:1])
    with pytest.raises(ValueError, match="features has shape"):
        estimate(along, [features[0][..., 0], features[1]])


def test_proposals_have_an_advantage_and_a_probability_each() -> None:
    laws, sequences, n = PROMPT.laws, PROMPT.sequences, len(PROMPT.sequences)
    for wrong in (np.ones((n, 1)), np.ones(1), np.ones(()), np.ones((n, n))):
        with pytest.raises(ValueError, match=r"advantage has shape .*one number per sequence"):
            updates.Proposals(laws, sequences, wrong)
        part = updates.Proposals(laws, sequences, np.ones(n))
        with pytest.raises(ValueError, match=r"probability has shape .*one number per sequence"):
            updates.in_the_limit([part], [wrong], estimators.get("is"), updates.UpdateTarget.REFERENCE)
    strange: Any = [1.0] * n
    with pytest.raises(TypeError, match="advantage must be a numpy array, got list"):
        updates.Proposals(laws, sequences, strange)
    with pytest.raises(TypeError, match="advantage must hold real floating numbers"):
        updates.Proposals(laws, sequences, np.ones(n, dtype=int))
