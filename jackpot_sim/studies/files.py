"""Files and folders of a run: a folder has one writer at a time, and a file is whole or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jackpot_sim.studies.errors import StudyError

LOCK = ".lock"
"""The file in a run's folder that marks it as in use."""


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """A block in which the folder `root`, created if it is missing, is locked against other runs.

    Raises:
        StudyError: another run holds the lock.
        OSError: the folder cannot be created or written.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(root / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise StudyError(f"another run is writing to {root}: wait for it, or choose another --out") from error
    with lock:
        yield


def write_atomically(path: Path, write: Callable[..., object]) -> None:
    """Calls `write(temporary)` beside `path`, flushes to disk and renames: all of the file is there or nothing."""
    temporary = path.parent / f".{path.name}.tmp"
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def unwritable(path: Path, error: OSError) -> StudyError:
    """The error to raise where the system refuses to write `path`."""
    return StudyError(f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}")
