from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jackpot_sim.readers import build
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import raises
from jackpot_sim.readers.formats import plain_parquet
from jackpot_sim.readers.formats.plain_rows import Rows
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.table import TokenTable, joined
from tests.cases import each
from tests.readers.dumps import Row, same, sequence_rows, token_rows, written


def parquet(path: Path, rows: Iterable[Row] | pa.Table) -> Path:
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows)), path)
    return path


def tables(path: Path) -> list[TokenTable]:
    return list(open_dump([path]).tables())


@pytest.fixture
def by_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The readings row by row, one number each."""
    calls: list[int] = []
    kept = Rows.sequences

    def count(self: Rows, records: Any, at: int = 0) -> Any:
        calls.append(at)
        return kept(self, records, at)

    monkeypatch.setattr(Rows, "sequences", count)
    return calls


def cast(table: pa.Table, **types: pa.DataType) -> pa.Table:
    for name, kind in types.items():
        column = table.column(name)
        new = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
        table = table.set_column(table.column_names.index(name), name, new)
    return table


LENGTHS = (3, 1, 4)
TOKENS = pa.Table.from_pylist(token_rows(LENGTHS, k=2, other="x"))
LISTS = pa.Table.from_pylist(sequence_rows(token_rows(LENGTHS, k=2)))
NUMBERED = token_rows(LENGTHS)
for row in NUMBERED:
    row["sequence"] = int(row["sequence"][1:])
ONE_FOR_ALL = [row | {"advantage": 0.5, "weight_version": 3} for row in sequence_rows(token_rows(LENGTHS))]
UNNAMED = [{name: value for name, value in row.items() if name != "sequence"} for row in ONE_FOR_ALL]
UNKNOWN = token_rows(LENGTHS, advantage=None, reward=None, step=None, token=None, mask=None)
UNKNOWN[1]["actor_log_prob"] = UNKNOWN[3]["policy_log_prob"] = UNKNOWN[1]["entropy"] = None
PLURAL = [
    {"tokens": [1, 2], "actor_log_probs": [-1.0, None], "policy_log_probs": [-1.0, -2.0], "masks": 0} for _ in "ab"
]

REGULAR: dict[str, pa.Table] = {
    "rows of tokens": TOKENS,
    "rows of sequences": LISTS,
    "numbers of sequences": pa.Table.from_pylist(NUMBERED),
    "one value for all tokens": pa.Table.from_pylist(ONE_FOR_ALL),
    "no names": pa.Table.from_pylist(UNNAMED),
    "values that are not known": pa.Table.from_pylist(UNKNOWN),
    "plural names": pa.Table.from_pylist(PLURAL),
    "other types": cast(
        TOKENS,
        sequence=pa.dictionary(pa.int32(), pa.string()),
        token=pa.uint16(),
        mask=pa.int8(),
        step=pa.int8(),
        actor_topk_ids=pa.list_(pa.int64(), 2),
        policy_topk_ids=pa.large_list(pa.int32()),
        weight_version=pa.float64(),
        position=pa.float32(),
    ),
    "lists of other types": cast(LISTS, sequence=pa.large_string(), token=pa.large_list(pa.int32())),
}


@each("name", REGULAR)
def test_columns_hold_what_rows_hold(name: str, tmp_path: Path, by_rows: list[int]) -> None:
    rows = REGULAR[name].to_pylist()
    found = tables(parquet(tmp_path / "x", REGULAR[name]))
    assert by_rows == [], "read row by row"
    (expected,) = tables(written(tmp_path / "y", rows))
    same(found[0], expected)
    places = [each.split(", row ") for each in found[0].place]
    assert [path for path, _ in places] == [str(tmp_path / "x")] * found[0].sequences
    at = [place.split(", line ")[1] for place in expected.place]
    assert [row for _, row in places] == at
    by_rows.clear()


def test_numbers_of_32_bits_are_kept(tmp_path: Path) -> None:
    rows = cast(TOKENS, actor_log_prob=pa.float32())
    (table,) = tables(parquet(tmp_path / "x", rows))
    assert table.actor_log_probs is not None
    assert table.actor_log_probs.tolist() == rows.column("actor_log_prob").to_pylist()


def test_a_compressed_file_is_read_so_too(tmp_path: Path, by_rows: list[int]) -> None:
    path = written(tmp_path / "x.gz", gzip.compress(parquet(tmp_path / "x", TOKENS).read_bytes()))
    (table,) = tables(path)
    same(table, tables(tmp_path / "x")[0])
    assert by_rows == []


def some_unknown(column: str) -> list[Row]:
    """Rows in which the second sequence does not know what the others do."""
    rows = token_rows(LENGTHS)
    rows[3][column] = None
    return rows


@each("column", ["token", "step", "reward", "advantage", "entropy", "weight_version", "mask"])
def test_what_one_sequence_does_not_know_parts_the_table_as_in_lines(column: str, tmp_path: Path) -> None:
    found = tables(parquet(tmp_path / "x", some_unknown(column)))
    expected = tables(written(tmp_path / "y", some_unknown(column)))
    assert len(found) == len(expected) >= 1
    for one, other in zip(found, expected, strict=True):
        same(one, other)


@each("sequences", [False, True])
def test_parts_of_a_file_end_with_a_sequence(sequences: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sequence is longer than several parts, and others end where a part does."""
    rows = token_rows((2, 2, 4, 1, 17, 1, 1, 6, 3))
    path = parquet(tmp_path / "x", sequence_rows(rows) if sequences else rows)
    (expected,) = tables(path)
    monkeypatch.setattr(build, "TOKENS", 4)
    monkeypatch.setattr(plain_parquet, "ROWS", 2)
    parts = list(plain_parquet.tables(path, raises))
    assert len(parts) > 4
    whole = joined(parts)
    same(whole, expected)
    assert whole.place == expected.place


