"""The files that have the actor's side alone: rollouts of open-instruct, and answers of engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.environments.tiny_checkpoints import WORDS
from tests.readers.formats.rollouts import STEP, Rollout
from tests.readers.formats.written import lines, producer


@producer("open-instruct", "token", "prompt", "actor_log_probs", "advantages", "reward", "step")
def open_instruct(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """open-instruct: the rollout's side."""
    rows = [
        {
            "step": STEP,
            "sample_idx": each.number,
            "prompt_idx": each.number // 4,
            "prompt_tokens": each.prompt.tolist(),
            "response_tokens": each.token.tolist(),
            "reward": each.reward,
            "advantage": each.advantage,
            "finish_reason": "stop",
            "dataset": "words",
            "ground_truth": None,
            "request_info": None,
            "logprobs": each.actor_log_probs.tolist(),
        }
        for each in rollouts
    ]
    return lines(folder / "run_rollouts_000000.jsonl", rows)


def likeliest(rollout: Rollout, at: int) -> dict[int, float]:
    """The likeliest tokens at a token, and the token itself, as servers return them."""
    top = dict(zip(rollout.actor_topk.ids[at].tolist(), rollout.actor_topk.log_probs[at].tolist(), strict=True))
    return {int(rollout.token[at]): float(rollout.actor_log_probs[at])} | top


ANSWERS = ("token", "prompt", "actor_log_probs", "actor_topk")


@producer("vllm", *ANSWERS)
def vllm(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """vLLM: outputs of requests as JSON, in which token ids are text."""
    return lines(folder / "outputs.jsonl", [vllm_output(each) for each in rollouts])


def vllm_output(rollout: Rollout) -> dict[str, Any]:
    """The output of one request."""
    rows = []
    for at in range(len(rollout.token)):
        top = likeliest(rollout, at)
        ranked = sorted(top.values(), reverse=True)
        rows.append(
            {
                str(token): {"logprob": value, "rank": 1 + ranked.index(value), "decoded_token": "x"}
                for token, value in top.items()
            }
        )
    output = {
        "index": 0,
        "text": "some text",
        "token_ids": rollout.token.tolist(),
        "cumulative_logprob": float(rollout.actor_log_probs.sum()),
        "logprobs": rows,
        "finish_reason": "stop",
    }
    return {
        "request_id": str(rollout.number),
        "prompt": None,
        "prompt_token_ids": rollout.prompt.tolist(),
        "prompt_logprobs": None,
        "outputs": [output],
        "finished": True,
    }


@producer("vllm", *ANSWERS)
def vllm_flat(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """vLLM: log-probs in flat arrays."""
    rows = [vllm_output(each) for each in rollouts]
    for row in rows:
        parts = row["outputs"][0]["logprobs"]
        ends = np.cumsum([len(each) for each in parts]).tolist()
        entries = [(int(token), value) for each in parts for token, value in each.items()]
        row["outputs"][0]["logprobs"] = {
            "start_indices": [0, *ends[:-1]],
            "end_indices": ends,
            "token_ids": [token for token, _ in entries],
            "logprobs": [value["logprob"] for _, value in entries],
            "ranks": [value["rank"] for _, value in entries],
            "decoded_tokens": [None] * len(entries),
        }
    return lines(folder / "outputs.jsonl", rows)


@producer("sglang", *ANSWERS, "weight_version")
def sglang(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """SGLang: answers of /generate, with log-probs of the prompt, whose first token has none."""
    rows = [
        {
            "text": "some text",
            "output_ids": each.token.tolist(),
            "meta_info": {
                "id": f"answer-{each.number}",
                "prompt_tokens": len(each.prompt),
                "completion_tokens": len(each.token),
                "weight_version": str(each.weight_version),
                "input_token_logprobs": [
                    [None if not at else -1.0, int(id_), None] for at, id_ in enumerate(each.prompt)
                ],
                "output_token_logprobs": [
                    [value, token, None]
                    for value, token in zip(each.actor_log_probs.tolist(), each.token.tolist(), strict=True)
                ],
                "output_top_logprobs": [
                    [[value, token, None] for token, value in zip(ids, values, strict=True)]
                    for ids, values in zip(
                        each.actor_topk.ids.tolist(), each.actor_topk.log_probs.tolist(), strict=True
                    )
                ],
            },
        }
        for each in rollouts
    ]
    return lines(folder / "answers.jsonl", rows)


def answer(rollout: Rollout, kind: str, logprobs: dict[str, Any]) -> dict[str, Any]:
    """An answer in OpenAI's form."""
    return {
        "id": f"cmpl-{rollout.number}",
        "object": kind,
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": logprobs}],
        "prompt_token_ids": rollout.prompt.tolist(),
    }


@producer("openai", *ANSWERS)
def openai_completion(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """OpenAI's completions, from a server that writes token ids as text."""
    rows = []
    for each in rollouts:
        tops = [
            {f"token_id:{token}": value for token, value in likeliest(each, at).items()}
            for at in range(len(each.token))
        ]
        logprobs = {
            "tokens": [f"token_id:{token}" for token in each.token],
            "token_logprobs": each.actor_log_probs.tolist(),
            "top_logprobs": tops,
            "text_offset": [0] * len(each.token),
        }
        rows.append(answer(each, "text_completion", logprobs))
    return lines(folder / "answers.jsonl", rows)


@producer("openai", *ANSWERS)
def openai_chat(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """OpenAI's chats, in the lines of a batch."""
    rows = []
    for each in rollouts:
        content = [
            {
                "token": f"token_id:{token}",
                "logprob": value,
                "bytes": None,
                "top_logprobs": [
                    {"token": f"token_id:{other}", "logprob": told, "bytes": None}
                    for other, told in likeliest(each, at).items()
                ],
            }
            for at, (token, value) in enumerate(zip(each.token, each.actor_log_probs.tolist(), strict=True))
        ]
        body = answer(each, "chat.completion", {"content": content})
        rows.append({"custom_id": f"r-{each.number}", "response": {"status_code": 200, "body": body}, "error": None})
    return lines(folder / "answers.jsonl", rows)


@producer("openai", "text", "prompt", "actor_log_probs")
def openai_text(folder: Path, rollouts: Sequence[Rollout]) -> list[Path]:
    """OpenAI's completions, whose tokens are text."""
    rows = [
        answer(
            each,
            "text_completion",
            {
                "tokens": [WORDS[token] for token in each.token],
                "token_logprobs": each.actor_log_probs.tolist(),
                "top_logprobs": None,
            },
        )
        for each in rollouts
    ]
    return lines(folder / "answers.jsonl", rows)
