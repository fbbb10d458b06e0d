"""Where cells run: all of them are `concurrent.futures.Executor`s, and nothing else knows which."""

from __future__ import annotations

from collections.abc import Callable
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


def make_executor(kind: ExecutorKind, workers: int) -> Executor:
    """An executor with `workers` processes of one thread each."""
    if kind is ExecutorKind.SERIAL:
        return SerialExecutor()
    from loky import ProcessPoolExecutor

    executor: Any = ProcessPoolExecutor(
        max_workers=workers,
        initializer=threadpool_limits,
        initargs=(1,),
        env=dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    )
    assert isinstance(executor, Executor)
    return executor
