"""Scored sequences: what they refuse, and what stands at padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.scored import ScoredRollouts

MASK = np.array([[True, True, False], [True, False, False]])


def rollouts(**changed: Any) -> ScoredRollouts:
    given: dict[str, Any] = {
        "policy_log_probs": np.where(MASK, -1.0, math.nan),
        "actor_log_probs": np.where(MASK, [[-1.5, -0.5, 0.0], [-3.0, 0.0, 0.0]], math.nan),
        "mask": MASK,
        "advantage": np.array([1.0, -1.0]),
        "prompt": np.array([0, 1]),
    }
    return ScoredRollouts(**(given | changed))


def test_log_ratios_are_zero_at_padding() -> None:
    np.testing.assert_array_equal(rollouts().log_ratio, [[0.5, -0.5, 0.0], [2.0, 0.0, 0.0]])
    np.testing.assert_array_equal(rollouts().lengths, [2, 1])
    assert len(rollouts()) == 2


def test_some_of_the_sequences() -> None:
    for rows in (slice(1, 2), np.array([1])):
        some = rollouts().take(rows)
        np.testing.assert_array_equal(some.log_ratio, [[2.0, 0.0, 0.0]])
        assert (some.advantage.tolist(), some.prompt.tolist()) == ([-1.0], [1])


@pytest.mark.parametrize("name", ["policy_log_probs", "actor_log_probs"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_log_prob_of_a_token_is_refused(name: str, value: float) -> None:
    values = np.full(MASK.shape, -1.0)
    values[0, 1] = value
    with pytest.raises(ValueError, match=f"{name} holds NaN or \\+inf at a token"):
        rollouts(**{name: values})
    values[0, 1] = -math.inf
    assert len(rollouts(**{name: values})) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"advantage": np.array([1.0, math.nan])}, "advantage holds NaN or inf"),
        ({"advantage": np.array([1.0])}, "advantage has shape"),
        ({"prompt": np.array([0])}, "prompt has shape"),
        ({"mask": np.array([[True, True, False], [False, False, False]])}, "without any token"),
        ({"policy_log_probs": np.zeros((2, 2))}, "must be the same"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollouts(**changed)


def test_no_sequence_at_all_is_refused_and_a_single_token_is_not() -> None:
    for shape in ((0, 3), (1, 1)):
        one = {name: np.full(shape, -1.0) for name in ("policy_log_probs", "actor_log_probs")}
        per_sequence = {"advantage": np.ones(shape[0]), "prompt": np.zeros(shape[0], dtype=np.int64)}
        given: dict[str, Any] = {**one, **per_sequence, "mask": np.ones(shape, dtype=bool)}
        if shape[0]:
            assert ScoredRollouts(**given).lengths.tolist() == [1]
        else:
            with pytest.raises(ValueError, match="mask leaves a sequence without any token"):
                ScoredRollouts(**given)
