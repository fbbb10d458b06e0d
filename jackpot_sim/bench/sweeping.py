"""The time of a whole sweep with one and two workers, and the equality of its records."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from jackpot_sim.bench.machine import idle_processors
from jackpot_sim.bench.timing import Finding, in_turn, ratios
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.sweep import records, schema, spec
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study

_ARRANGEMENTS = {
    "serial": (ExecutorKind.SERIAL, 1),
    "1 worker": (ExecutorKind.LOKY, 1),
    "2 workers": (ExecutorKind.LOKY, 2),
}


_NEEDED, _IDLE = 2, 1.7
"""The processors that two workers need, and the number that must be idle before for their speed to be judged."""


def _study() -> Study:
    """A study with enough cells for an even split, each heavy enough that handing it out is negligible."""
    return spec.parse(
        {
            "name": "bench",
            "env": {
                "kind": "logit-noise",
                "base": {"kind": "lm-like", "vocab": 4000, "states": 64},
                "target_kl": [0.001, 0.01, 0.1],
            },
            "estimators": ["none", {"kind": "tis", "clip": [1.5, 2, 5]}, "mis", "obrs", "jackpot"],
            "seeds": 8,
        }
    )


def workers(rounds: int = 5) -> Iterator[Finding]:
    """The time of a study in three arrangements, in turn, whose records must be equal bit for bit.

    Workers are started before, and their time is that of the clock on the wall.
    """
    free = idle_processors()
    study, figures = _study(), {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pools = {name: stack.enter_context(opened(kind, count)) for name, (kind, count) in _ARRANGEMENTS.items()}

        def swept(name: str) -> None:
            root = Path(tempfile.mkdtemp(dir=folder))
            run(study, root, pools[name], in_flight=2 * _ARRANGEMENTS[name][1])
            figures[name] = records.load(root).drop(columns=list(schema.NOT_FIGURES))

        candidates = {name: partial(swept, name) for name in _ARRANGEMENTS}
        seconds = in_turn(candidates, rounds, time.perf_counter)
    for name, each in seconds.items():
        yield Finding.over_rounds(f"sweep, {name}", each, "s")
    same = all(_identical(figures["serial"], other) for other in figures.values())
    yield Finding("records identical for serial, 1 and 2 workers", float(same), at_least=1)
    note = (
        "" if free >= _IDLE else f"no target: {free:.1f} processors were idle at first, and two workers need {_NEEDED}"
    )
    in_rounds = ratios(seconds["1 worker"], seconds["2 workers"])
    yield Finding.over_rounds("1 worker / 2 workers", in_rounds, at_least=None if note else 1.6, note=note)


def _identical(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    except AssertionError:
        return False
    return True
