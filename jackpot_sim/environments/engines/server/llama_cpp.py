"""llama.cpp's own /completion: ids on both sides, and log-probs before or after the sampler, as they are asked for.

The samplers are sent in the order of transformers and of other servers; llama.cpp's own has the temperature last. It
ends a rollout at the end tokens that the GGUF file names. It leaves out the log-probs of tokens whose bytes are no
whole character; a rollout counts up to the first of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, items, members, number, whole
from jackpot_sim.environments.engines.server.flavour import Flavour, Told, check_prompt_read


class LlamaCppServer(Flavour):
    """llama.cpp's server."""

    name: ClassVar[str] = "llama.cpp"
    path: ClassVar[str] = "/completion"
    hides: ClassVar[str] = "tokens whose bytes are no whole character"

    @override
    def told(self, ask: Ask) -> Told:
        return Told.PROCESSED if ask.processed else Told.RAW

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        return {
            "prompt": list(ask.prompt),
            "n_predict": ask.length,
            "temperature": ask.sampling.temperature,
            "top_k": ask.sampling.top_k or 0,
            "top_p": ask.sampling.top_p,
            "samplers": ["temperature", "top_k", "top_p"],
            "seed": ask.seed,
            "n_probs": max(ask.topk, 1),
            "post_sampling_probs": ask.processed,
            "return_tokens": True,
        }

    @override
    def read(self, answer: object, ask: Ask) -> Rollout:
        fields = members(answer)
        check_prompt_read(fields.get("tokens_evaluated"), ask)
        if fields.get("truncated"):
            raise ServerError("it has dropped a part of the prompt: start it with a longer context (--ctx-size)")
        if "completion_probabilities" not in fields:
            raise ServerError("it gives no log-probs: its answer has no completion_probabilities")
        told = items(answer, "completion_probabilities")
        written = [whole(answer, "tokens", at) for at in range(len(items(answer, "tokens")))]
        known = [whole(each, "id") for each in told]
        same = [one == other for one, other in zip(written, known, strict=False)]
        tokens = written[: same.index(False) if False in same else len(same)]
        told = told[: len(tokens)]
        top, value = ("top_probs", _log("prob")) if ask.processed else ("top_logprobs", _as_it_is("logprob"))
        rows = [{whole(other, "id"): value(other) for other in items(each, top)} for each in told] if ask.topk else []
        return Rollout(tokens, [value(each) for each in told], rows, cut=len(tokens) < len(written))


def _as_it_is(name: str) -> Callable[[object], float]:
    return lambda entry: number(entry, name)


def _log(name: str) -> Callable[[object], float]:
    def log_prob(entry: object) -> float:
        prob = number(entry, name)
        return math.log(prob) if prob > 0 else -math.inf

    return log_prob