def changed(at: int, **values: Any) -> list[Row]:
    rows = token_rows((3, 2), k=2)
    rows[at] |= values
    return rows


def retyped(column: str) -> list[Row]:
    rows = token_rows((3, 2))
    return [row | {column: str(row[column])} for row in rows]


BAD: dict[str, list[Row]] = {
    "row 1: token holds '": retyped("token"),
    "row 1: actor_log_prob holds '-": retyped("actor_log_prob"),
    "row 5: token holds null, where integer was expected": changed(4, token=None),
    "row 5: token holds 1.5, where integer was expected": changed(4, token=1.5),
    "row 5: mask holds null, where true, false": changed(4, mask=None),
    "row 5: reward holds 3.0, where 1.0": changed(4, reward=3.0),
    "row 5: step holds 5, where 4, as": changed(4, step=5),
    "row 5: position is 0 after 0, where a larger one": changed(4, position=0),
    "row 4: position is -1, where a larger one": changed(3, position=-1),
    "row 5: sequence a0 comes back after others": changed(4, sequence="a0"),
    "row 5: sequence is null, where integer or string": changed(4, sequence=None),
    "row 1: sequence is 1.0, where integer or string": [row | {"sequence": 1.0} for row in token_rows((2,))],
    "row 5: actor_topk holds a list of 1, where one of 2, as": changed(4, actor_topk_ids=[1]),
    "row 5: actor_topk holds null, where a list, or null in both": changed(4, actor_topk_ids=None),
    "row 5: actor_topk holds 4294967296, where a token id of 32 bits": changed(4, actor_topk_ids=[1, 2**32]),
    "row 5: actor_topk holds null, where integer was": changed(4, actor_topk_ids=[1, None]),
    "row 1 has no column sequence": [{"actor_log_prob": -1.0}],
    "row 1 has no actor_topk_ids": [{"sequence": 1, "actor_log_prob": -1.0, "actor_topk_log_probs": [-1.0]}],
    "row 2 has lists of different lengths": [{"token": [1] * n, "actor_log_prob": [-1.0]} for n in (1, 2)],
    "row 2 has no token": [{"token": [1] * n, "actor_log_prob": [-1.0] * n} for n in (1, 0)],
    "row 1: mask is 1, where a list was": [{"actor_log_prob": [-1.0], "mask": 1}],
    "row 1 has both token and tokens": [{"actor_log_prob": [-1.0], "token": [1], "tokens": [1]}],
}


@each("told", BAD)
def test_a_bad_row_is_said(told: str, tmp_path: Path) -> None:
    path = parquet(tmp_path / "x", BAD[told])
    for read in (open_dump([path]).tables, open_dump([path]).sequences):
        with pytest.raises(DumpError, match=told) as raised:
            list(read())
        assert str(raised.value).startswith(str(path))


def test_a_bad_row_that_is_skipped_takes_its_sequence_along(tmp_path: Path) -> None:
    rows = token_rows((3, 4, 2))
    rows[4]["step"] = 7
    dump = open_dump([parquet(tmp_path / "x", rows)], skip_bad=True)
    (table,) = dump.tables()
    assert table.name == ("a0", "a2")
    assert dump.left_out.count == {"bad-row": 4}


def test_a_sequence_that_comes_back_in_another_part_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "TOKENS", 4)
    monkeypatch.setattr(plain_parquet, "ROWS", 2)
    path = parquet(tmp_path / "x", [*token_rows((2, 2, 4)), *token_rows((2,))])
    with pytest.raises(DumpError, match="row 9: sequence a0 comes back after others"):
        tables(path)


def test_a_file_that_is_cut_short_or_empty_is_said(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x", TOKENS)
    written(tmp_path / "y", path.read_bytes()[:-20])
    with pytest.raises(DumpError, match=r"y is cut short or damaged \("):
        open_dump([tmp_path / "y"])
    pq.write_table(TOKENS.slice(0, 0), path)
    with pytest.raises(DumpError, match="x has no row"):
        open_dump([path])
    with pytest.raises(DumpError, match="x has no row"):
        list(plain_parquet.tables(path, raises))


def test_columns_of_others_in_parquet_are_refused_by_their_keys(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x", [{"lengths": 1}])
    with pytest.raises(DumpError, match="x, row 1 holds the keys lengths, by which no format is known"):
        open_dump([path])


PEAK = """
import pathlib, sys
from jackpot_sim.readers.open_dump import open_dump
# The peak of this program alone; getrusage counts the one that started it too.
peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
sizes = []
for path in sys.argv[1:]:
    sizes.append((sum(len(table) for table in open_dump([path]).tables()), peak()))
(few, before), (many, after) = sizes
print(few, many, after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_row_group_of_any_size_is_read_in_parts(tmp_path: Path) -> None:
    """A group of 3 million rows, 96 MB of random numbers, is never held whole: that would take them twice."""
    rng, paths = np.random.default_rng(0), []
    for rows in (300_000, 3_000_000):
        numbers = {name: -rng.random(rows) for name in ("actor_log_prob", "policy_log_prob", "entropy")}
        table = pa.table({"sequence": np.arange(rows) // 500, **numbers})
        paths.append(tmp_path / f"{rows}.parquet")
        pq.write_table(table, paths[-1], row_group_size=rows, use_dictionary=False, compression="none")
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    few, many, more = map(int, done.stdout.split())
    assert (few, many) == (300_000, 3_000_000)
    assert more < 64e6
