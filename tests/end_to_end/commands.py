"""Starting the project's commands as a user does, and looking at its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::RuntimeWarning"}


def start(*options: str | Path, module: str = "jackpot_sim.sweep") -> subprocess.Popen[str]:
    """The command in a session of its own, so that a test can kill all of it and nothing else."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=ENVIRONMENT,
        start_new_session=True,
        # A suite that was started in the background ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a process that hangs is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise
    return process.returncode, out, err


def sweep(*options: str | Path) -> tuple[int, str, str]:
    return finish(start(*options))


def kill_all(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"it ended first: {process.communicate()}"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The ids of the worker processes in the command's session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ProcessLookupError):
            command = (entry / "cmdline").read_bytes()
            if b"LokyProcess" in command and os.getsid(int(entry.name)) == process.pid:
                found.append(int(entry.name))
    return found
