"""vLLM: OpenAI's completions with token ids on both sides.

`ignore_eos` with the end tokens as `stop_token_ids` ends rollouts where the policy ends them, and leaves the end token
among the tokens. Every option of the sampler is sent, since vLLM takes defaults from the model's generation config.
"""

from __future__ import annotations

import math
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, items, number, part
from jackpot_sim.environments.engines.server.flavour import Flavour, check_prompt_read

CUT = -9999.0
"""The number that vLLM writes for −inf, which JSON does not have."""

_PREFIX = "token_id:"


class VLLM(Flavour):
    """vLLM's completions; raw log-probs unless it was started with --logprobs-mode processed_logprobs."""

    name: ClassVar[str] = "vllm"
    path: ClassVar[str] = "/v1/completions"

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        return {
            "model": self.model,
            "prompt": list(ask.prompt),
            "max_tokens": ask.length,
            "temperature": ask.sampling.temperature,
            "top_k": ask.sampling.top_k or -1,
            "top_p": ask.sampling.top_p,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": ask.seed,
            "logprobs": ask.topk,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "ignore_eos": True,
            "stop_token_ids": sorted(ask.end_tokens),
        }

    @override
    def read(self, answer: object, ask: Ask) -> Rollout:
        usage = part(answer, "usage") if isinstance(answer, dict) and "usage" in answer else {}
        check_prompt_read(usage.get("prompt_tokens") if isinstance(usage, dict) else None, ask)
        given = part(answer, "choices", 0, "logprobs")
        if given is None:
            raise ServerError("it gives no log-probs: allow them at the server")
        tokens = [_id(each) for each in items(given, "tokens")]
        log_probs = [_cut(number(given, "token_logprobs", at)) for at in range(len(tokens))]
        return Rollout(tokens, log_probs, [_row(given, at) for at in range(len(tokens))] if ask.topk else [])


def _id(text: object) -> int:
    number = text[len(_PREFIX) :] if isinstance(text, str) and text.startswith(_PREFIX) else ""
    if not number.isdecimal():
        raise ServerError(f"it gives tokens as text such as {text!r}, and no ids: give flavour openai")
    return int(number)


def _row(given: object, at: int) -> dict[int, float]:
    row = part(given, "top_logprobs", at)
    if not isinstance(row, dict):
        raise ServerError(f"its answer has no likeliest tokens at token {at}")
    return {_id(text): _cut(number(row, text)) for text in row}


def _cut(value: float) -> float:
    return -math.inf if value == CUT else value
