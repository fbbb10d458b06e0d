"""Sequences put together into tables of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Refuse, raises
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.readers.table import OF_SEQUENCES, OF_TOKENS, TOP_K, TokenTable, alike, joined

TOKENS = 1 << 17
"""The tokens of a table, about: a table ends with the sequence that reaches them."""
WIDE = 32
"""The k of a top-k up to which a table has as many: a wider one takes the room of more tokens."""
_REAL = ("actor_log_probs", "policy_log_probs", "advantages", "entropy", "reward")
_ALWAYS = ("position", "mask")


def tables(sequences: Iterable[DumpedSequence], tokens: int = TOKENS, refuse: Refuse = raises) -> Iterator[TokenTable]:
    """Sequences as tables; those with the same columns share one, whatever stands between them.

    Args:
        sequences: the sequences.
        tokens: a table is full when it holds as many.
        refuse: the answer to a sequence whose columns do not fit together.

    Raises:
        DumpError: from `refuse`, naming the place of the sequence.
    """
    waiting: dict[tuple[object, ...], list[DumpedSequence]] = {}
    held: dict[tuple[object, ...], float] = {}
    for sequence in sequences:
        try:
            length = _length(sequence) * _width(sequence)
        except DumpError as error:
            refuse(error)
            continue
        columns = _columns(sequence)
        waiting.setdefault(columns, []).append(sequence)
        held[columns] = held.get(columns, 0) + length
        if held[columns] >= tokens:
            yield _table(waiting.pop(columns))
            del held[columns]
    for rest in waiting.values():
        yield _table(rest)


def full(parts: Iterable[TokenTable], tokens: int = TOKENS) -> Iterator[TokenTable]:
    """Small tables put together, one after the other, as long as they hold no more tokens than a table should."""
    waiting: list[TokenTable] = []
    for part in parts:
        if waiting and (not alike(waiting[0], part) or (sum(map(len, waiting)) + len(part)) * _width(part) > tokens):
            yield joined(waiting)
            waiting = []
        waiting.append(part)
    if waiting:
        yield joined(waiting)


def _width(columns: DumpedSequence | TokenTable) -> float:
    """The tokens whose room a token takes: 1, unless a top-k is wider than `WIDE`."""
    tops: list[TopK | None] = [columns.actor_topk, columns.policy_topk]
    return max([1.0, *(top.k / WIDE for top in tops if top is not None)])


def _length(sequence: DumpedSequence) -> int:
    """The number of tokens.

    Raises:
        DumpError: there is none, or columns have different lengths or shapes.
    """
    lengths = {each: column.shape for each in OF_TOKENS if (column := getattr(sequence, each)) is not None}
    lengths |= {each: top.ids.shape[:-1] for each in TOP_K if (top := getattr(sequence, each)) is not None}
    if sequence.actor_log_probs is None and sequence.policy_log_probs is None:
        raise DumpError(f"{sequence.place} has no log-probs: expected those of the actor or of the policy")
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{each} {'×'.join(map(str, shape)) or 'one'}" for each, shape in lengths.items())
        raise DumpError(f"{sequence.place} has columns of different lengths ({told}): expected one entry a token")
    shape = next(iter(lengths.values()))
    if len(shape) != 1:
        raise DumpError(f"{sequence.place} has columns of {len(shape)} axes: expected one entry a token")
    if not shape[0]:
        raise DumpError(f"{sequence.place} has no token: a sequence has at least one")
    return int(shape[0])


def _columns(sequence: DumpedSequence) -> tuple[object, ...]:
    """The columns that a sequence has, and k of its top-k: sequences of one table agree in them."""
    there = tuple(getattr(sequence, each) is not None for each in (*OF_TOKENS, *OF_SEQUENCES))
    return (*there[2:], *(None if (top := getattr(sequence, each)) is None else top.k for each in TOP_K))


def _table(sequences: list[DumpedSequence]) -> TokenTable:
    lengths = [_length(each) for each in sequences]
    new: dict[str, Any] = {
        "name": tuple(each.name for each in sequences),
        "place": tuple(each.place for each in sequences),
        "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "position": np.concatenate([_position(*each) for each in zip(sequences, lengths, strict=True)]),
        "mask": np.concatenate([_mask(*each) for each in zip(sequences, lengths, strict=True)]),
    }
    first = sequences[0]
    for name in OF_TOKENS:
        if name not in _ALWAYS and getattr(first, name) is not None:
            new[name] = np.concatenate([getattr(each, name) for each in sequences]).astype(_dtype(name), copy=False)
    for name in OF_SEQUENCES:
        if getattr(first, name) is not None:
            new[name] = np.array([getattr(each, name) for each in sequences], dtype=_dtype(name))
    for name in TOP_K:
        if getattr(first, name) is not None:
            tops = [getattr(each, name) for each in sequences]
            new[name] = TopK(*(np.concatenate([getattr(top, part) for top in tops]) for part in ("ids", "log_probs")))
    return TokenTable(**new)


def _position(sequence: DumpedSequence, length: int) -> Ints:
    return np.arange(length) if sequence.position is None else sequence.position


def _mask(sequence: DumpedSequence, length: int) -> Flags:
    return np.ones(length, dtype=np.bool_) if sequence.mask is None else sequence.mask


def _dtype(name: str) -> type[np.generic]:
    return np.float64 if name in _REAL else np.int64
