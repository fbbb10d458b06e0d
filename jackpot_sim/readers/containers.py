"""The objects in one file: compression and container are known by the first bytes, never by the name."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import pickle
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.files import reason
from jackpot_sim.readers.format import Record, Refuse


class Container(StrEnum):
    """The containers of records."""

    JSON = "JSON lines or JSON"
    PARQUET = "Parquet"
    TORCH = "a file of torch.save"
    PICKLE = "a pickle"


_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OLD_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The number with which torch.save began before it wrote zip files, after two bytes of pickle."""
_BOM = b"\xef\xbb\xbf"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException, OSError)
"""The errors of a compressed stream, or of Parquet, that is cut short or damaged."""
_BUFFER = 1 << 20
"""The bytes of each column of Parquet that are read at once."""
_FIRST = 64
"""The rows of Parquet by which the length of the others is judged."""
VALUES = 1 << 14
"""The values of a column of Parquet that are turned into Python objects together, about."""


def container(path: Path) -> Container | None:
    """The container of a file, by its first bytes after decompression; None for one that is none.

    Raises:
        DumpError: the file is empty, damaged, or may not be read.
    """
    with opened(path) as stream:
        head = stream.read(64)
    if not head:
        raise DumpError(f"{path} is empty: a dump has at least one record")
    return _container(head)


