"""SGLang's answers of /generate: a text with meta_info, where log-probs are triples (log-prob, token id, text).

They hold the actor's side alone. The prompt's ids are there where input log-probs were asked for from its start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jackpot_sim.core.arrays import Ints
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.formats.producer import Producer, sequence
from jackpot_sim.readers.sequence import DumpedSequence


def _read(fields: Fields) -> DumpedSequence | None:
    meta = fields.get("meta_info")
    if not isinstance(meta, Mapping):
        raise fields.error("meta_info must be an object")
    told = Fields(meta, fields.place)
    triples = _triples(told.needed("output_token_logprobs"), told)
    length, version = len(triples), str(meta.get("weight_version"))
    return sequence(
        fields,
        str(meta.get("id", fields.get("index") or fields.place)),
        token=np.array([each[1] for each in triples], dtype=np.int64),
        actor_log_probs=Fields({"output_token_logprobs": [each[0] for each in triples]}, fields.place).floats(
            "output_token_logprobs"
        ),
        prompt=_prompt(fields, told),
        prompt_text=fields.text("prompt"),
        advantages=fields.per_token(length, "advantages", "advantage"),
        weight_version=np.full(length, int(version)) if re.fullmatch(r"\d+", version) else None,
        reward=fields.number("reward"),
        actor_topk=_topk(told),
    )


def _triples(values: Any, fields: Fields) -> list[Sequence[Any]]:
    if not isinstance(values, list) or not all(
        isinstance(each, Sequence) and len(each) >= 2 and isinstance(each[1], int) for each in values
    ):
        raise fields.error("log-probs must be a list of [log-prob, token id, text]")
    return values


def _prompt(fields: Fields, told: Fields) -> Ints | None:
    ids = fields.ints("input_ids", "prompt_token_ids", "prompt_ids")
    inputs = told.get("input_token_logprobs")
    if ids is not None or inputs is None:
        return ids
    triples = _triples(inputs, told)
    return (
        np.array([each[1] for each in triples], dtype=np.int64) if len(triples) == told.whole("prompt_tokens") else None
    )


def _topk(told: Fields) -> Any:
    rows = told.get("output_top_logprobs")
    if not isinstance(rows, list):
        return None
    return topk.ragged([{each[1]: _number(each[0]) for each in _triples(row or [], told)} for row in rows])


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


FORMAT = Producer(
    "sglang",
    ("meta_info", "output_token_logprobs in it"),
    _read,
    knows=lambda content: (
        isinstance(content.get("meta_info"), Mapping) and "output_token_logprobs" in content["meta_info"]
    ),
)
