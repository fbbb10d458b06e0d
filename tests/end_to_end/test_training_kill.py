"""Training that is killed, at many instants and while files are written: the same command finishes it, exactly."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jackpot_sim.training import records
from jackpot_sim.training.cli import main
from jackpot_sim.training.loop import checkpoints
from tests.end_to_end import commands
from tests.end_to_end.commands import finish, kill_all, wait_until, workers
from tests.training.tiny import JACKPOT, MODES, TINY, assert_same, written

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")

start = partial(commands.start, module="jackpot_sim.training")

STEPS = 6
STUDY = TINY | {
    "steps": STEPS,
    "methods": {
        "stale": MODES["stale"],
        "joint": MODES["joint"] | {"update": {"epochs": 2}},
        "frozen": MODES["budget"],
    },
}
RUNS = [f"run.{method}.0" for method in ("stale", "joint", "frozen")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("kill") / "study.yaml", STUDY)


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """An uninterrupted run in this process, with the models that all others share."""
    root = config.parent / "whole"
    assert main([*options(config, root), "--executor", "serial"]) == 0
    return root


def options(config: Path, root: Path) -> list[str]:
    models = config.parent / "models"
    return ["--config", str(config), "--out", str(root), "--models", str(models), "--keep-policies", "--quiet"]


def steps_done(root: Path) -> int:
    """The steps behind the newest checkpoints, all of those of finished runs."""
    done = 0
    for run in RUNS:
        found = sorted((root / "runs" / run).glob("checkpoint-*.pt"))
        done += STEPS if (root / "runs" / run / "steps.parquet").exists() else int(found[-1].stem[-6:]) if found else 0
    return done


def assert_all_is_whole(root: Path) -> None:
    """Whatever has its last name can be read."""
    for run in RUNS:
        folder = root / "runs" / run
        for path in folder.glob("checkpoint-*.pt"):
            torch.load(path, weights_only=True)
        if (folder / "steps.parquet").exists():
            assert len(records.read(folder / "steps.parquet")[0]) == STEPS + 1


def assert_finished(root: Path, whole: Path) -> None:
    for run in RUNS:
        assert_same(root / "runs" / run, whole / "runs" / run)
        assert {path.name for path in (root / "runs" / run).iterdir()} == {
            "log.jsonl",
            "policy",
            "provenance.json",
            "steps.parquet",
        }
    assert {path.name for path in root.iterdir()} == {
        ".lock",
        "manifest.json",
        "outcomes.parquet",
        "runs",
        "steps.parquet",
    }


def test_kill_9_at_any_instant_is_made_good_by_the_same_command(config: Path, whole: Path, tmp_path: Path) -> None:
    """While models are made, after steps of each method, and while a checkpoint is written."""
    root, models = tmp_path / "study", tmp_path / "models"
    arguments = [*options(config, root), "--executor", "serial"]
    arguments[arguments.index("--models") + 1] = str(models)

    def killed(when: Callable[[], bool], delay: float = 0.0) -> None:
        process = start(*arguments)
        wait_until(when, process)
        time.sleep(delay)
        kill_all(process)
        code, _, error = finish(process)
        assert (code, error) == (-signal.SIGKILL, ""), "it was to be killed while it ran"
        assert_all_is_whole(root)

    killed(lambda: bool(list(models.glob("*/policy"))))
    killed(lambda: steps_done(root) >= 3, random.Random(5).uniform(0, 0.06))  # a step and its checkpoint take as long
    killed(lambda: steps_done(root) >= 13)
    # The half of a checkpoint has another name, and is cleared away; a half with its last name is passed over.
    folder = root / "runs" / RUNS[-1]
    newest = sorted(folder.glob("checkpoint-*.pt"))[-1]
    half = newest.read_bytes()[: newest.stat().st_size // 2]
    (folder / ".checkpoint-000099.pt.tmp").write_bytes(half)
    (folder / ".policy.tmp").mkdir()
    (folder / "checkpoint-000098.pt").write_bytes(half)  # as a broken disk might
    assert checkpoints.newest(folder) is not None
    assert main(arguments) == 0
    assert_finished(root, whole)


@pytest.mark.nightly
def test_workers_that_are_killed_or_interrupted_lose_nothing(config: Path, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "study"
    arguments = [*options(config, root), "--workers", "2"]
    process = start(*arguments)
    wait_until(lambda: steps_done(root) >= 1, process)
    os.kill(workers(process)[0], signal.SIGKILL)
    code, out, error = finish(process)
    assert (code, out) == (2, "")
    assert error.startswith("training: a worker process died")
    assert error.count("\n") == 1
    assert_all_is_whole(root)
    process = start(*arguments)
    wait_until(lambda: steps_done(root) >= 5, process)
    kill_all(process, signal.SIGINT)
    assert finish(process) == (130, "", "training: interrupted; the same command goes on from the checkpoints\n")
    assert workers(process) == []
    assert main([*options(config, root), "--executor", "serial"]) == 0
    assert_finished(root, whole)


def test_the_study_uses_every_state_that_a_checkpoint_holds() -> None:
    """Past weights, the optimiser of an actor, strengths that feedback moves, and a mask that is drawn."""
    assert STUDY["methods"]["stale"] | JACKPOT == STUDY["methods"]["stale"]
    assert STUDY["methods"]["joint"]["actor"]["distillation"]["feedback"]
    assert STUDY["methods"]["frozen"]["budget"]["feedback"]
