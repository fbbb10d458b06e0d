"""Small studies, and what it means that two runs of one are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import records, schema, spec
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study

BASE = {"kind": "dirichlet", "vocab": 12, "states": 3}

SMALL: dict[str, Any] = {
    "env": [
        {"kind": "logit-noise", "base": BASE, "sigma": [0.2, 0.5]},
        {"kind": "top-k", "base": {"kind": "zipf", "vocab": 12, "states": 3}, "k": 6},
    ],
    "estimators": ["is", {"kind": "tis", "clip": 1.5}, {"kind": "jackpot", "acceptance_rate": 0.9}],
    "seeds": 2,
    "methods": ["exact", "monte_carlo"],
    "n_samples": 16,
    "replicates": 4,
}
"""Six cells of milliseconds each."""


def small(**changes: Any) -> Study:
    return spec.parse(SMALL | changes)


def run_serially(study: Study, root: Path) -> Path:
    run(study, root, SerialExecutor())
    return root


def figures(root: Path, table: str = "records") -> pd.DataFrame:
    """A table without what may differ between two runs of one study."""
    return records.load(root, table).drop(columns=list(schema.NOT_FIGURES), errors="ignore")


def assert_same_run(found: Path, expected: Path) -> None:
    """Both tables equal to the last bit, in the same order, and nothing half-written beside them."""
    for table in ("records", "states"):
        pd.testing.assert_frame_equal(figures(found, table), figures(expected, table), check_exact=True)
    assert leftovers(found) == []


def leftovers(root: Path) -> list[Path]:
    """Files that a run should not leave: all dot-files but the lock."""
    return [path for path in root.rglob(".*") if path.name != ".lock"]


def shards(root: Path, table: str = "records") -> list[Path]:
    return sorted((root / table).glob("*.parquet"))
