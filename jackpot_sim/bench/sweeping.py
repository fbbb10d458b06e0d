"""The time of a whole sweep with one and two workers and on a Ray cluster, and the equality of its records."""

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
from jackpot_sim.requirements import require
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.studies.workers import Workers
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


CELLS = 500
_NODES = 2


def cluster(cells: int = CELLS, rounds: int = 3) -> Iterator[Finding]:
    """The time of a sweep on a Ray cluster of two nodes over that with loky's processes, on the same processors.

    Each time is that of all that a user waits for, but for the start of the cluster: workers are started in it. Each
    node has one processor, and a third node, which runs no cell, holds the cluster together.
    """
    study, figures = _small_cells(cells), {}
    seconds: dict[str, list[float]] = {"loky": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder, _two_nodes() as address:
        asked = {
            "loky": Workers(executor=ExecutorKind.LOKY, workers=_NODES),
            "ray": Workers(executor=ExecutorKind.RAY, ray_address=address),
        }
        for number in range(rounds):
            for name in sorted(asked, reverse=bool(number % 2)):
                root, started = Path(folder) / f"{name}{number}", time.perf_counter()
                with asked[name].opened(cells) as (executor, width):
                    run(study, root, executor, in_flight=2 * width)
                seconds[name].append(time.perf_counter() - started)
                figures[name] = records.load(root).drop(columns=list(schema.NOT_FIGURES))
    for name, each in seconds.items():
        yield Finding.over_rounds(f"{cells} cells, {name}, {_NODES} workers", each, "s")
    yield Finding("records identical for loky and ray", float(_identical(*figures.values())), at_least=1)
    note = "" if cells == CELLS else f"no target: of {CELLS} cells"
    in_rounds = ratios(seconds["ray"], seconds["loky"])
    yield Finding.over_rounds("ray / loky", in_rounds, at_most=None if note else 1.15, note=note)


def _small_cells(count: int) -> Study:
    """A study of cells that take a twentieth to a fifth of a second each, as many cells of real sweeps do."""
    return spec.parse(
        {
            "name": "cluster",
            "env": {
                "kind": "logit-noise",
                "base": {"kind": "lm-like", "vocab": 1000, "states": 32},
                "target_kl": [0.01, 0.1],
            },
            "estimators": ["none", {"kind": "tis", "clip": [1.5, 2, 5]}, "mis", "obrs", "jackpot"],
            "seeds": count // 2,
        }
    )


@contextlib.contextmanager
def _two_nodes() -> Iterator[str]:
    """The address of a cluster of this machine, which ends with the block.

    Ray's workers are nice to other programs by default, and loky's are not: on a busy machine that alone would decide.
    """
    require("ray", purpose="the benchmark cluster")
    from jackpot_sim.studies.ray_executor import variables

    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with variables(environment):
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(_NODES):
                made.add_node(num_cpus=1)
            yield str(made.address)
        finally:
            made.shutdown()  # type: ignore[no-untyped-call]


def _identical(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    except AssertionError:
        return False
    return True
