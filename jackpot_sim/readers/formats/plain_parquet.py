"""Plain rows in Parquet, from the columns of Arrow to tables of tokens without a Python object for each row.

Only rows with nothing odd in them are read so. A part of a file in which a check fails is read once more row by row,
which finds the row and says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jackpot_sim.core.arrays import Ints
from jackpot_sim.readers import build, containers
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.formats.plain_arrow import OddError, columns_of, is_list
from jackpot_sim.readers.formats.plain_rows import Rows
from jackpot_sim.readers.formats.plain_schema import BY_NAME, LOG_PROBS, OF_TOKENS
from jackpot_sim.readers.table import TokenTable

ROWS = 1 << 16
"""The rows of tokens that are read at once."""
_ROWS_AS_OBJECTS = 64
"""The rows that are turned into Python objects together: one may hold a long list."""


def reads(path: Path) -> bool:
    """True for a file of Parquet with a column of log-probs; False also for one that cannot be opened."""
    try:
        if containers.container(path) is not containers.Container.PARQUET:
            return False
        with containers.seekable(path) as stream:
            return any(BY_NAME[name].name in LOG_PROBS for name in pq.read_schema(stream).names if name in BY_NAME)
    except DumpError:
        return False


def tables(path: Path, refuse: Refuse) -> Iterator[TokenTable]:
    """The tables of a Parquet file of plain rows, in order.

    Raises:
        DumpError: from `refuse`, or the file may not be opened.
    """
    try:
        with containers.seekable(path) as stream, containers.parquet(stream) as file:
            yield from _tables(path, file, refuse)
    except DumpError as error:
        refuse(error)


def _tables(path: Path, file: pq.ParquetFile, refuse: Refuse) -> Iterator[TokenTable]:
    schema = file.schema_arrow
    names = [name for name in schema.names if name in BY_NAME]
    lists = any(name in OF_TOKENS and is_list(schema.field(name).type) for name in names)
    most = containers.rows_of(file, build.TOKENS * (1 if lists else build.WIDE), names)
    batches = file.iter_batches(batch_size=most if lists else min(ROWS, most), columns=names)
    rows: Rows | None = None
    at = 0
    for chunk in _whole_rows(batches) if lists else _whole_sequences(batches, min(build.TOKENS, most)):
        if rows is None:
            rows = Rows(next(_records(path, chunk.slice(0, 1), at)), refuse, lists)
        table = _regular(path, chunk, at, rows, lists)
        if table is not None:
            yield table
        else:
            yield from build.tables(rows.sequences(_records(path, chunk, at), at), refuse=refuse)
        at += chunk.num_rows
    if rows is None:
        raise DumpError(f"{path} has no row: a dump has at least one record")


def _regular(path: Path, chunk: pa.Table, at: int, rows: Rows, lists: bool) -> TokenTable | None:
    """The table of some rows, of which the first has number `at`, from 0; None where something is odd in them."""
    try:
        firsts = np.arange(chunk.num_rows) if lists else _firsts(chunk)
        lengths, columns = columns_of(chunk, rows.columns, None if lists else firsts)
    except OddError:
        return None
    if "sequence" in rows.columns:
        names = [str(name) for name in chunk.column(rows.columns["sequence"]).take(firsts).to_pylist()]
    else:
        names = [str(at + first + 1) for first in firsts]
    if not rows.begin(names):
        return None
    return TokenTable(
        name=tuple(names),
        place=tuple(f"{path}, row {at + first + 1}" for first in firsts),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **columns,
    )


def _whole_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    for batch in batches:
        yield pa.Table.from_batches([batch])


def _whole_sequences(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Rows of tokens in parts of about as many, each of which ends with a sequence."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < rows or "sequence" not in batch.schema.names:
            continue
        chunk = pa.Table.from_batches(held)
        cut = int(_firsts(chunk, odd=False)[-1])
        if cut:
            yield chunk.slice(0, cut).combine_chunks()
        held = chunk.slice(cut).to_batches()
        count -= cut
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def _firsts(chunk: pa.Table, odd: bool = True) -> Ints:
    """The first row of each sequence; with `odd`, refused where a sequence has no name that is an integer or text."""
    column = chunk.column("sequence").combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    named = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if odd and (not named or column.null_count):
        raise OddError
    if not named:
        return np.zeros(1, dtype=np.int64)
    ends = pc.run_end_encode(column, run_end_type=pa.int64()).run_ends.to_numpy()
    return np.concatenate([[0], ends[:-1]])


def _records(path: Path, chunk: pa.Table, at: int) -> Iterator[Record]:
    rows: list[dict[str, Any]]
    for batch in chunk.to_batches(max_chunksize=_ROWS_AS_OBJECTS):
        rows = batch.to_pylist()
        for number, row in enumerate(rows, at + 1):
            yield Record(f"{path}, row {number}", row, path.name)
        at += len(rows)
