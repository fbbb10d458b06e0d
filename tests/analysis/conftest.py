"""One small study with everything in it that tables must cope with, run once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.run import run

STUDY = {
    "name": "small",
    "env": [
        {
            "kind": "logit-noise",
            "base": {"kind": ["zipf", "lm-like"], "vocab": 30, "states": 12},
            "target_kl": [0.01, 0.3],
        },
        # Support violations: infinite KL(policy‖actor).
        {"kind": "top-p", "base": {"kind": "zipf", "vocab": 30, "states": 12}, "p": 0.8},
    ],
    "seeds": 3,
    "n_samples": 64,
    "denominators": ["proposed", "accepted", "self_normalized"],
    "estimators": ["none", "is", {"kind": "tis", "clip": [2.0, 5.0]}, "obrs", "jackpot", "overlap-tis"],
}


class Run(NamedTuple):
    root: Path
    records: pd.DataFrame
    states: pd.DataFrame


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("small") / "run"
    run(spec.parse(STUDY), root, SerialExecutor())
    return Run(root, records.load(root), records.load(root, "states"))
