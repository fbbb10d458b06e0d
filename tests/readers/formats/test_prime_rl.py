"""prime-rl's token exports: placeholders, rewards, and what differs from release to release."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from tests.readers.formats.reading import of_contents


def row(**changes: Any) -> dict[str, Any]:
    return {
        "step": 3,
        "rank": 1,
        "export_sequence_idx": 4,
        "token_ids": [9, 8, 7, 6, 5],
        "loss_mask": [False, False, True, False, True],
        "advantages": [0.0, 0.0, 1.0, 1.0, 1.0],
        "inference_logprobs": [0.0, 0.0, -1.0, 0.0, None],
        "trainer_logprobs": [-11.0, -4.0, -1.5, -3.0, -2.0],
        "entropy": [None] * 5,
        **changes,
    }


def test_a_completion_begins_where_the_mask_does_and_keeps_what_is_masked_inside() -> None:
    (found,) = of_contents("prime-rl", row())
    np.testing.assert_array_equal(found.token, [7, 6, 5])
    np.testing.assert_array_equal(found.prompt, [9, 8])
    np.testing.assert_array_equal(found.mask, [True, False, True])
    np.testing.assert_array_equal(found.actor_log_probs, [-1.0, 0.0, np.nan])
    assert (found.name, found.step) == ("3-1-4", 3)


def test_the_first_token_of_a_row_has_no_law() -> None:
    (found,) = of_contents("prime-rl", row(loss_mask=[True] * 5))
    np.testing.assert_array_equal(found.token, [8, 7, 6, 5])


@pytest.mark.parametrize(
    ("weights", "mask"),
    [
        ({"rl_weights": [None] * 5, "ref_kl_weights": [None] * 5}, [True, False, True]),
        ({"rl_weights": [0.0, 0.0, 1.0, 0.0, 0.0], "ref_kl_weights": [None] * 5}, [True, False, False]),
        ({"rl_weights": [0.0] * 5, "ref_kl_weights": [0.0, 0.0, 0.0, 0.0, 0.5]}, [False, False, True]),
    ],
)
def test_tokens_that_were_distilled_and_not_sampled_are_masked(weights: dict[str, Any], mask: list[bool]) -> None:
    (found,) = of_contents("prime-rl", row(**weights))
    np.testing.assert_array_equal(found.mask, mask)


@pytest.mark.parametrize(
    ("rewards", "told"),
    [([None, None, 1.0, 1.0, 1.0], 1.0), (0.5, 0.5), ([None] * 5, None), ([0, 0, 1.0, 2.0, 3.0], None)],
)
def test_a_reward_that_is_repeated_at_each_token_is_the_sequence_s(rewards: Any, told: float | None) -> None:
    assert of_contents("prime-rl", row(rewards=rewards))[0].reward == told


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_ids": None}, "token_ids is missing"),
        ({"loss_mask": None}, "loss_mask is missing"),
        ({"trainer_logprobs": [-1.0]}, r"trainer_logprobs has shape \(1,\)"),
        ({"inference_logprobs": ["a"] * 5}, "inference_logprobs cannot be read: it holds text"),
    ],
)
def test_a_bad_row_is_told_and_the_next_is_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DumpError, match=rf"^file, line 1: {says}"):
        of_contents("prime-rl", row(**changes))
    errors: list[DumpError] = []
    assert len(of_contents("prime-rl", row(**changes), 3, row(), skip=errors)) == 1
    assert len(errors) == 2


def test_columns_that_are_not_there_stay_away() -> None:
    given = row(extra="x")
    for name in ("entropy", "advantages", "step", "rank"):
        del given[name]
    (found,) = of_contents("prime-rl", given)
    assert (found.entropy, found.advantages, found.step) == (None, None, None)
