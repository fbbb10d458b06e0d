"""The tokens that corrections weigh: what is checked where they enter, and what follows from what."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens, UpdateTarget
from jackpot_sim.estimators.sequences.enumerated import Referee
from jackpot_sim.estimators.sequences.updates import require_target
from tests.conftest import ToLibrary
from tests.estimators.cells import columns
from tests.estimators.sequence_brute import Shape
from tests.estimators.sequence_cells import enumeration, random_prompt

LOG_RATIO = np.array([[0.3, -0.2, 0.1], [0.0, 0.5, -1.0]])
MASK = np.array([[True, True, False], [True, False, False]])


def test_the_thin_form_is_that_of_tokens(xp: ToLibrary) -> None:
    correction = estimators.combined(estimators.get("jackpot"), estimators.get("gspo", low=0.1, high=0.1))
    fields = {
        "overlap": xp(np.full((2, 1), 0.8)),
        "mask": xp(MASK),
        "log_reference_ratio": xp(LOG_RATIO / 2),
        "advantages": xp(np.array([[1.0], [-1.0]])),
    }
    thin = correction.weights(xp(LOG_RATIO), **fields)
    full = correction.weights(Tokens(xp(LOG_RATIO), **fields))
    for first, second in zip(thin, full, strict=True):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    with pytest.raises(TypeError, match="give the other arguments as its fields"):
        correction.weights(Tokens(xp(LOG_RATIO)), mask=xp(MASK))


def test_either_log_probs_give_the_other() -> None:
    log_q = np.log([[0.2, 0.3, 0.1], [0.5, 0.1, 0.9]])
    needs = frozenset({"policy_log_probs", "actor_log_probs"})
    from_actor = Tokens(LOG_RATIO, actor_log_probs=log_q).with_needed(needs, "x")
    from_policy = Tokens(LOG_RATIO, policy_log_probs=log_q + LOG_RATIO).with_needed(needs, "x")
    np.testing.assert_allclose(from_actor.policy_log_probs, log_q + LOG_RATIO, rtol=1e-15)  # type: ignore[arg-type]
    np.testing.assert_allclose(from_policy.actor_log_probs, log_q, rtol=1e-14)  # type: ignore[arg-type]


def test_what_masked_tokens_hold_does_not_matter() -> None:
    dirty = [np.where(MASK, each, math.nan) for each in (LOG_RATIO, LOG_RATIO - 2, np.ones((2, 3)))]
    needs = frozenset({"actor_log_probs", "advantages"})
    tokens = Tokens(dirty[0], actor_log_probs=dirty[1], advantages=dirty[2], mask=MASK).with_needed(needs, "x")
    for values, expected in (
        (tokens.log_ratio, LOG_RATIO),
        (tokens.actor_log_probs, LOG_RATIO - 2),
        (tokens.advantages, 1.0),
    ):
        np.testing.assert_array_equal(values, np.where(MASK, expected, 0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": MASK.astype(int)}, "mask must be boolean"),
        ({"mask": MASK.T}, "log_ratio has shape .* mask has shape"),
        ({"log_ratio": LOG_RATIO * math.nan}, "log_ratio holds NaN"),
        ({"actor_log_probs": LOG_RATIO[0]}, "actor_log_probs has shape"),
        ({"policy_log_probs": LOG_RATIO.T}, "policy_log_probs has shape"),
        ({"log_reference_ratio": LOG_RATIO[:, :1]}, "log_reference_ratio has shape"),
        ({"overlap": LOG_RATIO[:, 0]}, r"overlap has shape .*: overlap must be a number or have the same axes"),
        ({"advantages": LOG_RATIO[0]}, r"advantages has shape .*: advantages must be a number or have the same axes"),
    ],
)
def test_tokens_that_are_none_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Tokens(**({"log_ratio": LOG_RATIO} | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"x needs advantages: pass one per sequence, shape \(..., 1\)"),
        ({"advantages": np.ones((3, 1))}, "advantages has shape"),
        ({"advantages": np.full((2, 1), math.nan)}, "advantages holds NaN: x cannot weigh it"),
        ({"advantages": np.ones((2, 1)), "log_reference_ratio": LOG_RATIO * math.nan}, "log_reference_ratio holds NaN"),
    ],
)
def test_what_a_correction_needs_is_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(LOG_RATIO, **fields).with_needed(frozenset({"advantages"}), "x")


# ----------------------------------------------------------------------------------- aimed at p_new


SHAPE = Shape(3, 2, None)


AIMED = ("is", "tis", "mis", "mask-k1", "mask-k2", "mask-k3", "obrs", "overlap-tis", "jackpot")


@pytest.mark.parametrize("name", AIMED)
def test_a_cap_on_the_reference_ratio_lets_a_correction_aim_at_the_new_policy(name: str) -> None:
    aimed = estimators.get(name, c2=3.0)
    require_target(aimed, UpdateTarget.POLICY)
    if name != "jackpot":
        with pytest.raises(ValueError, match=f"{name} cannot target p_new without p_ref/p_new in its weight: give c2"):
            require_target(estimators.get(name), UpdateTarget.POLICY)
    # By hand: F2 = min(p_ref/p_new, 3) at ratios 1/4, 2 and 8.
    lead = np.log([0.25, 2.0, 8.0])
    plain = aimed.weights(np.zeros(3), np.array(0.8)).weight
    led = aimed.weights(np.zeros(3), np.array(0.8), log_reference_ratio=lead).weight
    np.testing.assert_allclose(np.asarray(led), np.asarray(plain) * np.array([0.25, 2.0, 3.0]), rtol=1e-15)
    with pytest.raises(ValueError, match="c2 must be positive"):
        replace(aimed, c2=0.0)  # type: ignore[call-arg]


def test_importance_sampling_is_the_same_from_either_target() -> None:
    # p_new/q · p_ref/p_new is p_ref/q, and the surrogate's p_new/p_ref makes p_new/q of both.
    referee = Referee([enumeration(SHAPE, random_prompt(SHAPE, 5, updated=True))])
    correction = estimators.get("is", c2=math.inf)
    found, expected = (
        columns(referee.weigh(correction, target).moments("proposed", 5)) for target in ("p_new", "p_ref")
    )
    for figure, value in found.items():
        assert value == pytest.approx(expected[figure], rel=1e-11, abs=1e-13, nan_ok=True), figure


def test_two_parts_cannot_both_carry_the_reference_ratio() -> None:
    both = estimators.combined(estimators.get("jackpot"), estimators.get("tis", c2=2.0))
    assert both.weights(np.zeros(2), np.array(1.0)).weight.shape == (2,)
    with pytest.raises(ValueError, match="two parts carry p_ref/p_new"):
        both.weights(np.zeros(2), np.array(1.0), log_reference_ratio=np.zeros(2))
