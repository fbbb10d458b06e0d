"""Rows of a table: a .jsonl or .parquet file, a folder that `datasets` saved, or a name on the Hugging Face hub."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from jackpot_sim.environments.language_models.checkpoints import first_line
from jackpot_sim.requirements import RequirementError, require

Row: TypeAlias = Mapping[str, Any]

FILES = (".jsonl", ".parquet")
"""The kinds of file that are read."""


def read_rows(
    source: str | Path, *, split: str | None, usual_split: str, subset: str | None, limit: int | None
) -> list[Row]:
    """The rows in order.

    Args:
        source: the file, folder or name.
        split: which part of a data set; only for what has parts.
        usual_split: the part that is taken where there are several and none is named.
        subset: which configuration of a data set on the hub, None for the only one.
        limit: only the first so many; None is all.

    Raises:
        ValueError: there is nothing of this name, it cannot be read or has no such split, or it holds no row.
    """
    path = Path(source)
    try:
        if path.suffix in FILES:
            found = _of_file(path)
        elif path.is_dir():
            found = _of_folder(path)
        elif isinstance(source, Path) or source.startswith((".", "/", "~")):
            raise ValueError("there is no such folder, nor a .jsonl or .parquet file of this name")
        else:
            found = _loaded("load_dataset", source, subset)
        rows = list(islice(_one(found, split, usual_split), limit))
    except RequirementError:
        raise
    except Exception as error:  # a network and a broken file have many ways to fail
        raise ValueError(f"{source}: cannot read the data set: {first_line(error)}") from error
    if not rows:
        raise ValueError(f"{source}: there is no row")
    return rows


def _of_file(path: Path) -> Any:
    if path.suffix == ".parquet":
        return importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line holds no JSON object")
    return rows


def _of_folder(path: Path) -> Any:
    """A folder as `save_to_disk` leaves it, or one with files that `datasets` finds its way in."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return _loaded("load_from_disk" if saved else "load_dataset", str(path))


def _one(found: Any, split: str | None, usual: str) -> Any:
    """The rows of one split, or of what has none."""
    if not isinstance(found, dict):
        if split is not None:
            raise ValueError(f"it has no splits, and split is {split!r}: leave it out")
        return found
    if split is None:
        split = next(iter(found)) if len(found) == 1 else usual
    if split not in found:
        raise ValueError(f"there is no split {split!r}, only {', '.join(map(repr, found))}: name one of them")
    return found[split]


def _loaded(function: str, *arguments: str | None) -> Any:
    """What a function of `datasets` returns, without its progress bars."""
    require("datasets", purpose="a data set of problems")
    datasets = importlib.import_module("datasets")  # which has no annotations
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return getattr(datasets, function)(*arguments)
    finally:
        if not bars:
            datasets.enable_progress_bars()
