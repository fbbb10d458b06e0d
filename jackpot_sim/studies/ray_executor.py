"""An executor over Ray: tasks of a study in processes on the nodes of a cluster, or of a local one.

Ray reruns the tasks of a node that died, three times at most, so that a task whose process dies wherever it runs ends
the study. Code is not shipped: every node has the same version of this package, which each worker checks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from typing_extensions import override

from jackpot_sim.requirements import imported, require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import WorkersLostError
from jackpot_sim.studies.ray_worker import Outcome, Setting, versions

P = ParamSpec("P")
T = TypeVar("T")

RETRIES = 3
ANSWERS_WITHIN = 3
"""Seconds in which a cluster answers, or is taken for absent."""
LOOK_EVERY, LOOKS = 1.0, 15
"""Seconds between two looks at a cluster, and the looks in a row that find none before it is taken for lost."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_oom_retries": str(RETRIES),  # without end by default
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # the lines of nodes that end, which are printed whatever is asked of Ray
}
_OF_A_CLUSTER = {"RAY_gcs_server_port_wait_time_s": str(ANSWERS_WITHIN)}
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""The first frame of either side of HTTP/2, which Ray speaks (RFC 9113, 3.4); its fourth byte is its kind."""
_UNAUTHENTICATED = ("Unauthenticated", "InvalidAuthToken", "AuthenticationError", "authentication token")


class RayExecutor(Executor):
    """An executor whose processes are Ray's.

    Attributes:
        workers: the processes that were asked for, or that the cluster has room for.
    """

    def __init__(self, ray: ModuleType, workers: int, threads: int, gpus: float) -> None:
        """Takes the module of a cluster that is connected, and the CPUs and GPUs to reserve for each process."""
        self.workers = workers
        self._call = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(_caller())
        self._setting = ray.put(pickle.dumps(Setting(tuple(versions().items()), str(Path.cwd()), threads, gpus)))
        self._pickled = ray.cloudpickle.dumps
        self._waiting: set[Future[Any]] = set()
        self._lost: WorkersLostError | None = None
        self._lock = threading.Lock()

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._waiting.add(future)
        reference = self._call.remote(self._pickled((fn, args, kwargs)), self._setting)
        reference.future().add_done_callback(lambda done: self._land(future, done))
        return future

    def _land(self, future: Future[Any], done: Future[bytes]) -> None:
        try:
            found: Outcome | str = pickle.loads(done.result())  # a text: of a node without this package
            outcome = Outcome(refusal=found) if isinstance(found, str) else found
        except Exception as error:
            outcome = Outcome(error=_of_ray(error))
        if outcome.refusal:
            outcome = Outcome(error=StudyError(outcome.refusal))
        with self._lock:
            if future not in self._waiting:  # the cluster was taken for lost
                return
            self._waiting.remove(future)
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)

    def lose(self, error: WorkersLostError) -> None:
        """Fails all tasks under way, and those to come: without a cluster Ray itself would wait for one."""
        with self._lock:
            self._lost, waiting = error, [*self._waiting]
            self._waiting.clear()
        for future in waiting:
            future.set_exception(error)


def _caller() -> Callable[[bytes, bytes], bytes]:
    """A function that Ray pickles with its code: it runs before anything of this package is imported there."""

    def call(task: bytes, setting: bytes) -> bytes:
        import pickle
        import platform

        try:
            from jackpot_sim.studies import ray_worker
        except ImportError as error:
            return pickle.dumps(
                f"node {platform.node()} cannot import this version of jackpot_sim ({error}): install it on every "
                "node, in the environment that `ray start` runs in"
            )
        return ray_worker.called(task, setting)

    return call


def _of_ray(error: Exception) -> Exception:
    """The error of a task that Ray gave up, in our words where they are known."""
    import ray.exceptions as known

    if isinstance(error, known.OutOfMemoryError):
        return WorkersLostError("a worker was ended for lack of memory", "reserve more --worker-threads for each")
    if isinstance(error, known.WorkerCrashedError | known.NodeDiedError):
        return WorkersLostError(
            f"a worker process died {RETRIES + 1} time{'s' * (RETRIES > 0)}, perhaps for lack of memory",
            "run the same command again, with more --worker-threads for each worker",
        )
    if isinstance(error, known.LocalRayletDiedError):
        return lost("Ray died on this machine")
    if isinstance(error, known.RayTaskError):  # of what stands around a task, whose own errors are in its outcome
        cause = error.cause
        return StudyError(
            f"a worker could not begin a task ({type(cause).__name__}: {' '.join(str(cause).split())}): install the "
            "same version of jackpot_sim on every node"
        )
    if isinstance(error, known.RayError):
        first = str(error).strip().splitlines()[0]
        return WorkersLostError(f"Ray gave a task up ({type(error).__name__}: {first})", "run the same command again")
    return error


def lost(reason: str) -> WorkersLostError:
    """The error of a cluster that is gone."""
    return WorkersLostError(
        f"the Ray cluster was lost ({reason})", "run the same command again once there is one, and it goes on"
    )


@contextlib.contextmanager
def opened(
    workers: int | None, local: int, *, threads: int = 1, gpus: float = 0.0, address: str | None = None
) -> Iterator[RayExecutor]:
    """An executor with processes of a cluster, which end with the block.

    Args:
        workers: the processes; None: as many as the cluster has room for.
        local: the processes for which a local cluster has room.
        threads: the CPUs that each reserves, and the most threads that it computes with.
        gpus: the GPUs that each reserves.
        address: HOST:PORT of the cluster, or auto for the one of this machine; None: a cluster that RAY_ADDRESS names,
            or else a local one is started.

    Raises:
        StudyError: there is no such cluster, its token is missing, or it has no room for a worker.
    """
    require("ray", purpose="--executor ray")
    told, address = "--ray-address" if address else "RAY_ADDRESS", address or os.environ.get("RAY_ADDRESS") or None
    _require_token()
    if address is not None:
        _require_answer(address, told)
    ray = _connected(address, None if address else local * threads)
    over = threading.Event()
    try:
        room = _room(ray, threads, gpus)
        executor = RayExecutor(ray, workers or room, threads, gpus)
        watch = threading.Thread(target=_watch, args=(executor, ray.get_runtime_context().gcs_address, over))
        watch.name, watch.daemon = "ray-watch", True
        watch.start()
        yield executor
    finally:
        over.set()
        with _hushed():
            ray.shutdown()


def _require_answer(address: str, told: str) -> None:
    """Refuses an address at which no Ray cluster answers; it was told by an option or a variable of that name."""
    if address == "auto":  # a cluster that was killed leaves its address, for which Ray waits minutes
        current = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        address = current.read_text(encoding="utf-8").strip() if current.is_file() else "auto"
        if not _answers(address):
            raise StudyError(f"{told} auto: no Ray cluster runs on this machine: start one with `ray start`")
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise StudyError(
            f"{told} {address}: give HOST:PORT of a cluster that this machine is a node of, as `ray start` "
            "prints it, or auto"
        )
    if not _answers(address):
        raise StudyError(
            f"nobody answers at {told} {address}: start a cluster with `ray start --head`, or leave {told} away to "
            "start a local one"
        )
    if not _speaks(address):
        raise StudyError(f"what answers at {told} {address} is no Ray cluster: give the port of `ray start --head`")


def _speaks(address: str) -> bool:
    """False where another server answers, for which Ray would wait two minutes; one that is silent may be Ray's."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    with contextlib.suppress(TimeoutError), _connection(address) as connection:
        try:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
            return connection.recv(9)[3:4] == _SETTINGS[3:4]
        except ConnectionError:
            return False
    return True


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN)


