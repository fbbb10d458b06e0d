"""Studies on a Ray cluster of this machine: what they keep when nodes die, the command, or the whole cluster."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jackpot_sim.diagnose import one_pass
from jackpot_sim.diagnose.cli import main as diagnose
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.readers import build
from jackpot_sim.studies import plugins
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.studies.ray_executor import RayExecutor
from jackpot_sim.sweep import plan, records
from jackpot_sim.sweep.cli import main as sweep_here
from jackpot_sim.sweep.run import Progress, run
from tests.diagnose.test_cli import GOOD, rows
from tests.end_to_end.commands import finish, kill_all, start, wait_until
from tests.studies.nodes import NEEDED, Nodes, rays_children
from tests.studies.nodes import cluster as cluster
from tests.studies.nodes import nodes as nodes
from tests.sweep.studies import assert_same_run, run_serially, shards, small

pytestmark = NEEDED


# --- studies ----------------------------------------------------------------------------------------------


def test_a_sweep_outlives_a_node_with_each_cell_once_and_the_records_of_this_process(
    nodes: Nodes, tmp_path: Path
) -> None:
    study = small(seeds=14)
    assert len(plan.cells(study)) == 42
    run_serially(study, tmp_path / "serial")
    landed = []

    def report(progress: Progress) -> None:
        landed.append(progress.finished)
        if progress.finished == 8:
            threading.Thread(target=nodes.kill_one).start()

    with nodes.workers().opened() as (executor, width):
        run(study, tmp_path / "ray", executor, in_flight=2 * width, report=report)
    assert len(nodes.nodes) == 1
    assert landed == list(range(43))
    assert_same_run(tmp_path / "ray", tmp_path / "serial")
    assert not records.load(tmp_path / "ray").duplicated(["cell", "estimator", "denominator", "method"]).any()


def test_a_diagnosis_of_many_files_is_that_of_this_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home, name in ((registry, "_REGISTRY"), (plugins, "_LOADED"), (plugins, "_DIGESTS")):
        monkeypatch.setattr(home, name, dict(getattr(home, name)))
    submit, flying, most = RayExecutor.submit, list[Any](), []

    def watched(executor: RayExecutor, *task: Any) -> Any:
        flying.append(submit(executor, *task))
        most.append(sum(not each.done() for each in flying))
        return flying[-1]

    monkeypatch.setattr(RayExecutor, "submit", watched)
    monkeypatch.setattr(build, "full", partial(build.full, tokens=100))  # a table for each file
    for name in "abcdefghi":
        made = pd.DataFrame(rows(20)).assign(sequence=lambda table, n=name: n + table["sequence"].astype(str))
        made.to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "mine.py").write_text(GOOD, encoding="utf-8")
    reports = []
    for more in (["--executor", "serial"], nodes.options()):
        line = [str(tmp_path / "*.parquet"), "--quiet", "--json", str(tmp_path / "report.json"), *more]
        assert diagnose([*line, "--plugin", str(tmp_path / "mine.py")]) in (0, 1)
        reports.append((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert reports[0] == reports[1]
    assert len(flying) == 9
    assert max(most) <= 2 * one_pass.IN_FLIGHT + 1
    assert any(each["name"] == "probability-gap" for each in json.loads(reports[0])["corrections"])


@pytest.mark.nightly
def test_training_outlives_a_node_and_goes_on_from_its_checkpoint(nodes: Nodes, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from jackpot_sim.training.conduct import Options, conduct
    from jackpot_sim.training.conduct import Progress as Trained
    from tests.training.tiny import MODES, assert_same, study_of

    study = study_of({"steps": 60, "evaluation": {"every": 20}, "methods": {"stale": MODES["stale"]}})
    options = Options(models=tmp_path / "models")
    conduct(study, tmp_path / "serial", SerialExecutor(), options=options)
    (training,) = study.runs
    deaths = []

    def report(progress: Trained) -> None:
        if not deaths and progress.under_way.get(training.id, {}).get("step", 0) >= 2:
            deaths.append(progress.finished)
            nodes.kill_one()
            nodes.kill_one()
            nodes.be(1)

    with nodes.workers().opened(1) as (executor, width):
        conduct(study, tmp_path / "ray", executor, in_flight=width, options=options, report=report)
    assert deaths == [0]
    assert_same(tmp_path / "ray" / "runs" / training.id, tmp_path / "serial" / "runs" / training.id)


# --- the end of a command, and of its cluster -------------------------------------------------------------

LONG = {
    "env": {"kind": "logit-noise", "base": {"kind": "dirichlet", "vocab": 300, "states": 12}, "sigma": [0.1, 0.2, 0.3]},
    "estimators": ["none", "is", {"kind": "jackpot", "acceptance_rate": 0.9}],
    "seeds": 30,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in this process."""
    root = tmp_path_factory.mktemp("whole")
    (root / "study.yaml").write_text(json.dumps(LONG))
    assert sweep_here([*finishing(root), "--out", str(root / "run")]) == 0
    return root / "run"


def finishing(root: Path) -> list[str]:
    return ["--config", str(root / "study.yaml"), "--quiet", "--executor", "serial"]


@pytest.fixture
def sweeping(nodes: Nodes, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep on the cluster in `tmp_path / "run"` that has finished a cell and not all of them."""
    (tmp_path / "study.yaml").write_text(json.dumps(LONG))
    with start("--config", tmp_path / "study.yaml", "--out", tmp_path / "run", "--quiet", *nodes.options()) as process:
        try:
            wait_until(lambda: len(shards(tmp_path / "run")) >= 1, process)
            yield process
        finally:
            kill_all(process)


def assert_the_same_command_finishes(root: Path, whole: Path) -> None:
    assert 1 <= len(shards(root / "run")) < len(shards(whole)) == 90
    assert sweep_here([*finishing(root), "--out", str(root / "run")]) == 0
    assert_same_run(root / "run", whole)


def test_ctrl_c_ends_the_workers_in_one_sentence(
    sweeping: subprocess.Popen[str], nodes: Nodes, tmp_path: Path, whole: Path
) -> None:
    kill_all(sweeping, signal.SIGINT)
    assert finish(sweeping) == (130, "", "sweep: interrupted; the same command finishes the run\n")
    raylets = [info.process.pid for node in nodes.nodes for info in node.all_processes["raylet"]]
    deadline = time.monotonic() + 20
    while (left := rays_children(b"ray::call", raylets)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert_the_same_command_finishes(tmp_path, whole)


@pytest.mark.nightly
def test_the_end_of_the_cluster_is_one_sentence(  # and so the last test of its cluster
    sweeping: subprocess.Popen[str], nodes: Nodes, tmp_path: Path, whole: Path
) -> None:
    for node in (*nodes.nodes, nodes.cluster.head_node):
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    code, out, error = finish(sweeping)
    assert (code, out) == (2, "")
    sentence = r"sweep: the Ray cluster was lost \(.*\); finished cells are kept: run the same command again .* goes on"
    assert re.fullmatch(sentence, error.strip())
    assert_the_same_command_finishes(tmp_path, whole)
