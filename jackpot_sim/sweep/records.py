"""Records on disk: tables of Parquet shards, one shard a cell and table, and a manifest of the cells.

    DIR/manifest.json              the study, its hash, the cells, the versions that began it
    DIR/records/<cell>.parquet     one row per estimator, denominator and method
    DIR/states/<cell>.parquet      the per-state figures that the bootstrap needs
    DIR/diagnostics/<cell>.parquet the mismatch as rollouts of real models show it, with intervals
    DIR/normalizers/<cell>.parquet the ways to estimate Z, where a study compares them
    DIR/thresholds/<cell>.parquet  the best threshold of each estimator, where a study asks for them

A finished run may also be packed: DIR/records.parquet, DIR/states.parquet, … hold the rows of all cells, see `pack`.

A shard is written to a dot-file, flushed to disk and renamed, and `records` is written last: a shard
there means that the cell is finished, at whatever instant the run was killed.

Parameters of estimators have a column each, which their corrections name. Records of other versions may lack some
or have others, and old ones lack `centred` and what actors have that show no whole laws: they are read all the same.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.folders import MANIFEST, StudyFolder
from jackpot_sim.studies.provenance import provenance
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.schema import AFTER_PARAMETERS, BEFORE_PARAMETERS, STATES, TABLES, tables
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.worlds import TRAITS

_BEFORE = {"centred": False, "laws": "whole"}
"""Columns that old records lack, with what all of them were before there was anything else."""

_OF_SOME_STUDIES = ("diagnostics", "normalizers", "thresholds")


def tables_of(study: Study) -> tuple[str, ...]:
    """The tables of a study's run, `records` last: its shard marks a cell as finished."""
    diagnostics = any(TRAITS[env.world].diagnostics for env in study.env)
    asked = {
        "diagnostics": diagnostics,
        "normalizers": study.normalizers is not None,
        "thresholds": study.best_thresholds,
    }
    return (*(table for table, is_asked in asked.items() if is_asked), "states", "records")


