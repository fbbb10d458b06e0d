"""Where cells run: all of them are `concurrent.futures.Executor`s, and nothing else knows which."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

P = ParamSpec("P")
T = TypeVar("T")


class ExecutorKind(StrEnum):
    """The executors there are."""

    SERIAL = "serial"
    LOKY = "loky"


class SerialExecutor(Executor):
    """Runs each task at once, in the caller's process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of a task that has already run."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def opened(kind: ExecutorKind, workers: int) -> Iterator[Executor]:
    """An executor with `workers` processes of one thread each; if the block fails, they are not waited for."""
    if kind is ExecutorKind.SERIAL:
        yield SerialExecutor()
        return
    from loky import ProcessPoolExecutor

    executor: Any = ProcessPoolExecutor(
        max_workers=workers,
        initializer=_begin_worker,
        initargs=(os.getpid(),),
        env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    )
    try:
        yield executor
    except BaseException:
        with _unlogged():
            executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """What is cut off on purpose is no news, though loky's manager thread may log it as a crash of its own."""
    logger = logging.getLogger("concurrent.futures")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _begin_worker(parent: int) -> None:
    # Ctrl-C reaches every process of the terminal; it is for the parent to answer, in one sentence.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this worker soon after the process that started it: loky's workers wait for a killed one for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
