"""SGLang's own /generate: log-probs as [log-prob, token id, text], of the law after temperature and before any cut."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from jackpot_sim.environments.engines.server.ask import Ask, Rollout, ServerError, items, members, number, whole
from jackpot_sim.environments.engines.server.flavour import Flavour, Told, check_prompt_read


class SGLang(Flavour):
    """SGLang; started with SGLANG_RETURN_ORIGINAL_LOGPROB=1 it gives raw log-probs."""

    name: ClassVar[str] = "sglang"
    path: ClassVar[str] = "/generate"

    @override
    def told(self, ask: Ask) -> Told:
        return Told.TEMPERED

    @override
    def body(self, ask: Ask) -> dict[str, object]:
        return {
            "input_ids": list(ask.prompt),
            "sampling_params": {
                "max_new_tokens": ask.length,
                "temperature": ask.sampling.temperature,
                "top_k": ask.sampling.top_k or -1,
                "top_p": ask.sampling.top_p,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "sampling_seed": ask.seed,
                "stop_token_ids": sorted(ask.end_tokens),
                "ignore_eos": not ask.end_tokens,
                "skip_special_tokens": False,
                "no_stop_trim": True,
            },
            "return_logprob": True,
            "logprob_start_len": -1,
            "top_logprobs_num": ask.topk,
            "return_text_in_logprobs": False,
        }

    @override
    def read(self, answer: object, ask: Ask) -> Rollout:
        meta = members(answer, "meta_info")
        if isinstance(reason := meta.get("finish_reason"), dict) and reason.get("type") == "abort":
            raise ServerError(f"it aborted a rollout: {reason.get('message', 'no reason is given')}")
        check_prompt_read(meta.get("prompt_tokens"), ask)
        if meta.get("output_token_logprobs") is None:
            raise ServerError("it gives no log-probs: its answer has no meta_info.output_token_logprobs")
        triples = items(meta, "output_token_logprobs")
        return Rollout(
            [whole(each, 1) for each in triples],
            [number(each, 0) for each in triples],
            [_row(meta, at) for at in range(len(triples))] if ask.topk else [],
        )


def _row(meta: object, at: int) -> dict[int, float]:
    return {whole(each, 1): number(each, 0) for each in items(meta, "output_top_logprobs", at)}
