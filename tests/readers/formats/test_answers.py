"""Answers of inference servers: missing log-probs, sentinels, and likeliest tokens that are told for certain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.sequence import DumpedSequence
from tests.readers.formats.reading import of_contents


def vllm(*rows: Any, **changes: Any) -> DumpedSequence:
    output = {"index": 1, "token_ids": [7, 8], "logprobs": list(rows), **changes}
    (found,) = of_contents("vllm", {"request_id": "a", "prompt": "x", "prompt_token_ids": [1], "outputs": [output]})
    return found


@pytest.mark.parametrize(
    "entry",
    [-1.0, [-1.0, 1], (-1.0, 1, "x"), {"logprob": -1.0, "rank": 1, "decoded_token": "x"}, {"logprob": -1.0}],
)
@pytest.mark.parametrize("key", [7, "7"])
def test_every_form_of_a_log_prob_is_read(entry: Any, key: Any) -> None:
    found = vllm({key: entry}, None)
    np.testing.assert_array_equal(found.actor_log_probs, [-1.0, np.nan])
    assert (found.name, found.prompt_text) == ("a-1", "x")


def test_a_token_without_its_own_log_prob_is_missing() -> None:
    np.testing.assert_array_equal(vllm({7: None}, {9: -1.0}).actor_log_probs, [np.nan, np.nan])


def test_only_likeliest_tokens_without_a_gap_count() -> None:
    """The sampled token stands among them whatever its rank."""
    first = {7: [-4.0, 40], 1: [-0.5, 1], 2: [-1.5, 2]}
    found = vllm(first, {8: [-0.2, 1], 3: [-2.0, 2], 4: [-3.0, 3]}).actor_topk
    assert found is not None
    np.testing.assert_array_equal(found.ids, [[1, 2], [8, 3]])
    np.testing.assert_array_equal(found.log_probs, np.float32([[-0.5, -1.5], [-0.2, -2.0]]))
    assert vllm({7: [-4.0, 40]}, {8: [-0.2, 1]}).actor_topk is None
    assert vllm({7: -4.0, 1: -0.5}, {8: -0.2, 1: -3.0}).actor_topk is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"token_ids": None}, "token_ids is missing"),
        ({"logprobs": None}, r"logprobs is null: ask vLLM for them"),
        ({"logprobs": [{7: -1.0}]}, "logprobs has 1 entries for 2 tokens"),
        ({"logprobs": [{"a": -1.0}, None]}, "logprobs must hold an object for each token"),
        ({"logprobs": [3, None]}, "logprobs must hold an object for each token"),
    ],
)
def test_what_vllm_did_not_give_is_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DumpError, match=rf"^file, line 1 output 0: {says}"):
        vllm(**changes)
    errors: list[DumpError] = []
    assert of_contents("vllm", {"request_id": "a", "outputs": 3}, skip=errors) == []
    assert "outputs must be a list" in str(errors[0])


def sglang(**meta: Any) -> DumpedSequence:
    told = {"id": "a", "prompt_tokens": 2, "output_token_logprobs": [[-1.0, 7, None], [None, 8, "x"]], **meta}
    (found,) = of_contents("sglang", {"text": "x", "meta_info": told})
    return found


def test_sglang_s_triples_are_read_and_a_part_of_the_prompt_is_none() -> None:
    found = sglang(input_token_logprobs=[[None, 5, None], [-1.0, 6, None]], weight_version="12")
    np.testing.assert_array_equal(found.actor_log_probs, [-1.0, np.nan])
    np.testing.assert_array_equal(found.prompt, [5, 6])
    np.testing.assert_array_equal(found.weight_version, [12, 12])
    assert sglang(input_token_logprobs=[[-1.0, 6, None]]).prompt is None
    assert sglang(weight_version="default").weight_version is None


def test_sglang_s_likeliest_tokens_may_be_missing_at_a_token() -> None:
    found = sglang(output_top_logprobs=[[[-0.5, 3, None], [-1.0, 7, None]], None]).actor_topk
    assert found is not None
    np.testing.assert_array_equal(found.ids[0], [3, 7])
    assert np.isnan(found.log_probs[1]).all()


def test_sglang_s_errors_are_told() -> None:
    with pytest.raises(DumpError, match=r"output_token_logprobs must be a list of \[log-prob, token id, text\]"):
        sglang(output_token_logprobs=[-1.0, -2.0])
    with pytest.raises(DumpError, match="ids cannot be read: it must hold whole numbers"):
        sglang(output_token_logprobs=[[-1.0, 2.5, None]])
    with pytest.raises(DumpError, match="output_top_logprobs must hold a list"):
        sglang(output_top_logprobs=[3])


def openai(tokens: list[str], values: list[Any], tops: Any = None, **changes: Any) -> DumpedSequence:
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
    (found,) = of_contents("openai", {"id": "a", "choices": [{"index": 0, "logprobs": logprobs, **changes}]})
    return found


def test_text_stays_text_and_ids_come_from_where_they_are() -> None:
    assert openai(["a", "b"], [-1.0, None]).text == ("a", "b")
    assert openai(["token_id:3", "b"], [-1.0, None]).token is None
    for found in (
        openai(["token_id:3", "token_id:4"], [-1.0, None]),
        openai(["a", "b"], [-1.0, None], token_ids=[3, 4]),
    ):
        np.testing.assert_array_equal(found.token, [3, 4])
        np.testing.assert_array_equal(found.actor_log_probs, [-1.0, np.nan])
        assert found.text is None


def test_the_number_that_servers_write_for_minus_infinity_is_that() -> None:
    """JSON has no −inf, and vLLM's server writes −9999."""
    np.testing.assert_array_equal(openai(["a", "b"], [-9999.0, -9998.0]).actor_log_probs, [-np.inf, -9998.0])


