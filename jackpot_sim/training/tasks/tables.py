"""Rows of a table: a .jsonl or .parquet file, a folder that `datasets` saved, or a name on the Hugging Face hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from jackpot_sim.environments.language_models.checkpoints import first_line
from jackpot_sim.requirements import RequirementError, require

Row: TypeAlias = Mapping[str, object]
"""A row by column."""

Data: TypeAlias = Iterable[Row] | dict[str, Iterable[Row]]
"""The rows of a data set, or those of each of its splits."""

FILES = (".jsonl", ".parquet")
"""The kinds of file that are read."""


def read_rows(
    source: str | Path, *, split: str | None, usual_split: str, subset: str | None, limit: int | None
) -> list[Row]:
    """The rows in order.

    Args:
        source: the file, folder or name.
        split: the split of a data set; only for data sets with splits.
        usual_split: the split that is read where there are several and none is named.
        subset: the configuration of a data set on the hub; None for the only one.
        limit: the number of rows, from the first; None: all.

    Raises:
        ValueError: the source is missing, cannot be read, has no such split, or holds no row.
    """
    path = Path(source)
    try:
        if path.suffix in FILES:
            data: Data = _of_file(path)
        elif path.is_dir():
            data = _of_folder(path)
        elif isinstance(source, Path) or source.startswith((".", "/", "~")):
            raise ValueError("there is no such folder, nor a .jsonl or .parquet file of this name")
        else:
            data = _loaded("load_dataset", source, subset)
        rows = list(islice(_one(data, split, usual_split), limit))
    except RequirementError:
        raise
    except Exception as error:  # a network and a broken file have many ways to fail
        raise ValueError(f"{source}: cannot read the data set: {first_line(error)}") from error
    if not rows:
        raise ValueError(f"{source}: there is no row")
    return rows


def _of_file(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        table: list[Row] = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
        return table
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line holds no JSON object")
    return rows


def _of_folder(path: Path) -> Data:
    """The data set in a folder that `save_to_disk` wrote, or in one with files that `datasets` knows to read."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return _loaded("load_from_disk" if saved else "load_dataset", str(path))


def _one(data: Data, split: str | None, usual: str) -> Iterable[Row]:
    """The rows of one split, or of a data set without splits."""
    if not isinstance(data, dict):
        if split is not None:
            raise ValueError(f"it has no splits, and split is {split!r}: leave it out")
        return data
    if split is None:
        split = next(iter(data)) if len(data) == 1 else usual
    if split not in data:
        raise ValueError(f"there is no split {split!r}, only {', '.join(map(repr, data))}: name one of them")
    return data[split]


def _loaded(function: str, *arguments: str | None) -> Data:
    """The data set that a function of `datasets` returns, without its progress bars."""
    require("datasets", purpose="a data set of problems")
    datasets = importlib.import_module("datasets")  # which has no annotations
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        data: Data = getattr(datasets, function)(*arguments)
        return data
    finally:
        if not bars:
            datasets.enable_progress_bars()
