"""The trap of a sampler that cuts, at independent states: the ratio is the mass that is left, whatever the token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.states.base_laws import Dirichlet, LmLike
from jackpot_sim.environments.states.families import LogitNoise, Mismatch, Temperature, TopKTruncation, TopPTruncation
from tests.cases import each, every

FINE = Dirichlet(vocab=20_000, states=4)
"""No token has more than about 1e-3, so that a nucleus of p has a mass of p, and not of much more."""


def drawable(pair: PolicyPair) -> Any:
    return pair.actor_log_probs > -np.inf


@each("top_p, told", every((1.0, 0.99, 0.95, 0.9), LogProbs))
def test_the_ratio_of_a_policy_to_its_own_nucleus(top_p: float, told: LogProbs) -> None:
    """The table of trl#6789, computed: 1, 0.99, 0.95, 0.9 with processed log-probs, and 1 with the others."""
    pair = TopPTruncation(p=top_p, base=FINE, log_probs=told).build(0).pair
    policy, actor = pair.told
    kept = drawable(pair)
    mass = np.sum(np.exp(pair.policy_log_probs), axis=-1, where=kept)
    for state in range(len(kept)):
        found = np.exp(policy[state, kept[state]] - actor[state, kept[state]])
        wanted = mass[state] if told is LogProbs.PROCESSED else 1.0
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(mass, top_p, atol=1e-3)


def test_at_states_like_those_of_text_less_is_lost() -> None:
    """The means of S: near-certain states keep nearly all."""
    means = []
    for top_p in (0.99, 0.95, 0.9):
        pair = TopPTruncation(p=top_p, base=LmLike()).build(0).pair
        means.append(np.mean(np.sum(np.exp(pair.policy_log_probs), axis=-1, where=drawable(pair))))
    assert [round(float(mean), 3) for mean in means] == [0.994, 0.979, 0.963]


@each("family", (TopPTruncation(p=0.8), TopKTruncation(k=5)))
def test_what_is_drawn_and_what_is_wanted_stay(family: Mismatch) -> None:
    plain, raw, support = (replace(family, log_probs=told).build(0).pair for told in LogProbs)
    for other in (raw, support):
        np.testing.assert_array_equal(other.policy_log_probs, plain.policy_log_probs)
        np.testing.assert_array_equal(other.actor_log_probs, plain.actor_log_probs)
        np.testing.assert_array_equal(other.advantage, plain.advantage)
    assert plain.believed is None
    assert plain.told[0] is plain.policy_log_probs
    np.testing.assert_array_equal(raw.told[1], plain.policy_log_probs)
    assert (np.isfinite(support.told[0]) == np.isfinite(support.actor_log_probs)).all()


def test_a_sampler_that_cuts_nothing_changes_nothing() -> None:
    for family in (TopPTruncation(p=1.0), LogitNoise(sigma=0.1), Temperature(temperature=2.0)):
        assert replace(family, log_probs="support").build(0).pair.believed is None
    assert LogitNoise(sigma=0.1, log_probs=LogProbs.RAW).build(0).pair.believed is None, "no sampler, nothing raw"
    hot = Temperature(temperature=2.0, log_probs=LogProbs.RAW).build(0).pair
    np.testing.assert_array_equal(hot.told[1], hot.policy_log_probs)


def test_an_unknown_name_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="'mask' is not a valid LogProbs"):
        TopPTruncation(p=0.9, log_probs="mask")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Input should be 'processed', 'raw' or 'support'"):
        TypeAdapter(TopPTruncation).validate_python({"p": 0.9, "log_probs": "mask"})
