"""The options about workers: what goes together, how many there are, and that they are the same for all commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from jackpot_sim.diagnose.cli import main as diagnose
from jackpot_sim.studies import ray_executor
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind
from jackpot_sim.studies.workers import ALONE, DEFAULT, Workers
from jackpot_sim.sweep.cli import main as sweep
from jackpot_sim.training.cli import main as training

RAY, LOKY, SERIAL = ExecutorKind.RAY, ExecutorKind.LOKY, ExecutorKind.SERIAL

COMMANDS = {"sweep": sweep, "training": training, "diagnose": diagnose}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": 0}, "--workers must be at least 1, got 0"),
        ({"executor": SERIAL, "workers": 2}, "--workers 2 cannot go with --executor serial"),
        ({"worker_threads": 0}, "--worker-threads must be at least 1, got 0"),
        ({"executor": SERIAL, "worker_threads": 2}, "--worker-threads cannot go with --executor serial"),
        ({"worker_threads": 99999}, "--worker-threads 99999 leaves no room for a worker: this machine has"),
        ({"executor": RAY, "worker_threads": 99999}, "--worker-threads 99999 leaves no room for a worker"),
        ({"ray_address": "head:6379"}, "--ray-address head:6379 goes with --executor ray"),
        ({"executor": LOKY, "ray_address": "head:6379"}, "--ray-address head:6379 goes with --executor ray"),
        ({"worker_gpus": 1.0}, "--worker-gpus 1 goes with --executor ray"),
        ({"executor": RAY, "worker_gpus": 1.5}, "--worker-gpus must be a whole number, or a part of one GPU, got 1.5"),
        ({"executor": RAY, "worker_gpus": -1.0}, "--worker-gpus must be .* got -1"),
        ({"executor": RAY, "worker_gpus": float("nan")}, "--worker-gpus must be .* got nan"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=f"^{sentence}"):
        Workers(**given).check()
    with pytest.raises(StudyError, match=f"^{sentence}"), Workers(**given).opened(1):
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a Ray executor was opened with, by name; none is."""
    found: dict[str, Any] = {}

    @contextlib.contextmanager
    def opened(workers: int | None, local: int, **options: Any) -> Iterator[SimpleNamespace]:
        found.update(options)
        yield SimpleNamespace(workers=3)

    monkeypatch.setattr(ray_executor, "opened", opened)
    return found


@pytest.mark.parametrize("variable", ["", "head:6379"])
def test_workers_of_a_cluster_may_take_more_than_this_machine_has(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], variable: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    given = None if variable else "head:6379"
    with Workers(executor=RAY, worker_threads=99999, ray_address=given).opened(5) as pool:
        assert pool.width == 3
    assert (asked["threads"], asked["address"]) == (99999, given)


@pytest.mark.parametrize("gpus", [0.0, 0.25, 1.0, 8.0])
def test_whole_gpus_and_parts_of_one_can_be_reserved(asked: dict[str, Any], gpus: float) -> None:
    with Workers(executor=RAY, worker_gpus=gpus).opened(2) as pool:
        assert pool.width == 2
    assert asked["gpus"] == gpus


@pytest.mark.parametrize("name", COMMANDS)
def test_all_commands_take_them(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[name](["--help"]) == 0
    told = capsys.readouterr().out
    for option in ("--executor", "--workers", "--ray-address", "--worker-threads", "--worker-gpus"):
        assert option in told
    line = ["--worker-gpus", "0.5", *(["--example"] if name == "diagnose" else [])]
    assert COMMANDS[name](line) == 2
    assert capsys.readouterr().err == f"{name}: --worker-gpus 0.5 goes with --executor ray\n"


def test_a_worker_of_several_threads_takes_as_many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    with Workers(worker_threads=8).opened(5) as (executor, width):
        assert width == 1
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "8"
    assert Workers(worker_threads=8).is_alone
    assert not Workers(worker_threads=3).is_alone


def test_what_is_given_is_told_from_nothing() -> None:
    assert not DEFAULT
    assert not Workers()
    assert ALONE
    assert Workers(worker_threads=2)
    assert Workers().otherwise(LOKY) == Workers(executor=LOKY)
    assert ALONE.otherwise(LOKY) is ALONE