class RunDirectory:
    """The folder of one run of a study."""

    def __init__(self, root: Path, study: Study, cells: list[Cell]) -> None:
        self.root = root
        self._study, self._cells = study, cells
        self._folder, self._tables = _folder(root), tables_of(study)
        self._schemas = tables(study.kinds)
        self._provenance = provenance()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """A block in which the folder, new or of the same study, is locked against other runs.

        Raises:
            StudyError: the folder holds another study or something else, is in use, or cannot be written.
        """
        with self._folder.claimed(self._study.config_hash, self._study.corrections):
            try:
                self._prepare()
            except OSError as error:
                raise unwritable(Path(error.filename or self.root), error) from error
            yield

    def _prepare(self) -> None:
        # The manifest comes first: a folder with other files and no manifest belongs to somebody else.
        if not self._folder.has_manifest:
            self._folder.write_manifest(self._manifest())
        for table in self._tables:
            (self.root / table).mkdir(exist_ok=True)
            for leftover in (self.root / table).glob(".*.tmp"):
                leftover.unlink()

    def finished(self) -> set[str]:
        """The ids of the cells that have all their shards.

        Raises:
            StudyError: a shard cannot be read.
        """
        done = set()
        for cell in self._cells:
            shards = {table: self.root / table / f"{cell.id}.parquet" for table in self._tables}
            if all(shard.exists() for shard in shards.values()):
                for table, shard in shards.items():
                    _readable(shard, self._schemas[table])
                done.add(cell.id)
        return done

    def write(self, measured: Measured) -> None:
        """Writes a finished cell.

        Raises:
            StudyError: the system refuses; nothing half-written is left.
        """
        name = f"{measured.cell.id}.parquet"
        origin = self._provenance | {"config_hash": self._study.config_hash}
        rows = pa.Table.from_pylist([row | origin for row in measured.rows], schema=self._schemas["records"])
        states = STATES.empty_table()
        if columns := measured.state_rows:
            states = pa.table({field.name: columns[field.name] for field in STATES}, schema=STATES)
        given = {"records": rows, "states": states}
        for folder in self._tables:
            table = given.get(folder)
            if table is None:
                table = pa.Table.from_pylist(measured.tables.get(folder, []), schema=self._schemas[folder])
            shard = self.root / folder / name
            try:
                write_atomically(shard, lambda path, table=table: pq.write_table(table, path, write_page_checksum=True))
            except OSError as error:
                raise StudyError(f"{unwritable(shard, error)}; finished cells are kept") from error

    def _manifest(self) -> dict[str, object]:
        return {
            "study": self._study.name,
            "config_hash": self._study.config_hash,
            "config": self._study.model_dump(mode="json"),
            "corrections": self._study.corrections,
            "cells": [
                {"cell": cell.id, "seed": cell.seed, "environment": json.loads(cell.environment)}
                for cell in self._cells
            ],
            **self._provenance,
        }


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        StudyError: there is none, or it cannot be read.
    """
    return _folder(root).manifest()


def has_finished(root: Path) -> bool:
    """True for the folder of a run of which a cell is finished."""
    try:
        cells = read_manifest(root)["cells"]
    except StudyError:
        return False
    return any((root / "records" / f"{each['cell']}.parquet").exists() for each in cells)


def _folder(root: Path) -> StudyFolder:
    return StudyFolder(root, "run", lambda manifest: all(isinstance(each["cell"], str) for each in manifest["cells"]))


def load(root: Path, table: str = "records") -> pd.DataFrame:
    """A table of all finished cells of a run, in the manifest's order; empty if the run has no such table.

    Raises:
        StudyError: the folder holds no run, no cell is finished, or a shard cannot be read.
    """
    whole = _whole(root, table)
    for name, before in _BEFORE.items():
        if name in whole.column_names:
            place, column = whole.column_names.index(name), whole[name]
            whole = whole.set_column(place, name, column.fill_null(before))
    frame: pd.DataFrame = whole.to_pandas()
    return frame


def pack(root: Path, to: Path) -> None:
    """Writes the manifest of a finished run and its tables, each as one file, into a folder, from which `load` reads.

    Raises:
        StudyError: the folder holds no finished run, or cannot be written.
    """
    cells = read_manifest(root)["cells"]
    if not all((root / "records" / f"{each['cell']}.parquet").exists() for each in cells):
        raise StudyError(f"{root} lacks some of its {len(cells)} cells: finish the run first")
    try:
        to.mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            whole = _whole(root, table)
            if table in _OF_SOME_STUDIES and not whole.num_rows:
                continue
            write = partial(pq.write_table, whole, compression="zstd", compression_level=19, write_page_checksum=True)
            write_atomically(to / f"{table}.parquet", write)
        manifest = (root / MANIFEST).read_bytes()
        write_atomically(to / MANIFEST, lambda path: path.write_bytes(manifest))
    except OSError as error:
        raise unwritable(Path(error.filename or to), error) from error


def _whole(root: Path, table: str) -> pa.Table:
    """The rows of all finished cells, see `load`."""
    names = [cell["cell"] for cell in read_manifest(root)["cells"]]
    if (packed := root / f"{table}.parquet").is_file():
        return _read_shard(packed, TABLES[table])
    shards = [root / table / f"{name}.parquet" for name in names if (root / "records" / f"{name}.parquet").exists()]
    if not (root / table).is_dir() and table in _OF_SOME_STUDIES:
        return TABLES[table].empty_table()
    if not shards:
        raise StudyError(f"{root} holds no finished cell yet: run the study first")
    return pa.concat_tables([_read_shard(shard, TABLES[table]) for shard in shards], promote_options="default")


def _read_shard(path: Path, schema: pa.Schema) -> pa.Table:
    readable = _readable(path, schema)
    try:
        return pq.read_table(path, schema=readable, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _readable(path: Path, schema: pa.Schema) -> pa.Schema:
    """The columns to read from a shard: those of this version, and parameters that the shard alone has.

    Only the file's end is read, which a file that was cut short does not have.

    Raises:
        StudyError: the file is damaged, or differs in other columns than parameters.
    """
    try:
        before, parameters, after = _parts(schema)
        first, others, last = _parts(_schema_of(path))
        if (first, last) != (before, after):
            raise pa.ArrowInvalid("its columns are not those of this version")
        return pa.schema([*before, *pa.unify_schemas([pa.schema(parameters), pa.schema(others)]), *after])
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _schema_of(path: Path) -> pa.Schema:
    """The schema of a file, which holds it twice: a damaged name must not pass for another version's parameter.

    Raises:
        pa.ArrowException: the file is damaged.
    """
    found, kept = pq.read_schema(path), (pq.read_metadata(path).metadata or {}).get(b"ARROW:schema")
    try:
        differ = kept is not None and _decoded(kept).names != found.names
    except ValueError as error:  # base64's and Unicode's too
        raise pa.ArrowInvalid("its schema is no schema") from error
    if differ:
        raise pa.ArrowInvalid("its schema and its columns have different names")
    return found


def _decoded(schema: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema)))


def _parts(schema: pa.Schema) -> tuple[list[pa.Field], list[pa.Field], list[pa.Field]]:
    """The columns before the parameters of estimators, these, and the columns after them."""
    ends = schema.get_field_index(BEFORE_PARAMETERS) + 1, schema.get_field_index(AFTER_PARAMETERS)
    if min(ends) < 1:  # another table
        return list(schema), [], []
    fields = list(schema)
    return fields[: ends[0]], fields[ends[0] : ends[1]], fields[ends[1] :]


def _unreadable(path: Path, error: Exception) -> StudyError:
    reason = " ".join(str(error).split())[:120]
    return StudyError(
        f"shard {path} is missing, cut short or damaged ({reason}): move it away, and the same command makes it anew"
    )