def _answers(address: str) -> bool:
    try:
        with _connection(address):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _connected(address: str | None, cpus: int | None) -> ModuleType:
    """Ray, connected to a cluster or with a local one of so many CPUs; its noise is heard by nobody.

    Raises:
        StudyError: it cannot be connected; the sentence tells a wrong token from another version.
    """
    environment = _ENVIRONMENT | (_OF_A_CLUSTER if address else {})
    with variables(environment), _hushed() as heard:
        ray = imported("ray")
        quiet: Mapping[str, object] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            if address is None:
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said = f"{error} {error.__cause__ or ''} {heard()}"
            if isinstance(error, ray.exceptions.AuthenticationError):  # before anybody was asked
                raise StudyError(
                    "RAY_AUTH_MODE is token, and there is no token here: give that of the cluster by "
                    "RAY_AUTH_TOKEN_PATH or as ~/.ray/auth_token"
                ) from error
            if any(sign in said for sign in _UNAUTHENTICATED):
                raise StudyError(
                    f"the Ray cluster at {address} asks for a token that is not this one's: set RAY_AUTH_MODE to the "
                    "same value on every node and here, and share the token (RAY_AUTH_TOKEN_PATH)"
                ) from error
            raise StudyError(f"Ray cannot be started: {str(error).strip().splitlines()[0]}") from error
    return ray


def _require_token() -> None:
    """Refuses a token that is none: one that is no text ends this process inside Ray, without a word.

    Raises:
        StudyError: see above.
    """
    token, path = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled" or not (token or path):
        return
    told, remedy = "RAY_AUTH_TOKEN is set to", "give what `ray get-auth-token` prints, or unset it"
    if not token:
        told = f"RAY_AUTH_TOKEN_PATH names {path}, in which there is"
        remedy = f"write one with `env -u RAY_AUTH_TOKEN_PATH ray get-auth-token --generate > {path}`, and share it"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            token = Path(str(path)).read_text(encoding="ascii").strip()
    if not (token and token.isascii() and token.isprintable()):
        raise StudyError(f"{told} no token: {remedy}")


def _room(ray: ModuleType, threads: int, gpus: float) -> int:
    """The workers that the nodes of a cluster have room for, whatever runs there now.

    Raises:
        StudyError: none has room for a worker, which would wait for ever.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [int(node.get("CPU", 0) / threads) for node in nodes]
    if gpus:
        rooms = [min(room, int(node.get("GPU", 0) / gpus)) for room, node in zip(rooms, nodes, strict=True)]
    if not sum(rooms):
        wanted = f"{threads} CPU{'s' * (threads > 1)}" + (f" and {gpus:g} GPU{'s' * (gpus > 1)}" if gpus else "")
        there = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise StudyError(f"no node of the Ray cluster has {wanted} for a worker, which would wait for ever: {there}")
    return sum(rooms)


@contextlib.contextmanager
def variables(changes: Mapping[str, str]) -> Iterator[None]:
    """A block with other environment variables; Ray reads its own when it is imported and when it starts."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _hushed() -> Iterator[Callable[[], str]]:
    """A block in which what is written to standard error, by C++ too, goes to a file; it gives the text so far."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)


def _watch(executor: RayExecutor, address: str, over: threading.Event) -> None:
    """Looks after the cluster, since Ray waits for one that is gone, and then ends this process without a word."""
    absent = 0
    while not over.wait(LOOK_EVERY):
        absent = 0 if _answers(address) else absent + 1
        if absent >= LOOKS:
            executor.lose(lost(f"nobody answers at {address}"))
            return
