"""SGLang's answers of /generate: a text with meta_info, where log-probs are triples (log-prob, token id, text).

They hold the actor's side alone. The prompt's ids are there where input log-probs were asked for from its start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from jackpot_sim.core.arrays import Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.formats.producer import Producer, sequence
from jackpot_sim.readers.sequence import DumpedSequence


def _read(fields: Fields) -> DumpedSequence | None:
    meta = fields.get("meta_info")
    if not isinstance(meta, Mapping):
        raise fields.error("meta_info must be an object")
    told = Fields(meta, fields.place)
    output = _columns(told, "output_token_logprobs")
    if output is None:
        raise told.error("output_token_logprobs is missing")
    token, version = output.ints("ids"), str(meta.get("weight_version"))
    assert token is not None
    return sequence(
        fields,
        str(meta.get("id", fields.get("index") or fields.place)),
        token=token,
        actor_log_probs=output.floats("log-probs", shape=token.shape),
        prompt=_prompt(fields, told),
        prompt_text=fields.text("prompt"),
        advantages=fields.per_token(len(token), "advantages", "advantage"),
        weight_version=np.full(len(token), int(version)) if re.fullmatch(r"\d+", version) else None,
        reward=fields.number("reward"),
        actor_topk=_topk(told),
    )


def _columns(told: Fields, name: str) -> Fields | None:
    """The "log-probs" and "ids" out of triples; None where they are absent."""
    if (triples := told.get(name)) is None:
        return None
    try:
        return Fields({"log-probs": [each[0] for each in triples], "ids": [each[1] for each in triples]}, told.place)
    except (TypeError, KeyError, IndexError) as error:
        raise told.error(f"{name} must be a list of [log-prob, token id, text]") from error


def _prompt(fields: Fields, told: Fields) -> Ints | None:
    """The ids of the prompt, where all of them are there."""
    ids = fields.ints("input_ids", "prompt_token_ids", "prompt_ids")
    inputs = _columns(told, "input_token_logprobs")
    if ids is not None or inputs is None:
        return ids
    ids = inputs.ints("ids")
    return ids if ids is not None and len(ids) == told.whole("prompt_tokens") else None


def _topk(told: Fields) -> TopK | None:
    if (rows := told.get("output_top_logprobs")) is None:
        return None
    try:
        return topk.ragged([{each[1]: each[0] for each in row or ()} for row in rows])
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise told.error("output_top_logprobs must hold a list of [log-prob, token id, text] for each token") from error


FORMAT = Producer(
    "sglang",
    ("meta_info", "output_token_logprobs in it"),
    _read,
    knows=lambda content: (
        isinstance(content.get("meta_info"), Mapping) and "output_token_logprobs" in content["meta_info"]
    ),
)
