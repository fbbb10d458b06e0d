"""Records of training whose numbers are made up, so that what a figure should say of them is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jackpot_sim.studies.files import write_atomically
from jackpot_sim.training import records
from jackpot_sim.training.study import Run, Study, read
from paper_figures.training.records import Trained, config, of_folder


@dataclass(frozen=True)
class Fate:
    """What becomes of the runs of a method."""

    accuracy: float = 0.8
    """At the end; they begin at 0.3."""
    kl: float = 0.1
    """At the end; it begins at 0.05."""
    lost_at: int | None = None
    """Where the accuracy falls to 0."""
    diverges_at: int | None = None
    """Where the run ends with a reason."""
    stops_at: int | None = None
    """Where the run ends for having collapsed."""
    speed: float = 60.0
    """Steps until two thirds of the way."""
    figures: Mapping[str, float] | None = None
    """Further columns, constant."""


Fates = Mapping[str, Fate] | Callable[[str, str, int], Fate]
"""By method, or by setting, method and seed."""


def write(root: Path, name: str, fates: Fates, quick: bool = False, **overrides: Any) -> Path:
    """The folder of a finished study of the configuration `name`, with these fates and little noise."""
    return write_study(root, read(config(name), overrides, quick=quick), fates)


def write_study(root: Path, study: Study, fates: Fates) -> Path:
    """The same of any study."""
    tables, outcomes = [], []
    for run in study.runs:
        fate = fates[run.method] if isinstance(fates, Mapping) else fates(run.setting, run.method, run.seed)
        rows, reason = _rows(run, fate)
        table = records.steps(run, rows, reason)
        tables.append(table.replace_schema_metadata(None))
        outcomes.append(records.outcome(table, reason, run.training.steps))
    root.mkdir(parents=True)
    content = {"study": study.name, "config_hash": study.config_hash, "config": study.model_dump(mode="json")}
    (root / "manifest.json").write_text(json.dumps(content))
    write_atomically(root / "steps.parquet", lambda path: records.write(pa.concat_tables(tables), path))
    found = pa.Table.from_pylist(outcomes, schema=records.OUTCOMES)
    write_atomically(root / "outcomes.parquet", lambda path: records.write(found, path))
    return root


def made(root: Path, name: str, fates: Fates, quick: bool = False, **overrides: Any) -> Trained:
    """The same, read."""
    return of_folder(write(root, name, fates, quick, **overrides), quick)


def _rows(run: Run, fate: Fate) -> tuple[list[dict[str, float]], str]:
    """The rows of a run, and why it ended before its time."""
    generator, config = np.random.default_rng([run.seed, *run.id.encode()]), run.training
    common = 0.02 * np.random.default_rng(run.seed).standard_normal()  # a seed is lucky with every method
    rows: list[dict[str, float]] = []
    for step in range(config.steps + 1):
        if fate.diverges_at is not None and step >= fate.diverges_at:
            return rows, f"step {step}: training diverged"
        if fate.stops_at is not None and step > fate.stops_at:
            return rows, ""
        done = 1 - np.exp(-step / min(fate.speed, config.steps / 5))
        row: dict[str, float] = {"step": step}
        if step % config.evaluation.every == 0 or step == config.steps:
            accuracy = 0.3 + (fate.accuracy - 0.3) * done + common + 0.01 * generator.standard_normal()
            if fate.lost_at is not None and step >= fate.lost_at:
                accuracy = 0.01
            row |= {"accuracy": accuracy, "mean_at_k": accuracy - 0.02, "pass_at_k": accuracy + 0.1}
        if step < config.steps:
            kl = 0.05 * (fate.kl / 0.05) ** done * np.exp(0.05 * generator.standard_normal()) if fate.kl else 0.0
            row |= {"kl_policy_actor": kl, "acceptance_rate": 0.9, "reward": 0.5, **(fate.figures or {})}
        rows.append(row)
    return rows, ""
