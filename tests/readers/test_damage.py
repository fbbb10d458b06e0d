"""Damage of any kind, at random places of a file, is read over or told in one sentence, and raises nothing else."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.open_dump import open_dump
from tests.cases import each
from tests.readers.dumps import jsonl, sequence_rows, token_rows

ROWS = token_rows((5, 3, 4), k=2)


def parquet(rows: list[dict[str, object]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, compression="zstd")
    return stream.getvalue()


WHOLE = {
    "lines": jsonl(ROWS),
    "lines of lists": jsonl(sequence_rows(ROWS)),
    "gzip": gzip.compress(jsonl(ROWS), mtime=0),
    "zstd": bytes(pa.compress(jsonl(ROWS), "zstd", asbytes=True)),
    "parquet": parquet(ROWS),
    "parquet of lists": parquet(sequence_rows(ROWS)),
}


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with an end cut off, a bit turned, bytes taken out or others put in."""
    at = draw.randrange(len(content))
    turned = bytes([content[at] ^ 1 << draw.randrange(8)])
    return draw.choice(
        (
            content[:at],
            content[:at] + turned + content[at + 1 :],
            content[:at] + content[at + draw.randrange(1, 9) :],
            content[:at] + draw.randbytes(3) + content[at:],
        )
    )


@each("kind", WHOLE)
def test_damage_is_told_in_one_sentence(kind: str, tmp_path: Path) -> None:
    draw, path, told = random.Random(kind), tmp_path / "dump", 0
    for _ in range(40):
        path.write_bytes(damaged(WHOLE[kind], draw))
        for skip_bad in (False, True):
            error = error_of(path, skip_bad)
            told += error is not None
            assert error is None or (str(error).startswith(str(path)) and "\n" not in str(error))
    assert told > 5


def error_of(path: Path, skip_bad: bool) -> DumpError | None:
    """The error of reading a file, None where it holds as many tokens as the whole one or fewer."""
    try:
        tokens = sum(len(table) for table in open_dump([path], skip_bad=skip_bad).tables())
    except DumpError as error:
        return error
    assert 0 < tokens <= len(ROWS)
    return None
