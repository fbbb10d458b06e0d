"""Kills, of all processes and of one, at many instants: the same command finishes the run, exactly."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.sweep import records
from jackpot_sim.sweep.cli import main
from tests.end_to_end.commands import finish, kill_all, start, sweep, wait_until, workers
from tests.sweep.studies import assert_same_run, shards

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")

STUDY: dict[str, Any] = {
    "env": {
        "kind": "logit-noise",
        "base": {"kind": "dirichlet", "vocab": 300, "states": 24},
        "sigma": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    },
    "estimators": ["none", "is", {"kind": "jackpot", "acceptance_rate": 0.9}],
    "seeds": 2,
    "methods": ["exact", "monte_carlo"],
    "n_samples": 64,
    "replicates": 16,
}
CELLS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kill") / "study.yaml"
    path.write_text(json.dumps(STUDY))
    return path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """An uninterrupted run in this process."""
    root = config.parent / "whole"
    assert main(["--config", str(config), "--out", str(root), "--executor", "serial", "--quiet"]) == 0
    return root


@pytest.fixture
def running(config: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of two workers in `tmp_path / "run"` that has finished a cell and not all of them."""
    with start("--config", config, "--out", tmp_path / "run", "--workers", "2") as process:
        try:
            wait_until(lambda: len(shards(tmp_path / "run")) >= 1, process)
            yield process
        finally:
            kill_all(process)


def resume(config: Path, root: Path) -> None:
    """The same command in this process: that processes can go on too is the first test's to show."""
    assert main(["--config", str(config), "--out", str(root), "--executor", "serial", "--quiet"]) == 0


def wait_for_the_end_of_workers(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while workers(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers(process) == []


def all_shards_are_whole(root: Path) -> bool:
    return not shards(root) or len(records.load(root)) == 6 * len(shards(root))


def test_kill_9_at_any_instant_loses_no_finished_cell(config: Path, whole: Path, tmp_path: Path) -> None:
    """The kill of its workers with it, and of the command alone, which they do not outlive."""
    root, chance = tmp_path / "run", random.Random(11)
    kills = [(0, 0.4), *((cells, chance.uniform(0, 0.15)) for cells in (1, 4, 8))]
    for cells, delay in kills:
        alone = cells == 4
        process = start("--config", config, "--out", root, "--workers", "2")
        if cells:
            wait_until(lambda cells=cells: len(shards(root)) >= cells, process)  # type: ignore[misc]
        time.sleep(delay)
        if alone:
            assert len(workers(process)) == 2
            process.kill()
        else:
            kill_all(process)
        code, _, error = finish(process)
        wait_for_the_end_of_workers(process)
        assert code == -signal.SIGKILL, "it was to be killed while it ran"
        assert error == "" or alone, "only loky's tracker, which outlives the command, tells of semaphores left"
        assert "Traceback" not in error
        finished = len(shards(root))
        assert cells <= finished < CELLS
        assert all_shards_are_whole(root)
    before = {shard: shard.stat().st_mtime_ns for shard in shards(root)}
    code, _, error = sweep("--config", config, "--out", root, "--workers", "2", "--quiet")
    assert (code, error) == (0, "")
    assert {shard: shard.stat().st_mtime_ns for shard in before} == before, "finished cells are not measured again"
    assert_same_run(root, whole)


def test_a_second_run_is_refused_and_harms_nothing_and_ctrl_c_exits_with_130_and_one_sentence(
    config: Path,
    whole: Path,
    tmp_path: Path,
    running: subprocess.Popen[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.killpg(running.pid, signal.SIGSTOP)
    try:
        refused = main(["--config", str(config), "--out", str(tmp_path / "run"), "--executor", "serial"])
    finally:
        os.killpg(running.pid, signal.SIGCONT)
    told = capsys.readouterr()
    assert (refused, told.out) == (2, "")
    assert told.err.startswith("sweep: another run is writing to ")
    assert told.err.count("\n") == 1
    began = time.monotonic()
    kill_all(running, signal.SIGINT)
    code, out, error = finish(running)
    assert (code, out, error) == (130, "", "sweep: interrupted; the same command finishes the run\n")
    assert time.monotonic() - began < 10
    assert workers(running) == []
    assert all_shards_are_whole(tmp_path / "run")
    resume(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_worker_that_is_killed_ends_the_run_in_one_sentence(
    config: Path, whole: Path, tmp_path: Path, running: subprocess.Popen[str]
) -> None:
    os.kill(workers(running)[0], signal.SIGKILL)
    code, out, error = finish(running)
    assert (code, out) == (2, "")
    assert error.startswith("sweep: a worker process died")
    assert error.count("\n") == 1
    assert all_shards_are_whole(tmp_path / "run")
    resume(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


def test_a_failing_cell_does_not_wait_for_long_ones(tmp_path: Path) -> None:
    """The bad cell is found at once; the good one would take minutes."""
    long = {"kind": "dirichlet", "vocab": 20000, "states": 200}
    config = tmp_path / "study.yaml"
    bad = {"kind": "temperature", "base": {"kind": "dirichlet", "vocab": 9, "states": 2}, "target_kl": 1e9}
    study = STUDY | {"env": [{"kind": "logit-noise", "base": long, "sigma": 0.1}, bad], "seeds": 1, "n_samples": 5000}
    config.write_text(json.dumps(study | {"replicates": 200}))
    began = time.monotonic()
    process = start("--config", config, "--out", tmp_path / "run", "--workers", "2")
    code, _, error = finish(process, timeout=60)
    assert code == 2
    assert "unattainable" in error
    assert error.count("\n") == 1
    assert time.monotonic() - began < 30
    assert workers(process) == []


def test_a_finished_cell_is_on_disk_before_the_next_begins_in_this_process(tmp_path: Path) -> None:
    """The second cell would take minutes; serial is the executor of real models, and of one worker."""
    kind, long = {"kind": "logit-noise", "sigma": 0.1}, {"kind": "dirichlet", "vocab": 20000, "states": 200}
    env = [kind | {"base": {"kind": "dirichlet", "vocab": 9, "states": 2}}, kind | {"base": long}]
    config, root = tmp_path / "study.yaml", tmp_path / "run"
    config.write_text(json.dumps(STUDY | {"env": env, "seeds": 1, "n_samples": 5000, "replicates": 200}))
    with start("--config", config, "--out", root, "--executor", "serial") as process:
        try:
            wait_until(lambda: bool(shards(root)), process, timeout=30)
        finally:
            kill_all(process)
    assert len(records.load(root)) == 6
