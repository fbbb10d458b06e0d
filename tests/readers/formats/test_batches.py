"""Batches of padded rows: SkyRL, verl and TRL, and the padding that is none of the response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.formats.batches import step_of
from jackpot_sim.readers.sequence import DumpedSequence
from tests.readers.formats.reading import of_contents


def first(name: str, content: dict[str, Any], file: str = "file") -> DumpedSequence:
    return of_contents(name, content, file=file)[0]


def test_skyrl_s_older_layout_pads_responses_on_the_right() -> None:
    """Prompts on the left, responses on the right: the mask of the response tells it in both layouts."""
    found = first(
        "skyrl",
        {
            "sequences": np.array([[0, 5, 6, 7, 8, 0]]),
            "attention_mask": np.array([[0, 1, 1, 1, 1, 0]]),
            "response_mask": np.array([[1, 1, 0]]),
            "loss_mask": np.array([[1.0, 0.0, 0.0]]),
            "rollout_logprobs": np.array([[-1.0, 0.0, 0.0]]),
            "action_log_probs": np.array([[-1.5, -2.5, -9.0]]),
            "rewards": np.array([[0.0, 1.0, 0.0]]),
        },
    )
    np.testing.assert_array_equal(found.prompt, [5, 6])
    np.testing.assert_array_equal(found.token, [7, 8])
    np.testing.assert_array_equal(found.mask, [True, False])
    np.testing.assert_array_equal(found.policy_log_probs, [-1.5, -2.5])
    assert found.reward == 1.0


def verl(**changes: Any) -> dict[str, Any]:
    return {
        "prompts": [[0, 5]],
        "responses": [[7, 8, 9, 0]],
        "attention_mask": [[0, 1, 1, 1, 1, 0]],
        "response_mask": [[1, 0, 1, 0]],
        "rollout_log_probs": [[-1.0, 0.0, -2.0, 0.0]],
        "old_log_probs": [[-1.5, -3.0, -2.5, -8.0]],
        **changes,
    }


def test_verl_s_tokens_of_tools_are_masked_and_padding_is_dropped() -> None:
    found = first("verl", verl(), "global_step_31.pt")
    np.testing.assert_array_equal(found.token, [7, 8, 9])
    np.testing.assert_array_equal(found.prompt, [5])
    np.testing.assert_array_equal(found.mask, [True, False, True])
    assert found.step == 31
    trailing = first("verl", verl(response_mask=[[1, 0, 0, 0]]))
    np.testing.assert_array_equal(trailing.token, [7, 8, 9])


def test_verl_needs_one_of_the_masks_and_one_side_is_enough() -> None:
    assert first("verl", verl(old_log_probs=None, attention_mask=None)).policy_log_probs is None
    with pytest.raises(DumpError, match="response_mask, or attention_mask, must tell"):
        first("verl", verl(response_mask=None, attention_mask=None))
    with pytest.raises(DumpError, match=r"old_log_probs has shape \(1,\) where the tokens have \(4,\)"):
        first("verl", verl(old_log_probs=[[-1.0]]))
    with pytest.raises(DumpError, match="responses must hold a row of token ids for each sequence"):
        first("verl", verl(responses=[7, 8]))


def trl(**changes: Any) -> dict[str, Any]:
    return {
        "prompt_ids": [[0, 5]],
        "prompt_mask": [[0, 1]],
        "completion_ids": [[7, 8, 9, 0]],
        "completion_mask": [[1, 1, 1, 0]],
        "advantages": [0.5],
        "old_per_token_logps": [[-1.5, -2.5, -3.5, -9.0]],
        "sampling_per_token_logps": [[-1.0, float("nan"), -3.0, 0.0]],
        **changes,
    }


def test_trl_s_rows_and_what_vllm_did_not_tell() -> None:
    found = first("trl", trl())
    np.testing.assert_array_equal(found.token, [7, 8, 9])
    np.testing.assert_array_equal(found.actor_log_probs, [-1.0, np.nan, -3.0])
    np.testing.assert_array_equal(found.advantages, [0.5] * 3)
    np.testing.assert_array_equal(first("trl", trl(advantages=[[1, 2, 3, 0]])).advantages, [1, 2, 3])


def test_a_truncated_completion_that_trl_masks_keeps_its_length() -> None:
    found = first("trl", trl(completion_mask=[[0] * 4]))
    np.testing.assert_array_equal(found.mask, [False] * 3)
    assert of_contents("trl", trl(completion_mask=[[0] * 4], sampling_per_token_logps=None)) == []


@pytest.mark.parametrize(
    ("name", "step"), [("global_step_12_training_input.pkl", 12), ("step7.pt", 7), ("step=3.pt", 3), ("7.pt", None)]
)
def test_the_step_in_a_file_s_name(name: str, step: int | None) -> None:
    assert step_of(name) == step
