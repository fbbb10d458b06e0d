"""Records on disk: tables of Parquet shards, one shard a cell and table, and a manifest of the cells.

    DIR/manifest.json              the study, its hash, the cells, the versions that began it
    DIR/records/<cell>.parquet     one row per estimator, denominator and method
    DIR/states/<cell>.parquet      the per-state figures that the bootstrap needs
    DIR/diagnostics/<cell>.parquet the mismatch as rollouts of real models show it, with intervals
    DIR/normalizers/<cell>.parquet the ways to estimate Z, where a study compares them

A shard is written to a dot-file, flushed to disk and renamed, and `records` is written last: a shard
there means that the cell is finished, at whatever instant the run was killed.

Parameters of estimators have a column each, which their corrections name. Records of other versions may lack some
or have others: they are read all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.folders import StudyFolder
from jackpot_sim.studies.provenance import provenance
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.parameters import TYPES
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.rows import DIVERGENCES, SAMPLED, SEQUENCE_DIVERGENCES
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.worlds import TRAITS

_TEXT, _REAL, _WHOLE, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

_BEFORE_PARAMETERS, _AFTER_PARAMETERS = "batch_normalize", "acceptance_budget"
"""The columns of the records between which parameters of estimators stand."""

RECORDS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "env_kind", "base_kind", "knob_name")),
        ("knob", _REAL),
        ("target_divergence", _TEXT),
        *((name, _REAL) for name in ("target_kl", "achieved_kl", "achieved_kl_se")),
        *((name, _WHOLE) for name in ("vocab", "states", "length", "seed")),
        ("space", _TEXT),
        *((name, _TEXT) for name in ("estimator", "estimator_kind", "level", "masked_by", "target")),
        *((name, _FLAG) for name in ("rao_blackwell", "batch_normalize")),
        *((name, {float: _REAL, str: _TEXT, bool: _FLAG}[kind]) for name, kind in TYPES.items()),
        ("acceptance_budget", _REAL),
        ("budget_per_state", _FLAG),
        *((name, _TEXT) for name in ("denominator", "method")),
        *((name, _REAL) for name in (*DIVERGENCES, *SEQUENCE_DIVERGENCES)),
        *((f"{name}_se", _REAL) for name in (*DIVERGENCES, *SEQUENCE_DIVERGENCES)),
        ("prefix_total_variation", _REAL),
        *((name, _REAL) for name in SAMPLED),
        *((f"{name}_se", _REAL) for name in SAMPLED),
        *((f"bias_share_{name}", _REAL) for name in ("prefix", "continuation", "weight")),
        *((name, _REAL) for name in ("grad_norm_sq", "grad_norm_sq_se", "on_policy_variance", "noise_to_signal")),
        *((name, _WHOLE) for name in ("degenerate_states", "n_samples", "replicates")),
        *((name, _TEXT) for name in ("config_hash", "version", "numpy", "python", "commit")),
        *((name, _REAL) for name in ("seconds", "weight_seconds")),
    ]
)

STATES = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "estimator", "denominator")),
        ("state", _WHOLE),
        ("kl_policy_actor", _REAL),
        *((field.name, _REAL) for field in dataclasses.fields(StateStatistics)),
    ]
)

DIAGNOSTICS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "figure")),
        *((name, _REAL) for name in ("value", "se", "low", "high")),
        ("clusters", _WHOLE),
    ]
)

NORMALIZERS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "way")),
        ("k", _WHOLE),
        ("lam", _REAL),
        ("tokens", _WHOLE),
        *((name, _REAL) for name in ("overlap", "kept", "kept_se", "error", "error_se", "error_max")),
        *((name, _REAL) for name in ("above_one", "outside", "width", "bytes_per_token", "seconds")),
    ]
)

TABLES = {"records": RECORDS, "states": STATES, "diagnostics": DIAGNOSTICS, "normalizers": NORMALIZERS}

_OF_SOME_STUDIES = ("diagnostics", "normalizers")


def tables_of(study: Study) -> tuple[str, ...]:
    """The tables of a study's run, `records` last: its shard marks a cell as finished."""
    diagnostics = any(TRAITS[env.world].diagnostics for env in study.env)
    return (*(["diagnostics"] * diagnostics), *(["normalizers"] * (study.normalizers is not None)), "states", "records")


