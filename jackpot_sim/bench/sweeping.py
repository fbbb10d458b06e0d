"""The time of a whole sweep with one and two workers, and the equality of its records."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from jackpot_sim.bench.timing import Finding
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.sweep import records, schema, spec
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study

_ARRANGEMENTS = {
    "serial": (ExecutorKind.SERIAL, 1),
    "1 worker": (ExecutorKind.LOKY, 1),
    "2 workers": (ExecutorKind.LOKY, 2),
}


def _study() -> Study:
    """A study with enough cells for an even split, each heavy enough that the start of workers is negligible."""
    return spec.parse(
        {
            "name": "bench",
            "env": {
                "kind": "logit-noise",
                "base": {"kind": "lm-like", "vocab": 4000, "states": 64},
                "target_kl": [0.001, 0.01, 0.1],
            },
            "estimators": ["none", {"kind": "tis", "clip": [1.5, 2, 5]}, "mis", "obrs", "jackpot"],
            "seeds": 32,
        }
    )


def workers() -> Iterator[Finding]:
    """The time of a study in three arrangements, whose records must be equal bit for bit."""
    study, seconds, figures = _study(), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, count) in _ARRANGEMENTS.items():
            root = Path(folder) / name.replace(" ", "-")
            started = time.perf_counter()
            with opened(kind, count) as executor:
                run(study, root, executor, in_flight=2 * count)
            seconds[name] = time.perf_counter() - started
            figures[name] = records.load(root).drop(columns=list(schema.NOT_FIGURES))
            yield Finding(f"sweep, {name}", seconds[name], "s")
    same = all(_identical(figures["serial"], other) for other in figures.values())
    yield Finding("records identical for serial, 1 and 2 workers", float(same), at_least=1)
    yield Finding("1 worker / 2 workers", seconds["1 worker"] / seconds["2 workers"], "x", at_least=1.6)


def _identical(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    except AssertionError:
        return False
    return True
