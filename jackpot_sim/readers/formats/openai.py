"""Answers in OpenAI's form, completions and chats, as vLLM and SGLang give them too; and lines of OpenAI's batches.

They hold the actor's side alone. Tokens are text; ids are there where the server was asked for them: `token_ids` beside
the log-probs, or "token_id:123" as the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jackpot_sim.core.arrays import Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats import topk
from jackpot_sim.readers.formats.producer import Producer, inside, named, sequence
from jackpot_sim.readers.sequence import DumpedSequence

CUT = -9999.0
"""The number that vLLM's server writes for −inf, which JSON does not have."""

_PREFIX = "token_id:"


def _answer(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer itself, where a line of a batch wraps it."""
    for key in ("response", "body"):
        inner = content.get(key)
        content = {**content, **inner} if isinstance(inner, Mapping) else content
    return content


def _knows(content: Mapping[str, Any]) -> bool:
    choices = _answer(content).get("choices")
    return isinstance(choices, list) and all(isinstance(each, Mapping) and "logprobs" in each for each in choices)


def _split(record: Record) -> Iterator[Fields]:
    """The choices of the answer, each with the answer's own fields."""
    content = _answer(record.content)
    choices = Fields(content, record.place).needed("choices")
    shared = {key: value for key, value in content.items() if key not in ("choices", "index")}
    for at, choice in enumerate(choices):
        yield Fields({**shared, **choice}, inside(record, f"choice {at}"), record.name)


def _read(fields: Fields) -> DumpedSequence | None:
    given = fields.get("logprobs")
    if not isinstance(given, Mapping):
        raise fields.error("logprobs is null: ask the server for them with logprobs in the request")
    try:
        text, values, tops = _chat(given) if given.get("content") is not None else _completion(given)
    except (AttributeError, KeyError, TypeError) as error:
        raise fields.error("logprobs must hold tokens and token_logprobs, or content") from error
    told = Fields({"token_logprobs": values}, fields.place).floats("token_logprobs", shape=(len(text),))
    ids = fields.ints("token_ids", shape=(len(text),)) if fields.get("token_ids") is not None else _ids(text)
    return sequence(
        fields,
        named(fields.get("custom_id", "id"), fields.whole("index")),
        token=ids,
        text=None if ids is not None else tuple(text),
        actor_log_probs=None if told is None else np.where(told == CUT, -np.inf, told),
        prompt=fields.ints(
            *(("prompt_token_ids", "prompt") if fields.text("prompt") is None else ("prompt_token_ids",))
        ),
        prompt_text=fields.text("prompt"),
        advantages=fields.per_token(len(text), "advantages", "advantage"),
        reward=fields.number("reward"),
        actor_topk=_topk(text, tops),
    )


def _completion(given: Mapping[str, Any]) -> tuple[list[str], list[Any], list[dict[str, float]]]:
    """Tokens, log-probs, and the likeliest tokens with theirs, of a completion."""
    return (
        list(given["tokens"]),
        list(given["token_logprobs"]),
        [dict(each or {}) for each in given.get("top_logprobs") or []],
    )


def _chat(given: Mapping[str, Any]) -> tuple[list[str], list[Any], list[dict[str, float]]]:
    """The same of a chat."""
    content = given["content"]
    tops = [{top["token"]: top["logprob"] for top in each.get("top_logprobs") or []} for each in content]
    return [each["token"] for each in content], [each["logprob"] for each in content], tops


def _cut(value: float) -> float:
    return -np.inf if value == CUT else value


def _id(text: str) -> int | None:
    number = text[len(_PREFIX) :]
    return int(number) if text.startswith(_PREFIX) and number.isdecimal() else None


def _ids(text: list[str]) -> Ints | None:
    """The ids that stand for the tokens' text, None where one is text."""
    ids = [_id(each) for each in text]
    return None if None in ids else np.array(ids, dtype=np.int64)


def _topk(text: list[str], tops: list[dict[str, float]]) -> TopK | None:
    """The likeliest tokens where they are told by ids; as many as each token has.

    The sampled token stands among them even where it is none of them. It is then the least likely one there, and so
    it is not counted where it is the least likely.
    """
    rows = [{_id(token): value for token, value in row.items()} for row in tops]
    if len(rows) != len(text) or any(None in row or None in row.values() for row in rows):
        return None
    k = min((_certain(row, _id(token)) for token, row in zip(text, rows, strict=True) if row), default=0)
    found = topk.ragged([{int(token or 0): _cut(value) for token, value in row.items()} for row in rows])
    return None if found is None or k < 1 else found.first(k)


def _certain(row: Mapping[int | None, float], sampled: int | None) -> int:
    """The number of tokens of a row that are the likeliest for certain."""
    return len(row) - (min(row, key=lambda token: row[token]) == sampled)


FORMAT = Producer("openai", ("choices", "logprobs in each"), _read, _split, _knows)
