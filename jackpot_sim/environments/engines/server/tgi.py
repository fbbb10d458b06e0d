"""TGI's /generate: the prompt as text, tokens with ids, log-probs after temperature and cuts.

TGI ends a rollout at the end tokens of its own model. The ids of the prompt come back and are compared.
"""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, items, number, part, whole
from jackpot_sim.environments.engines.server.flavour import Flavour, Told


class TGI(Flavour):
    """Text Generation Inference."""

    name: ClassVar[str] = "tgi"
    path: ClassVar[str] = "/generate"
    speaks_ids: ClassVar[bool] = False

    @override
    def told(self, ask: Ask) -> Told:
        return Told.PROCESSED

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        cuts: dict[str, object] = {}
        if ask.sampling.top_k is not None:
            cuts["top_k"] = ask.sampling.top_k
        if ask.sampling.top_p < 1:  # it refuses 1
            cuts["top_p"] = ask.sampling.top_p
        if ask.topk:
            cuts["top_n_tokens"] = ask.topk
        return {
            "inputs": self.vocabulary.text(ask.prompt),
            "parameters": {
                "do_sample": True,
                "temperature": ask.sampling.temperature,
                "max_new_tokens": ask.length,
                "seed": ask.seed,
                "details": True,
                "decoder_input_details": True,
                "return_full_text": False,
                **cuts,
            },
        }

    @override
    def read(self, answer: object, ask: Ask) -> Rollout:
        details = part(answer, "details")
        if details is None:
            raise ServerError("it gives no log-probs: its answer has no details")
        prefill = [whole(each, "id") for each in items(details, "prefill")]
        if prefill and prefill != list(ask.prompt):
            raise ServerError("it reads the prompt in other tokens: serve the policy's own tokenizer")
        tokens = items(details, "tokens")
        rows = [_row(details, at) for at in range(len(tokens))] if ask.topk else []
        return Rollout([whole(each, "id") for each in tokens], [number(each, "logprob") for each in tokens], rows)


def _row(details: object, at: int) -> dict[int, float]:
    return {whole(each, "id"): number(each, "logprob") for each in items(details, "top_tokens", at)}
