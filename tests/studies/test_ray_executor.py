"""A Ray executor on a cluster of this machine: what it runs and refuses, and what a study keeps when nodes die."""

from __future__ import annotations

import contextlib
import json
import os
import platform
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
from jackpot_sim.studies import plugins, ray_executor, ray_worker
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, SerialExecutor, WorkersLostError, outliving_workers
from jackpot_sim.studies.ray_executor import RayExecutor
from jackpot_sim.studies.workers import Workers
from jackpot_sim.sweep import plan, records
from jackpot_sim.sweep.run import Progress, run
from tests.diagnose.test_cli import GOOD, rows
from tests.sweep.studies import assert_same_run, run_serially, small

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")

SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 3}
"""Ray's own settings, so that a node that was killed is taken for dead within seconds."""


class Nodes:
    """A cluster whose nodes are processes of this machine, of one CPU each; the head runs no task."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]

    def workers(self, **more: Any) -> Workers:
        return Workers(executor=ExecutorKind.RAY, ray_address=self.cluster.address, **more)

    def options(self) -> list[str]:
        return ["--executor", "ray", "--ray-address", self.cluster.address]

    def kill_one(self) -> None:
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def be(self, count: int) -> None:
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        made = Nodes(2)
        yield made
        made.cluster.shutdown()
    deadline = time.monotonic() + 10
    while (left := rays_children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a process of Ray outlived its cluster"


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Two nodes, whatever the tests before have killed."""
    cluster.be(2)
    return cluster


def rays_children() -> list[str]:
    """The processes of Ray that this one has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line, parent = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rsplit(") ")[1].split()[1]
            if parent == str(os.getpid()) and (b"/ray/" in line or b"ray::" in line):
                found.append(line.decode())
    return found


# --- tasks ------------------------------------------------------------------------------------------------


def test_tasks_run_on_both_nodes_where_the_command_does_and_errors_are_the_futures(nodes: Nodes) -> None:
    with nodes.workers().opened() as (executor, width):
        assert width == 2
        asked = [executor.submit(where, 0.5) for _ in range(4)]
        parents, folders, threads, gpus = map(set, zip(*(each.result(60) for each in asked), strict=True))
        assert len(parents) == 2
        assert folders == {str(Path.cwd())}
        assert threads == {"1"}
        assert gpus == {""}
        with pytest.raises(ValueError, match="invalid literal"):
            executor.submit(int, "x").result(60)
        with pytest.raises(StudyError, match="of a worker"):
            executor.submit(fail).result(60)
    assert not ray_executor_threads()


def where(seconds: float) -> tuple[int, str, str | None, str | None]:
    """The node's process, the working folder, and what a library would read of threads and GPUs."""
    time.sleep(seconds)
    return os.getppid(), str(Path.cwd()), os.getenv("OMP_NUM_THREADS"), os.getenv("CUDA_VISIBLE_DEVICES")


def fail() -> None:
    raise StudyError("of a worker")


def ray_executor_threads() -> list[str]:
    time.sleep(ray_executor.LOOK_EVERY / 2)
    return [each.name for each in threading.enumerate() if each.name == "ray-watch" and each.is_alive()]


def test_a_task_whose_process_always_dies_ends_the_study_in_one_sentence(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "RETRIES", 0)
    with (
        pytest.raises(
            StudyError, match=r"^a worker process died 1 time, .*; cells are kept: run the same command again"
        ),
        outliving_workers("cells are kept"),
        nodes.workers().opened() as (executor, _),
    ):
        executor.submit(os.abort).result(60)


@pytest.mark.parametrize("name", ["jackpot-sim", "numpy"])
def test_a_node_with_other_code_is_refused(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    here = ray_worker.versions()
    monkeypatch.setattr(ray_executor, "versions", lambda: {**here, name: "0.0.1 with code ab"})
    sentence = f"^node {platform.node()} has {name} {here[name]} where this one has 0.0.1 with code ab: install"
    with nodes.workers().opened() as (executor, _), pytest.raises(StudyError, match=sentence):
        executor.submit(int).result(60)


def test_a_node_whose_code_fails_before_the_check_is_no_lost_cluster() -> None:
    """An older package has no such function, or cannot load the setting that its versions are compared with."""
    known = pytest.importorskip("ray.exceptions")
    error = known.RayTaskError("call", "traceback", AttributeError("module has no attribute 'called'"))
    found = ray_executor._of_ray(error.as_instanceof_cause())
    assert isinstance(found, StudyError)
    assert "(AttributeError: module has no attribute 'called'): install the same version" in str(found)


def test_the_code_of_the_package_has_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    monkeypatch.setattr(ray_worker, "PACKAGE", tmp_path)
    first = ray_worker.versions()["jackpot-sim"]
    assert first == ray_worker.versions()["jackpot-sim"]
    (tmp_path / "a.py").write_text("x = 2")
    assert first != ray_worker.versions()["jackpot-sim"]


# --- clusters that cannot be had --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "lacking"), [({"worker_threads": 2}, "2 CPUs"), ({"worker_gpus": 0.5}, "1 CPU and 0.5 GPU")]
)
def test_a_cluster_without_room_for_a_worker_is_refused(nodes: Nodes, more: dict[str, Any], lacking: str) -> None:
    sentence = (
        rf"^no node of the Ray cluster has {lacking} for a worker, which would wait for ever: .*1 CPUs and 0 GPUs"
    )
    with pytest.raises(StudyError, match=sentence), nodes.workers(**more).opened():
        pass


@pytest.mark.parametrize("given", ["option", "variable"])
def test_an_address_where_nobody_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    address = "127.0.0.1:9"
    monkeypatch.setenv("RAY_ADDRESS", address if given == "variable" else "")
    asked = Workers(executor=ExecutorKind.RAY, ray_address=address if given == "option" else None)
    began = time.monotonic()
    with pytest.raises(StudyError, match=f"^nobody answers at --ray-address {address}: "), asked.opened():
        pass
    assert time.monotonic() - began < ray_executor.ANSWERS_WITHIN + 2


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    asked = Workers(executor=ExecutorKind.RAY, ray_address=address)
    with pytest.raises(StudyError, match=f"^--ray-address {address}: give HOST:PORT"), asked.opened():
        pass


def test_a_missing_ray_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "require", lambda name, purpose: pytest.fail(f"{purpose} needs {name}"))
    with (
        pytest.raises(pytest.fail.Exception, match="--executor ray needs ray"),
        Workers(executor=ExecutorKind.RAY).opened(),
    ):
        pass


def test_a_cluster_that_is_lost_fails_what_runs_and_what_comes(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(ray_executor, "LOOKS", 3)
    with nodes.workers().opened() as (executor, _):
        running = executor.submit(time.sleep, 3)
        monkeypatch.setattr(ray_executor, "_answers", lambda address: False)
        with pytest.raises(WorkersLostError):
            running.result(2)
        with (
            pytest.raises(
                StudyError, match=r"^the Ray cluster was lost \(nobody answers at .*\); all is well: run the"
            ),
            outliving_workers("all is well"),
        ):
            executor.submit(int)


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
