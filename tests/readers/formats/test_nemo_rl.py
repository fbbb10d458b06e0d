"""NeMo-RL's training data: batches of one, padding, two masks, and the zeros of skipped log-probs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.sequence import DumpedSequence
from tests.readers.formats.reading import of_contents


def line(**changes: Any) -> dict[str, Any]:
    return {
        "rewards": [1.0],
        "input_lengths": [5],
        "token_ids": [[9, 8, 7, 6, 5, 0, 0]],
        "token_loss_mask": [[0, 0, 1, 0, 1, 0, 0]],
        "sample_loss_mask": [1.0],
        "advantages": [[0.5] * 7],
        "generation_logprobs": [[0.0, 0.0, -1.0, 0.0, -2.0, 0.0, 0.0]],
        "prev_logprobs": [[0.0, -3.0, -1.5, -0.5, -2.5, -7.0, -7.0]],
        "idx": 4,
        **changes,
    }


def read(file: str = "train_data_step12.jsonl", **changes: Any) -> DumpedSequence:
    (found,) = of_contents("nemo-rl", line(**changes), file=file)
    return found


def test_padding_and_prompt_are_no_part_of_the_completion() -> None:
    found = read()
    np.testing.assert_array_equal(found.token, [7, 6, 5])
    np.testing.assert_array_equal(found.prompt, [9, 8])
    np.testing.assert_array_equal(found.mask, [True, False, True])
    np.testing.assert_array_equal(found.policy_log_probs, [-1.5, -0.5, -2.5])
    assert (found.name, found.step, found.reward) == ("12-4", 12, 1.0)


def test_both_masks_count() -> None:
    np.testing.assert_array_equal(read(sample_loss_mask=[0.0]).mask, [False] * 3)


def test_the_first_token_has_no_law_and_an_empty_mask_is_no_prompt() -> None:
    np.testing.assert_array_equal(read(token_loss_mask=[[1] * 5 + [0, 0]]).token, [8, 7, 6, 5])
    empty = read(token_loss_mask=[[0] * 7])
    np.testing.assert_array_equal(empty.token, [8, 7, 6, 5])
    assert not np.any(empty.mask)


def test_zeros_of_a_run_that_skipped_them_are_given_as_they_are() -> None:
    np.testing.assert_array_equal(read(prev_logprobs=[[0.0] * 7]).policy_log_probs, [0.0] * 3)


def test_lines_without_the_axis_of_the_batch_are_read_too() -> None:
    flat = {key: value[0] if isinstance(value, list) else value for key, value in line().items()}
    np.testing.assert_array_equal(of_contents("nemo-rl", flat)[0].token, [7, 6, 5])


def test_one_advantage_stands_for_all_tokens_and_ids_may_be_absent() -> None:
    found = read(advantages=[0.25], token_ids=None)
    np.testing.assert_array_equal(found.advantages, [0.25] * 3)
    assert (found.token, found.prompt) == (None, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_lengths": [9]}, "input_lengths must be a number up to 7"),
        ({"input_lengths": None}, "input_lengths must be a number up to 7"),
        ({"token_loss_mask": None}, "token_loss_mask is missing"),
        ({"generation_logprobs": [[0.0]]}, "generation_logprobs has shape"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DumpError, match=says):
        read(**changes)
