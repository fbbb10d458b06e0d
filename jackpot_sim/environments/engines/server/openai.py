"""OpenAI's completions as they stand, where all is text: tokens become ids by the policy's vocabulary.

The end token is not among the tokens: a rollout that ends early lacks it, and its log-prob is not known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, items, number, part
from jackpot_sim.environments.engines.server.flavour import Flavour, check_prompt_read


class OpenAI(Flavour):
    """Any server of OpenAI's completions; raw log-probs, unless the user says otherwise."""

    name: ClassVar[str] = "openai"
    path: ClassVar[str] = "/v1/completions"
    speaks_ids: ClassVar[bool] = False
    returns_end: ClassVar[bool] = False
    hides: ClassVar[str] = "the end token"

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        if ask.sampling.top_k is not None:
            raise ServerError("OpenAI's API has no top_k: leave it out, or give the server's own flavour")
        return {
            "model": self.model,
            "prompt": self.vocabulary.text(ask.prompt),
            "max_tokens": ask.length,
            "temperature": ask.sampling.temperature,
            "top_p": ask.sampling.top_p,
            "seed": ask.seed,
            "logprobs": ask.topk,
        }

    @override
    def read(self, answer: object, ask: Ask) -> Rollout:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        check_prompt_read(usage.get("prompt_tokens") if isinstance(usage, dict) else None, ask)
        given = part(answer, "choices", 0, "logprobs")
        if given is None:
            raise ServerError("it gives no log-probs: its answer has none beside the text")
        texts = items(given, "tokens")
        tokens = [self.vocabulary.id(text) for text in texts]
        rows = [self._row(given, at) for at in range(len(texts))] if ask.topk else []
        return Rollout(tokens, [number(given, "token_logprobs", at) for at in range(len(texts))], rows)

    def _row(self, given: object, at: int) -> dict[int, float]:
        row = part(given, "top_logprobs", at)
        if not isinstance(row, dict):
            raise ServerError(f"its answer has no likeliest tokens at token {at}")
        return {self.vocabulary.id(text): number(row, text) for text in row}


class LlamaCppPython(OpenAI):
    """The server of llama-cpp-python, whose sampler cuts unless it is told not to."""

    name: ClassVar[str] = "llama-cpp-python"

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        plain = replace(ask, sampling=replace(ask.sampling, top_k=None))
        return {**super().body(plain), "top_k": ask.sampling.top_k or 0, "min_p": 0.0, "repeat_penalty": 1.0}
