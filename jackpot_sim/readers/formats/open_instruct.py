"""open-instruct's `{run}_rollouts_NNNNNN.jsonl`: one line a sequence, with the rollout's side alone.

The file has no mask: tokens of tools stand in it with log-prob 0, and tokens without one are NaN.
"""

from __future__ import annotations

from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.formats.producer import Producer, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence


def _read(fields: Fields) -> DumpedSequence | None:
    tokens = fields.ints("response_tokens")
    if tokens is None:
        raise fields.error("response_tokens is missing")
    if fields.get("logprobs") is None:
        raise fields.error("logprobs is null: the run kept none, and without them there is nothing to compare")
    step = fields.whole("step")
    return sequence(
        fields,
        named(step, fields.whole("sample_idx")),
        token=tokens,
        actor_log_probs=fields.floats("logprobs", shape=tokens.shape),
        prompt=fields.ints("prompt_tokens"),
        advantages=fields.per_token(len(tokens), "advantage"),
        reward=fields.number("reward"),
        step=step,
    )


FORMAT = Producer("open-instruct", ("prompt_tokens", "response_tokens", "logprobs"), _read)