def records(path: Path, refuse: Refuse) -> Iterator[Record]:
    """The records in a file, in order; JSON lines one at a time and Parquet in batches of rows.

    Args:
        path: the file.
        refuse: the answer to a line that is no JSON, or to a file that is empty, damaged or no dump.

    Raises:
        DumpError: the file may not be opened.
    """
    try:
        found = container(path)
        if found is None:
            raise DumpError(
                f"{path} is no dump by its first bytes: expected {', '.join(Container)}; convert other kinds to JSON "
                "lines or Parquet"
            )
        with opened(path) as stream:
            yield from _READ[found](path, stream, refuse)
    except DumpError as error:
        refuse(error)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, decompressed as it is read.

    Raises:
        DumpError: it may not be opened, or its compressed stream is cut short or damaged.
    """
    try:
        with path.open("rb") as raw:
            yield _decompressed(raw)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DumpError(f"{path} cannot be read: {reason(error)}") from None
        raise DumpError(f"{path} is cut short or damaged ({_first_line(error)}): copy it again") from None


@contextmanager
def seekable(path: Path) -> Iterator[IO[bytes]]:
    """A file in which one can go back: decompressed to the disk first where it is compressed; raises as `opened`."""
    with opened(path) as stream:
        if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO):
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield cast("IO[bytes]", copy)


def parquet(stream: IO[bytes]) -> pq.ParquetFile:
    """A file of Parquet of which a small part lies in memory, however large its row groups are."""
    return pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)


def rows_of(file: pq.ParquetFile, values: int, columns: Sequence[str] | None = None) -> int:
    """The rows of Parquet that hold about as many values of a column, at least one, by the first rows of the file.

    The footer's numbers of values would say more, but where it is damaged, to ask for them ends the process.
    """
    first = next(file.iter_batches(batch_size=_FIRST, columns=columns), None)
    if first is None:
        return 1
    rows: int = first.num_rows
    return max(1, values * rows // max([rows, *(_leaves(column) for column in first.columns)]))


def _leaves(column: pa.Array) -> int:
    """The values in a column of numbers, of lists or of lists of lists."""
    while hasattr(column, "flatten") and not pa.types.is_struct(column.type):
        column = column.flatten()
    return len(column)


def _decompressed(raw: io.BufferedReader) -> IO[bytes]:
    head = raw.peek(4)
    if head.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if head.startswith(_ZSTD):
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), "zstd"))
    return raw


def _container(head: bytes) -> Container | None:
    if head.startswith(b"PAR1"):
        return Container.PARQUET
    if head.startswith(b"PK\x03\x04") or head[2:].startswith(_OLD_TORCH):
        return Container.TORCH
    if head[0] == 0x80 and 2 <= head[1:2][0] <= pickle.HIGHEST_PROTOCOL:
        return Container.PICKLE
    text = head.removeprefix(_BOM).lstrip()
    return Container.JSON if not text or text[:1] in (b"{", b"[") else None


def _json(path: Path, stream: IO[bytes], refuse: Refuse) -> Iterator[Record]:
    """JSON lines; or, where the first line is the beginning of an object only, one document."""
    blank, name = True, path.name
    for number, line in enumerate(_lines(path, stream), 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if not (text := line.strip()):
            continue
        if blank and text.endswith((b"{", b"[", b",", b":")):
            yield from _document(path, line + stream.read())
            return
        blank, place = False, f"{path}, line {number}"
        try:
            content = _parsed(text, place)
        except DumpError as error:
            cut = not line.endswith(b"\n") and "is not JSON" in str(error)
            refuse(DumpError(f"{path} ends in the middle of line {number}: the dump was cut") if cut else error)
            continue
        if isinstance(content, list):
            yield from _items(path, place, content)
        else:
            yield Record(place, content, name)
    if blank:
        raise DumpError(f"{path} holds blank lines alone: a dump has at least one record")


def _lines(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    number = 0
    try:
        for line in stream:
            number += 1
            yield line
    except _BROKEN as error:
        raise DumpError(
            f"{path} is cut short or damaged after line {number} ({_first_line(error)}): copy it again"
        ) from None


def _parsed(text: bytes, place: str) -> object:
    try:
        content = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise DumpError(f"{place} is not UTF-8 (byte {error.start + 1}): a dump is written in UTF-8") from None
    except json.JSONDecodeError as error:
        found = f"{error.msg.lower()} at column {error.colno}"
        raise DumpError(f"{place} is not JSON ({found}): mend it, or see --skip-bad") from None
    except (ValueError, RecursionError) as error:
        raise DumpError(f"{place} is no JSON of records ({_first_line(error)})") from None
    if content == []:
        raise DumpError(f"{place} is an empty list: a dump has at least one record")
    return content


def _document(path: Path, text: bytes) -> Iterator[Record]:
    content = _parsed(text, str(path))
    yield from _items(path, str(path), content) if isinstance(content, list) else [_whole(path, content)]


def _items(path: Path, place: str, content: list[Any]) -> Iterator[Record]:
    for number, item in enumerate(content, 1):
        yield Record(f"{place}, item {number}", item, path.name)


def _parquet(path: Path, stream: IO[bytes], refuse: Refuse) -> Iterator[Record]:
    number = 0
    with seekable(path) as file:
        rows = parquet(file)
        for batch in rows.iter_batches(batch_size=rows_of(rows, VALUES)):
            for row in batch.to_pylist():
                number += 1
                yield Record(f"{path}, row {number}", row, path.name)
    if not number:
        raise DumpError(f"{path} has no row: a dump has at least one record")


def _torch(path: Path, stream: IO[bytes], refuse: Refuse) -> Iterator[Record]:
    with seekable(path) as file:
        yield _whole(path, _loaded("tensors", file, path))


def _pickle(path: Path, stream: IO[bytes], refuse: Refuse) -> Iterator[Record]:
    with seekable(path) as file:
        yield _whole(path, _loaded("pickles", file, path))


def _loaded(reader: str, file: IO[bytes], path: Path) -> object:
    """The content of a file by a reader that is imported only now: one of them needs torch."""
    return importlib.import_module(f"jackpot_sim.readers.{reader}").load(file, str(path))


def _whole(path: Path, content: object) -> Record:
    return Record(str(path), content, path.name)


def _first_line(error: BaseException) -> str:
    return (str(error).split("\n")[0] or type(error).__name__).rstrip(".")


_READ = {Container.JSON: _json, Container.PARQUET: _parquet, Container.TORCH: _torch, Container.PICKLE: _pickle}