def test_likeliest_tokens_are_told_by_ids_and_only_for_certain() -> None:
    def top(**values: float) -> dict[str, float]:
        return {f"token_id:{key[1:]}": value for key, value in values.items()}

    tokens, values = ["token_id:3", "token_id:4"], [-1.0, -2.0]
    sure = openai(tokens, values, [top(t3=-1.0, t9=-2.0), top(t4=-2.0, t5=-0.5, t6=-1.0)]).actor_topk
    assert sure is not None
    np.testing.assert_array_equal(sure.ids, [[3, 9], [5, 6]])
    assert openai(tokens, values, [top(t3=-1.0), top(t4=-2.0)]).actor_topk is None
    assert openai(["a", "b"], values, [{"a": -1.0, "c": -2.0}, {"b": -2.0, "d": -0.5}]).actor_topk is None


def test_what_openai_s_form_lacks_is_told() -> None:
    with pytest.raises(DumpError, match="logprobs is null: ask the server"):
        of_contents("openai", {"choices": [{"logprobs": None}]})
    with pytest.raises(DumpError, match="logprobs must hold tokens and token_logprobs, or content"):
        of_contents("openai", {"choices": [{"logprobs": {"x": 1}}]})
    with pytest.raises(DumpError, match=r"token_logprobs has shape \(1,\)"):
        openai(["a", "b"], [-1.0])


def test_rows_of_different_numbers_end_in_tokens_of_no_probability() -> None:
    found = topk.ragged([{3: -0.5, 0: -1.0, 9: -2.0}, {1: -0.1}, {}, {5: float("nan")}])
    assert found is not None
    np.testing.assert_array_equal(found.ids[0], [3, 0, 9])
    np.testing.assert_array_equal(found.log_probs[1], np.float32([-0.1, -np.inf, -np.inf]))
    assert len(set(found.ids[1].tolist())) == 3
    assert np.isnan(found.log_probs[2:]).all()
    assert topk.ragged([{}, {}]) is None


def test_open_instruct_s_placeholders_are_given_as_they_are() -> None:
    row = {"prompt_tokens": [1], "response_tokens": [2, 3, 4], "logprobs": [1.0, float("nan"), 0.0], "advantage": 2.0}
    (found,) = of_contents("open-instruct", row)
    np.testing.assert_array_equal(found.actor_log_probs, [1.0, np.nan, 0.0])
    np.testing.assert_array_equal(found.advantages, [2.0] * 3)
    assert found.policy_log_probs is None
    with pytest.raises(DumpError, match="logprobs is null"):
        of_contents("open-instruct", {**row, "logprobs": None})
