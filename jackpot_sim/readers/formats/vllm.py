"""vLLM's RequestOutput as JSON: a prompt and its outputs, with log-probs by token id at each token.

A log-prob is an object with logprob and rank, a list that begins so, or a number; or the flat form with an array for
each of them. It holds the actor's side alone. The sampled token stands among the likeliest, and it need not be one of
them: ranks tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.formats.producer import Producer, inside, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

Entry = tuple[float, int | None]
"""A log-prob, and its rank from 1 where it is told."""


def _split(record: Record) -> Iterator[Fields]:
    """The outputs of the request, each with the request's own fields."""
    request = Fields(record.content, record.place, record.name)
    outputs = request.needed("outputs")
    if not isinstance(outputs, list) or not all(isinstance(each, Mapping) for each in outputs):
        raise request.error("outputs must be a list of objects")
    shared = {key: value for key, value in record.content.items() if key not in ("outputs", "index")}
    for at, output in enumerate(outputs):
        yield Fields({**shared, **output}, inside(record, f"output {at}"), record.name)


def _read(fields: Fields) -> DumpedSequence | None:
    tokens, given = fields.ints("token_ids"), fields.get("logprobs")
    if tokens is None:
        raise fields.error("token_ids is missing")
    if given is None:
        raise fields.error("logprobs is null: ask vLLM for them with SamplingParams(logprobs=0) or more")
    rows = _flat(given) if isinstance(given, Mapping) else [_row(each, fields) for each in given]
    if len(rows) != len(tokens):
        raise fields.error(f"logprobs has {len(rows)} entries for {len(tokens)} tokens")
    return sequence(
        fields,
        named(fields.get("request_id"), fields.whole("index")),
        token=tokens,
        actor_log_probs=np.array(
            [row.get(token, (np.nan, None))[0] for row, token in zip(rows, tokens.tolist(), strict=True)], np.float64
        ),
        prompt=fields.ints("prompt_token_ids"),
        prompt_text=fields.text("prompt"),
        advantages=fields.per_token(len(tokens), "advantages", "advantage"),
        reward=fields.number("reward"),
        actor_topk=_likeliest(rows),
    )


def _row(given: Foreign, fields: Fields) -> dict[int, Entry]:
    """The log-probs at one token, by token id; none where the server gave none."""
    if given is None:
        return {}
    try:
        return {int(token): _entry(value) for token, value in given.items()}
    except (AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise fields.error("logprobs must hold an object for each token, from token id to log-prob") from error


def _entry(value: Foreign) -> Entry:
    if isinstance(value, dict):
        value, rank = value["logprob"], value.get("rank")
    elif isinstance(value, list | tuple):
        value, rank = value[0], value[1] if len(value) > 1 else None
    else:
        rank = None
    return (np.nan if value is None else float(value)), None if rank is None else int(rank)


def _flat(given: Mapping[str, Any]) -> list[dict[int, Entry]]:
    """The rows out of one array for each field, with the beginning and end of each token's part."""
    ids, values = given["token_ids"], given["logprobs"]
    ranks = given.get("ranks") or [None] * len(ids)
    return [
        {int(ids[at]): _entry([values[at], ranks[at]]) for at in range(start, stop)}
        for start, stop in zip(given["start_indices"], given["end_indices"], strict=True)
    ]


def _likeliest(rows: Sequence[Mapping[int, Entry]]) -> TopK | None:
    """The likeliest tokens, as many as every row has; None where a row has none, or no ranks."""
    k = min((_ranked(row) for row in rows if row), default=0)
    if not k:
        return None
    return topk.ragged([{token: value for token, (value, rank) in row.items() if rank and rank <= k} for row in rows])


def _ranked(row: Mapping[int, Entry]) -> int:
    """The number of ranks from 1 on that a row holds without a gap."""
    ranks = {rank for _, rank in row.values()}
    return next(at for at in range(len(row) + 1) if at + 1 not in ranks)


FORMAT = Producer(
    "vllm",
    ("outputs", "request_id or prompt_token_ids"),
    _read,
    _split,
    lambda content: "outputs" in content and ("request_id" in content or "prompt_token_ids" in content),
)
