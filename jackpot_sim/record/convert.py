"""Any dump that is read, written in the plain schema: Parquet, one row a token, in the order of the dump."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.formats.plain_schema import SCHEMA
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.record.recorder import write_whole


@dataclass
class Written:
    """What was written.

    Attributes:
        sequences: sequences.
        tokens: tokens, those that are not trained on too.
        columns: the columns of any of them, in the order of the schema.
    """

    sequences: int = 0
    tokens: int = 0
    columns: list[str] = field(default_factory=list)


def write_tables(tables: Iterable[TokenTable], folder: Path) -> Written:
    """Writes tables of tokens, a file each.

    Args:
        tables: the tables; prompts are not in them.
        folder: a folder that is there.
    """
    written, columns = Written(), set[str]()
    for at, table in enumerate(tables):
        content = _columns(table)
        write_whole(folder / f"part_{at:06d}.parquet", pa.table(content))
        written.sequences += table.sequences
        written.tokens += len(table)
        columns |= content.keys()
    written.columns = [each.name for each in SCHEMA if each.name in columns]
    return written


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write to, which appears under its name when the block ends, and not at all where it fails.

    Raises:
        OSError: the folder holds something, is a file, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already")
    absent = [parent for parent in out.absolute().parents if not parent.exists()]
    unfinished = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in absent:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _columns(table: TokenTable) -> dict[str, Any]:
    """The columns of a table, a value a token."""
    columns: dict[str, Any] = {}
    for column in SCHEMA:
        values: Any = getattr(table, column.field, None)
        if values is None:
            continue
        if isinstance(values, TopK):
            part = to_numpy(values.ids if column.name.endswith("_ids") else values.log_probs)
            columns[column.name] = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), values.k)
        elif column.name == "sequence":
            owner = pa.array(table.owner.astype(np.int32))
            columns[column.name] = pa.DictionaryArray.from_arrays(owner, pa.array(list(values)))
        else:
            columns[column.name] = values[table.owner] if column.of_sequence else values
    return columns
