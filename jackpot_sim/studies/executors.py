"""Executors of a study, and the way of its tasks through them; nothing else knows which executor it has."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from enum import StrEnum
from typing import Generic, NamedTuple, ParamSpec, TypeVar

from threadpoolctl import threadpool_limits
from typing_extensions import override

from jackpot_sim.studies.errors import StudyError

P = ParamSpec("P")
T = TypeVar("T")


class ExecutorKind(StrEnum):
    """The executors of a study."""

    SERIAL = "serial"
    LOKY = "loky"
    RAY = "ray"


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""The variables that say how many threads a library computes with when it is loaded."""


class WorkersLostError(BrokenExecutor):
    """The end of an executor's processes: what happened, and the remedy, each a clause."""


def processes(kind: ExecutorKind | None, workers: int | None, tasks: int, threads: int = 1) -> int:
    """The number of processes for some tasks, as the options --executor and --workers ask for them.

    Raises:
        StudyError: the options contradict each other.
    """
    if workers is not None and workers < 1:
        raise StudyError(f"--workers must be at least 1, got {workers}")
    if kind is ExecutorKind.SERIAL and workers not in (None, 1):
        raise StudyError(f"--workers {workers} cannot go with --executor serial, which runs in this process alone")
    return 1 if kind is ExecutorKind.SERIAL else min(workers or max(1, (os.cpu_count() or 1) // threads), tasks)


class SerialExecutor(Executor):
    """An executor that runs each task at once, in the caller's process."""

    @override
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def opened(kind: ExecutorKind, workers: int, threads: int = 1) -> Iterator[Executor]:
    """An executor with `workers` processes of this machine, which are ended if the block fails.

    Args:
        kind: serial or loky; `Workers` opens any.
        workers: the processes.
        threads: the most threads that each computes with.
    """
    if kind is ExecutorKind.SERIAL:
        yield SerialExecutor()
        return
    from loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(
        max_workers=workers,
        initializer=_begin_worker,
        initargs=(os.getpid(), threads),
        env=dict.fromkeys(THREADS, str(threads)),
    )
    try:
        yield _Unheard(executor)
    except BaseException:
        with _unlogged():
            executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


class Task(NamedTuple, Generic[T]):
    """A call to hand out."""

    name: str
    work: Callable[..., T]
    arguments: tuple[object, ...]


def landing(
    tasks: Iterable[Task[T]],
    executor: Executor,
    in_flight: int,
    look: Callable[[Sequence[str]], None] = lambda names: None,
    *,
    every: float | None = None,
) -> Iterator[tuple[str, Future[T]]]:
    """Hands tasks out, `in_flight` at a time, and gives each that has ended before it hands out another.

    Of tasks that end together, errors come last.

    Args:
        tasks: the calls, in order.
        executor: runs them.
        in_flight: tasks handed out at a time.
        look: called with the names of the tasks that run.
        every: seconds between two calls of `look`; None: it is called where a task begins or ends alone.

    Raises:
        BrokenExecutor: a process of the executor died, see `outliving_workers`.
    """
    flying: dict[Future[T], str] = {}
    queue = iter(tasks)
    # Tasks that fly when this is left early are for the executor's owner to end: a future that is cancelled here
    # and then failed by an executor that shuts down makes loky print a traceback.
    while True:
        # An executor that runs a task at once has its result here, which must not wait for the next one's.
        while len(flying) < in_flight and not any(map(Future.done, flying)) and (task := next(queue, None)) is not None:
            look([*flying.values(), task.name])
            flying[executor.submit(task.work, *task.arguments)] = task.name
        if not flying:
            return
        landed, _ = wait(flying, timeout=every, return_when=FIRST_COMPLETED)
        look(list(flying.values()))
        for future in sorted(landed, key=_failed):  # an error must not lose the results that landed beside it
            yield flying.pop(future), future


def _failed(future: Future[T]) -> bool:
    return future.exception() is not None


@contextlib.contextmanager
def outliving_workers(kept: str) -> Iterator[None]:
    """A block in which the death of a worker process becomes one sentence.

    Args:
        kept: the clause of the sentence that names what survives.

    Raises:
        StudyError: a process of an executor died.
    """
    try:
        yield
    except WorkersLostError as error:
        happened, remedy = error.args
        raise StudyError(f"{happened}; {kept}: {remedy}") from error
    except BrokenExecutor as error:
        raise StudyError(
            f"a worker process died, perhaps for lack of memory; {kept}: run the same command again, with fewer "
            "--workers"
        ) from error


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Silence for processes that are ended on purpose: loky's manager thread may log that as a crash of its own."""
    logger = logging.getLogger("concurrent.futures")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Unheard(Executor):
    """An executor whose processes, which begin as work comes in, never hear Ctrl-C.

    One that is still importing would answer it with a traceback of its own.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    @override
    def submit(self, fn: Callable[..., T], /, *args: object, **kwargs: object) -> Future[T]:
        with _without_interrupts():
            return self._executor.submit(fn, *args, **kwargs)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A block in which Ctrl-C waits; processes and threads that are started in it inherit that for good."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int, threads: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone answers, in one sentence.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this worker soon after the process that started it: without this, loky's workers outlive a killed parent."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