NOT_FIGURES = ("seconds", "weight_seconds", "version", "numpy", "python", "commit")
"""Columns of time and provenance, which may differ between two runs of one study."""


class RunDirectory:
    """The folder of one run of a study."""

    def __init__(self, root: Path, study: Study, cells: list[Cell]) -> None:
        self.root = root
        self._study, self._cells = study, cells
        self._folder, self._tables = _folder(root), tables_of(study)
        self._provenance = provenance()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """A block in which the folder, new or of the same study, is locked against other runs.

        Raises:
            StudyError: the folder holds another study or something else, is in use, or cannot be written.
        """
        with self._folder.claimed(self._study.config_hash):
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
                    _readable(shard, TABLES[table])
                done.add(cell.id)
        return done

    def write(self, measured: Measured) -> None:
        """Writes a finished cell.

        Raises:
            StudyError: the system refuses; nothing half-written is left.
        """
        name = f"{measured.cell.id}.parquet"
        origin = self._provenance | {"config_hash": self._study.config_hash}
        rows = pa.Table.from_pylist([row | origin for row in measured.rows], schema=RECORDS)
        states = STATES.empty_table()
        if columns := measured.state_rows:
            states = pa.table({field.name: columns[field.name] for field in STATES}, schema=STATES)
        tables = {"records": rows, "states": states}
        for folder in self._tables:
            table = tables.get(folder)
            if table is None:
                table = pa.Table.from_pylist(measured.tables.get(folder, []), schema=TABLES[folder])
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


def _folder(root: Path) -> StudyFolder:
    return StudyFolder(root, "run", lambda manifest: all(isinstance(each["cell"], str) for each in manifest["cells"]))


def load(root: Path, table: str = "records") -> pd.DataFrame:
    """A table of all finished cells of a run, in the manifest's order; empty if the run has no such table.

    Raises:
        StudyError: the folder holds no run, no cell is finished, or a shard cannot be read.
    """
    names = [cell["cell"] for cell in read_manifest(root)["cells"]]
    if not (root / table).is_dir() and table in _OF_SOME_STUDIES:
        empty: pd.DataFrame = TABLES[table].empty_table().to_pandas()
        return empty
    shards = [root / table / f"{name}.parquet" for name in names if (root / "records" / f"{name}.parquet").exists()]
    if not shards:
        raise StudyError(f"{root} holds no finished cell yet: run the study first")
    tables = [_read_shard(shard, TABLES[table]) for shard in shards]
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="default").to_pandas()
    return frame


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
        first, others, last = _parts(pq.read_schema(path))
        if (first, last) != (before, after):
            raise pa.ArrowInvalid("its columns are not those of this version")
        return pa.schema([*before, *pa.unify_schemas([pa.schema(parameters), pa.schema(others)]), *after])
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _parts(schema: pa.Schema) -> tuple[list[pa.Field], list[pa.Field], list[pa.Field]]:
    """The columns before the parameters of estimators, these, and the columns after them."""
    ends = schema.get_field_index(_BEFORE_PARAMETERS) + 1, schema.get_field_index(_AFTER_PARAMETERS)
    if min(ends) < 1:  # another table
        return list(schema), [], []
    fields = list(schema)
    return fields[: ends[0]], fields[ends[0] : ends[1]], fields[ends[1] :]


def _unreadable(path: Path, error: Exception) -> StudyError:
    reason = " ".join(str(error).split())[:120]
    return StudyError(f"shard {path} is missing, cut short or damaged ({reason}): delete it and run again to remake it")
