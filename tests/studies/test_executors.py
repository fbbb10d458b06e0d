"""An executor runs what it is given, here or in processes of one thread each, and passes errors on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import (
    ExecutorKind,
    SerialExecutor,
    Task,
    WorkersLostError,
    landing,
    opened,
    outliving_workers,
    processes,
)


def test_this_process_runs_a_task_at_once() -> None:
    with opened(ExecutorKind.SERIAL, 1) as pool:
        future = pool.submit(os.getpid)
        assert future.done()
        assert future.result() == os.getpid()


def test_an_error_is_the_futures() -> None:
    future = SerialExecutor().submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result()


def test_worker_processes_have_one_thread_and_end_with_the_block() -> None:
    with opened(ExecutorKind.LOKY, 1) as pool:
        worker = pool.submit(os.getpid).result()
        assert worker != os.getpid()
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_ctrl_c_never_reaches_a_worker_not_even_while_it_begins() -> None:
    """It begins with the signals blocked that block the thread which starts it, and imports long before it ignores."""
    with opened(ExecutorKind.LOKY, 1) as pool:
        blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# --- handing tasks out ------------------------------------------------------------------------------------


class InBatches(Executor):
    """Ends the tasks of each batch together, once all of it was handed out."""

    def __init__(self, size: int) -> None:
        self.size, self.waiting = size, list[tuple[Future[Any], Callable[[], Any]]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        if len(self.waiting) == self.size:
            batch, self.waiting = self.waiting, []
            threading.Timer(0.05, lambda: [_end(*each) for each in batch]).start()
        return future


class Together(SerialExecutor):
    """Ends all of its tasks before the last of them is handed out."""

    def __init__(self, size: int) -> None:
        self.size, self.waiting = size, list[tuple[Future[Any], Callable[[], Any]]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        if len(self.waiting) == self.size:
            for each in self.waiting:
                _end(*each)
        return future


def _end(future: Future[Any], task: Callable[[], Any]) -> None:
    try:
        future.set_result(task())
    except ValueError as error:
        future.set_exception(error)


def tasks(*texts: str) -> list[Task[int]]:
    return [Task(f"task {text}", int, (text,)) for text in texts]


def test_tasks_are_handed_out_a_few_at_a_time_and_named() -> None:
    seen: list[list[str]] = []
    landed = [
        (name, future.result())
        for name, future in landing(tasks("1", "2", "3", "4"), InBatches(2), 2, lambda names: seen.append(list(names)))
    ]
    assert sorted(landed) == [(f"task {number}", number) for number in (1, 2, 3, 4)]
    assert max(map(len, seen)) == 2
    assert seen[:2] == [["task 1"], ["task 1", "task 2"]]


def test_errors_land_after_the_results_beside_them() -> None:
    landed = list(landing(tasks("x", "2", "y", "4"), Together(4), 4))
    assert [name for name, _ in landed][-2:] in (["task x", "task y"], ["task y", "task x"])
    assert {name for name, _ in landed[:2]} == {"task 2", "task 4"}


@pytest.mark.parametrize("in_flight", [1, 2, 9])
def test_a_result_lands_before_the_next_task_begins_in_this_process(in_flight: int) -> None:
    happened: list[str] = []
    begun = [Task(name, happened.append, (f"{name} begun",)) for name in "abc"]
    for name, _ in landing(begun, SerialExecutor(), in_flight):
        happened.append(f"{name} landed")
    assert happened == [f"{name} {what}" for name in "abc" for what in ("begun", "landed")]


def test_looks_come_while_tasks_run() -> None:
    looks = []
    list(landing(tasks("1"), InBatches(1), 1, lambda names: looks.append(len(names)), every=0.005))
    assert len(looks) > 3


def test_a_worker_that_dies_is_one_sentence() -> None:
    sentence = r"^a worker process died, .*; all is well: .* with fewer --workers$"
    with pytest.raises(StudyError, match=sentence), outliving_workers("all is well"):
        raise BrokenExecutor


def test_workers_that_are_lost_say_how_and_what_to_do() -> None:
    sentence = "^the cluster burnt; all is well: build another$"
    with pytest.raises(StudyError, match=sentence), outliving_workers("all is well"):
        raise WorkersLostError("the cluster burnt", "build another")


@pytest.mark.parametrize(
    ("kind", "workers", "count"),
    [(None, 3, 3), (ExecutorKind.LOKY, 99, 5), (ExecutorKind.SERIAL, None, 1), (ExecutorKind.SERIAL, 1, 1)],
)
def test_processes_are_no_more_than_tasks(kind: ExecutorKind | None, workers: int | None, count: int) -> None:
    assert processes(kind, workers, 5) == count


@pytest.mark.parametrize(("kind", "workers"), [(None, 0), (ExecutorKind.SERIAL, 2)])
def test_options_that_contradict_each_other_are_refused(kind: ExecutorKind | None, workers: int) -> None:
    with pytest.raises(StudyError, match=f"--workers .*{workers}"):
        processes(kind, workers, 5)
