"""A Ray executor on a cluster of this machine: what it runs, and what it refuses."""

from __future__ import annotations

import http.server
import os
import platform
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.studies import ray_executor, ray_worker
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, WorkersLostError, outliving_workers
from jackpot_sim.studies.workers import Workers
from tests.studies.nodes import NEEDED, Nodes
from tests.studies.nodes import cluster as cluster
from tests.studies.nodes import nodes as nodes

pytestmark = NEEDED

ROOT = Path(__file__).parents[2]


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


def test_a_node_without_this_package_says_so(tmp_path: Path) -> None:
    from ray import cloudpickle

    (tmp_path / "call").write_bytes(cloudpickle.dumps(ray_executor._caller()))
    program = (
        "import pathlib, pickle, sys; sys.modules['jackpot_sim'] = None; "
        "call = pickle.loads(pathlib.Path('call').read_bytes()); print(pickle.loads(call(b'', b'')))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.match(r"node .* cannot import this version of jackpot_sim \(.*\): install it on every node", done.stdout)


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
    name = "RAY_ADDRESS" if given == "variable" else "--ray-address"
    with pytest.raises(StudyError, match=f"^nobody answers at {name} {address}: "), asked.opened():
        pass
    assert time.monotonic() - began < ray_executor.ANSWERS_WITHIN + 2


def test_a_server_of_another_kind_is_refused_at_once() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = Workers(executor=ExecutorKind.RAY, ray_address=f"127.0.0.1:{server.server_port}")
        with pytest.raises(StudyError, match=r"^what answers at --ray-address .* is no Ray cluster: "), asked.opened():
            pass
        server.shutdown()


@pytest.mark.parametrize("left", ["nothing", "the address of a cluster that was killed"])
def test_a_machine_without_a_cluster_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if left != "nothing":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    asked = Workers(executor=ExecutorKind.RAY, ray_address="auto")
    with pytest.raises(StudyError, match=r"^--ray-address auto: no Ray cluster runs on this machine"), asked.opened():
        pass


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    asked = Workers(executor=ExecutorKind.RAY, ray_address=address)
    with pytest.raises(StudyError, match=f"^--ray-address {address}: give HOST:PORT"), asked.opened():
        pass


@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe", b"two\nlines"], ids=["no file", "empty", "no text", "lines"]
)
@pytest.mark.parametrize("mode", ["token", None])
def test_a_file_without_a_token_is_refused_with_the_line_that_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, mode: str | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", mode) if mode else monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    sentence = f"^RAY_AUTH_TOKEN_PATH names {path}, in which there is no token: .*ray get-auth-token --generate > "
    with pytest.raises(StudyError, match=sentence), Workers(executor=ExecutorKind.RAY).opened(1):
        pass
    monkeypatch.setenv("RAY_AUTH_TOKEN", "λ")
    with pytest.raises(StudyError, match=r"^RAY_AUTH_TOKEN is set to no token: "):
        ray_executor._require_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_executor._require_token()


def test_a_command_without_a_token_says_that_there_is_none(nodes: Nodes, tmp_path: Path) -> None:
    """In a process of its own, since Ray reads its variables once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    line = ["-m", "jackpot_sim.sweep", "--out", "run", "--seeds", "1", "--quiet", *nodes.options()]
    done = subprocess.run(
        [sys.executable, *line],
        cwd=tmp_path,
        env=environment | {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "sweep: RAY_AUTH_MODE is token, and there is no token here: give that of the cluster by RAY_AUTH_TOKEN_PATH "
        "or as ~/.ray/auth_token\n"
    )


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
