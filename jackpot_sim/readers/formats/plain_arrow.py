"""Columns of Arrow as the columns of a table of tokens, as long as nothing in them is odd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.formats.plain_schema import LOG_PROBS, SCHEMA, Column, Kind


class OddError(Exception):
    """Something that only a reading row by row can tell or say."""


def is_list(kind: pa.DataType) -> bool:
    """True for the types of lists."""
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def columns_of(chunk: pa.Table, keys: Mapping[str, str], firsts: Ints | None) -> tuple[Ints, dict[str, Any]]:
    """The lengths of some sequences and their columns by the names of TokenTable, `position` and `mask` always there.

    Args:
        chunk: rows of whole sequences.
        keys: the key of each column of the schema that the rows have.
        firsts: the first row of each sequence, for rows of tokens; None for rows of sequences.

    Raises:
        OddError: something in the rows is odd.
    """
    columns = {name: _whole(chunk.column(key)) for name, key in keys.items() if name not in ("sequence", "prompt")}
    if firsts is None:
        lengths, columns = _flat(columns)
        firsts = np.cumsum(lengths) - lengths
    else:
        lengths = np.diff(firsts, append=chunk.num_rows)
    tokens = int(lengths.sum())
    found: dict[str, Any] = {}
    for column in SCHEMA:
        values = columns.get(column.name)
        if values is None or (values.null_count == len(values) and column.name not in LOG_PROBS):
            continue
        if column.kind is Kind.TOP_IDS:
            found[column.field] = _top_k(values, columns[column.name.replace("_ids", "_log_probs")])
        elif column.kind is not Kind.TOP_LOG_PROBS:
            read = _read(column, values)
            if column.of_sequence and len(read) == tokens:
                read = _constant(read, firsts, lengths)
            if not _unknown(column, read, firsts):
                found[column.field] = read
    found.setdefault("mask", np.ones(tokens, dtype=np.bool_))
    if "position" not in found:
        found["position"] = np.arange(tokens) - np.repeat(firsts, lengths)
    _check_position(found["position"], firsts)
    return lengths, found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _flat(columns: Mapping[str, pa.Array]) -> tuple[Ints, dict[str, pa.Array]]:
    """The lengths of rows of sequences, and the columns with their lists one after the other."""
    of_schema = {column.name: column for column in SCHEMA}
    flat: dict[str, pa.Array] = {}
    lengths: Ints | None = None
    single = []
    for name, values in columns.items():
        column = of_schema[name]
        if column.of_sequence or values.null_count == len(values):
            flat[name] = values
        elif is_list(values.type):
            own = _lengths(values)
            if lengths is not None and not np.array_equal(own, lengths):
                raise OddError
            lengths, flat[name] = own, values.flatten()
        elif column.one_for_all:
            single.append(name)
        else:
            raise OddError
    if lengths is None or np.any(lengths == 0):
        raise OddError
    if any(flat[name].null_count == len(flat[name]) != lengths.sum() for name in LOG_PROBS if name in flat):
        raise OddError
    every = np.repeat(np.arange(len(lengths)), lengths)
    return lengths, flat | {name: columns[name].take(pa.array(every)) for name in single}


def _lengths(lists: pa.Array) -> Ints:
    if lists.null_count:
        raise OddError
    return np.asarray(pc.list_value_length(lists).to_numpy(zero_copy_only=False), dtype=np.int64)


def _read(column: Column, values: pa.Array) -> NDArray[Any]:
    kind = values.type
    try:
        if column.kind is Kind.NUMBER and (
            pa.types.is_floating(kind) or pa.types.is_integer(kind) or kind == pa.null()
        ):
            return _numbers(values, pa.float64())
        if values.null_count:
            raise OddError
        if column.kind is Kind.INTEGER and pa.types.is_integer(kind):
            return np.asarray(values.cast(pa.int64()).to_numpy())
        if column.kind is Kind.INTEGER and pa.types.is_floating(kind):
            return np.asarray(values.cast(pa.int64()).to_numpy())  # refused unless all are whole
        if column.kind is Kind.FLAG:
            return _flags(values)
    except pa.ArrowInvalid:
        raise OddError from None
    raise OddError


def _numbers(values: pa.Array, kind: pa.DataType) -> NDArray[Any]:
    known = values.cast(kind, safe=False)
    known = known.fill_null(np.nan) if known.null_count else known
    return np.asarray(known.to_numpy(zero_copy_only=False))


def _flags(values: pa.Array) -> Flags:
    found = np.asarray(values.to_numpy(zero_copy_only=False))
    if found.dtype == np.bool_:
        return found
    if found.dtype.kind not in "iuf" or np.any((found != 0) & (found != 1)):
        raise OddError
    return found.astype(np.bool_)


def _constant(values: NDArray[Any], firsts: Ints, lengths: Ints) -> NDArray[Any]:
    """The one value of each sequence."""
    one = values[firsts]
    if not np.array_equal(np.repeat(one, lengths), values, equal_nan=values.dtype.kind == "f"):
        raise OddError
    return one


def _unknown(column: Column, values: NDArray[Any], firsts: Ints) -> bool:
    """True where no number is known; refused where those of some sequences are not, but of others are."""
    if column.kind is not Kind.NUMBER or column.name in LOG_PROBS:
        return False
    unknown = np.isnan(values)
    if not unknown.any():
        return False
    sequences = unknown if column.of_sequence else np.logical_and.reduceat(unknown, firsts)
    if sequences.any() and not sequences.all():
        raise OddError
    return bool(sequences.all())


def _top_k(ids: pa.Array, log_probs: pa.Array) -> TopK:
    lengths = []
    for each in (ids, log_probs):
        if not is_list(each.type):
            raise OddError
        lengths.append(_lengths(each))
    k = int(lengths[0][0])
    if not k or any(np.any(own != k) for own in lengths):
        raise OddError
    inner, weights = ids.flatten(), log_probs.flatten()
    if inner.null_count or not pa.types.is_integer(inner.type):
        raise OddError
    if not (pa.types.is_floating(weights.type) or pa.types.is_integer(weights.type)):
        raise OddError
    try:
        numbers = inner.cast(pa.int32()).to_numpy()
    except pa.ArrowInvalid:
        raise OddError from None
    return TopK(numbers.reshape(-1, k), _numbers(weights, pa.float32()).reshape(-1, k))


def _check_position(position: Ints, firsts: Ints) -> None:
    rises = np.diff(position, prepend=-1) > 0
    rises[firsts] = position[firsts] >= 0
    if not rises.all():
        raise OddError
