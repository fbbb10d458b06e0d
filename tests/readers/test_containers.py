from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jackpot_sim.readers.containers import Container, container, records, rows_of
from jackpot_sim.readers.containers import parquet as parquet_file
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Record, raises
from tests.cases import each

ROWS = [{"a": 1, "b": [0.5, None]}, {"a": 2, "b": []}, {"a": 3, "b": [1.5]}]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


PLAIN = {
    "lines": LINES,
    "lines that end without a line feed": LINES.rstrip(),
    "lines with blank ones and a mark of order": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\n  \n"),
    "a list in one line": json.dumps(ROWS).encode(),
    "a list in many lines": json.dumps(ROWS, indent=1).encode(),
    "parquet": parquet(),
}
WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "gzip": gzip.compress,
    "zstd": zstd,
    "two members of gzip": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),
    "two frames of zstd": lambda content: zstd(content[:9]) + zstd(content[9:]),
}


def read(path: Path) -> list[Record]:
    return list(records(path, raises))


def refused(path: Path) -> tuple[list[Any], list[str]]:
    """The contents of the records, and the errors that were passed over."""
    errors: list[DumpError] = []
    found = [record.content for record in records(path, errors.append)]
    return found, [str(error).replace(str(path), "FILE") for error in errors]


@each("content, wrapped", [(c, w) for c in PLAIN for w in WRAPPED])
def test_content_decides_and_not_the_name(content: str, wrapped: str, tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    path.write_bytes(WRAPPED[wrapped](PLAIN[content]))
    found = read(path)
    assert [record.content for record in found] == ROWS
    assert {record.name for record in found} == {"dump.txt"}


def test_places_name_the_line_the_item_or_the_row(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, places in {
        b"\n" + LINES: ["line 2", "line 3", "line 4"],
        json.dumps(ROWS).encode(): [f"line 1, item {n}" for n in (1, 2, 3)],
        json.dumps(ROWS, indent=1).encode(): ["item 1", "item 2", "item 3"],
        parquet(): ["row 1", "row 2", "row 3"],
    }.items():
        path.write_bytes(content)
        assert [record.place for record in read(path)] == [f"{path}, {place}" for place in places]


def test_one_document_is_one_record(tmp_path: Path) -> None:
    for indent in (None, 2):
        path = tmp_path / "x.jsonl"
        path.write_text(json.dumps({"a": ROWS}, indent=indent))
        assert [record.content for record in read(path)] == [{"a": ROWS}]


def test_containers_are_known(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content, expected in {
        LINES: Container.JSON,
        parquet(): Container.PARQUET,
        b"PK\x03\x04and more": Container.TORCH,
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": Container.TORCH,
        **{pickle.dumps({"a": 1}, protocol): Container.PICKLE for protocol in (2, 3, 4, 5)},
        b"step 1: loss 0.5": None,
        b"\x89PNG\r\n\x1a\n": None,
    }.items():
        for wrap in WRAPPED.values():
            path.write_bytes(wrap(content))
            assert container(path) == expected, content


class Foreign:
    """Runs something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@each("wrapped", WRAPPED)
def test_pickles_and_files_of_torch_are_one_record_and_nothing_in_them_is_run(wrapped: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, ran = tmp_path / "dump", tmp_path / "ran"
    stream = io.BytesIO()
    torch.save({"a": torch.arange(3), "b": [1, None]}, stream)
    path.write_bytes(WRAPPED[wrapped](stream.getvalue()))
    (record,) = read(path)
    assert record.place == str(path)
    assert record.content["a"].tolist() == [0, 1, 2]
    path.write_bytes(WRAPPED[wrapped](pickle.dumps({"a": np.arange(3)})))
    (record,) = read(path)
    assert record.content["a"].tolist() == [0, 1, 2]
    path.write_bytes(WRAPPED[wrapped](pickle.dumps({"a": Foreign(ran)})))
    for content in (path.read_bytes(), WRAPPED[wrapped](stream.getvalue()[:-30])):
        path.write_bytes(content)
        _, errors = refused(path)
        assert len(errors) == 1
        assert errors[0].startswith("FILE")
        assert "\n" not in errors[0]
    assert not ran.exists()


def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for bad, told in {
        b'{"a": 1,, "b": []}\n': "line 2 is not JSON (expecting property name enclosed in double quotes at column 9)",
        b"rubbish\n": "line 2 is not JSON (expecting value at column 1)",
        b'{"a": "\xff"}\n': "line 2 is not UTF-8 (byte 8): a dump is written in UTF-8",
        b'{"a": ' + b"9" * 5000 + b"}\n": "line 2 is no JSON of records (Exceeds the limit (4300 digits) for",
        b'{"a": ' + b"[" * 100_000 + b"\n": "line 2 is no JSON of records (maximum recursion depth exceeded",
    }.items():
        path.write_bytes(LINES.replace(b"\n", b"\n" + bad, 1))
        found, errors = refused(path)
        assert found == ROWS
        assert len(errors) == 1
        assert errors[0].startswith(f"FILE, {told}"), errors
        with pytest.raises(DumpError, match="line 2 is "):
            read(path)


def test_a_dump_that_was_cut_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(LINES[:-5])
    assert refused(path) == (ROWS[:2], ["FILE ends in the middle of line 3: the dump was cut"])
    path.write_bytes(LINES[:10])
    assert refused(path) == ([], ["FILE ends in the middle of line 1: the dump was cut"])


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    long = b"".join(b'{"a": %d}\n' % (i * i) for i in range(30_000))
    for content, told in {
        b"": "FILE is empty: a dump has at least one record",
        gzip.compress(b""): "FILE is empty: a dump has at least one record",
        b"\n \n": "FILE holds blank lines alone",
        b"[]\n": "FILE, line 1 is an empty list",
        b"[1, 2\n": "FILE, line 1 is not JSON (expecting ',' delimiter at column",
        b'{\n"a": 1,\n': "FILE is not JSON (expecting property name",
        b"a,b\n1,2\n": "FILE is no dump by its first bytes: expected JSON lines or JSON, Parquet, a file of torch.save",
        gzip.compress(long)[:-9000]: "FILE is cut short or damaged after line ",
        zstd(long)[:-9000]: "FILE is cut short or damaged after line ",
        gzip.compress(long)[:12]: "FILE is cut short or damaged (",
        gzip.compress(LINES)[:-6]: "FILE is cut short or damaged ",
        parquet()[:-9]: "FILE is cut short or damaged (Parquet magic bytes not found",
        b"PAR1": "FILE is cut short or damaged (",
        parquet()[:40] + parquet()[60:]: "FILE is cut short or damaged (",
    }.items():
        path.write_bytes(content)
        _, errors = refused(path)
        assert len(errors) == 1, content[:20]
        assert errors[0].startswith(told), errors
        assert "\n" not in errors[0]
        with pytest.raises(DumpError):
            read(path)


def test_rows_with_lists_are_read_a_few_at_once(tmp_path: Path) -> None:
    """However many rows lie in one group: their values decide, and a long row is read alone."""
    path = tmp_path / "x.parquet"
    for length, rows in {1: 100, 10: 10, 1000: 1}.items():
        pq.write_table(pa.table({"a": [[0] * length] * 500, "b": [0] * 500}), path, row_group_size=200)
        with path.open("rb") as stream:
            assert rows_of(parquet_file(stream), 100) == rows


def test_parquet_without_a_row_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    with pytest.raises(DumpError, match=r"x\.parquet has no row"):
        read(path)


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(LINES)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(DumpError, match="x cannot be read: permission denied"):
            read(path)
