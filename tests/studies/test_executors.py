"""An executor runs what it is given, here or in processes of one thread each, and passes errors on."""

from __future__ import annotations

import os

import pytest

from jackpot_sim.studies.executors import ExecutorKind, SerialExecutor, opened


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
