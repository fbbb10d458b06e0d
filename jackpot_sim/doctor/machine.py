"""The machine: processors, memory, threads, disk, and the settings that studies look at."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""The variables by which numeric libraries take their number of threads."""

CGROUP = Path("/sys/fs/cgroup")
"""The folder with the limits of a container or a job, on Linux."""

RAY = "RAY_ADDRESS"
"""The variable with the address of a Ray cluster."""


def machine() -> dict[str, object]:
    """What of this machine a study may use; None for what the system does not tell."""
    return {
        "processors": os.cpu_count(),
        "usable_processors": _usable(),
        **_memory(),
        **_limits(),
        **_disk(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        "ray_address": os.environ.get(RAY) or None,
    }


def _usable() -> int | None:
    """The processors that this process may use, of a container's or a job's share."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count()
    return len(os.sched_getaffinity(0))


def _memory() -> dict[str, object]:
    told: dict[str, object] = {"memory_gib": None, "free_memory_gib": None}
    with contextlib.suppress(Exception):  # psutil may be what is broken
        import psutil

        memory = psutil.virtual_memory()
        told = {"memory_gib": _gib(memory.total), "free_memory_gib": _gib(memory.available)}
    return told


def _limits() -> dict[str, object]:
    """The shares of processors and memory that a container or a job is held to; None where there is no limit."""
    told: dict[str, object] = {"processor_limit": None, "memory_limit_gib": None}
    with contextlib.suppress(OSError, ValueError):  # no such file, or the word max
        told["memory_limit_gib"] = _gib(int((CGROUP / "memory.max").read_text(encoding="ascii")))
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, (CGROUP / "cpu.max").read_text(encoding="ascii").split())
        told["processor_limit"] = round(quota / period, 2)
    return told


def _disk() -> dict[str, object]:
    """The disk of the working folder, which may be gone."""
    try:
        folder = Path.cwd()
        return {"free_disk_gib": _gib(shutil.disk_usage(folder).free), "writable": os.access(folder, os.W_OK)}
    except OSError:
        return {"free_disk_gib": None, "writable": False}


def _gib(size: int) -> float:
    return round(size / 2**30, 1)
