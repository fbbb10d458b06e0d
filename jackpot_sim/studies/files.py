"""Files and folders of a run: a folder has one writer at a time, and a file is whole or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jackpot_sim.studies.errors import StudyError

LOCK = ".lock"
"""The file in a run's folder that marks it as in use."""


@contextlib.contextmanager
def locked(root: Path, patience: float = 0.0) -> Iterator[None]:
    """A block in which the folder `root`, created if it is missing, is locked against other runs.

    Args:
        root: the folder.
        patience: the seconds to wait for another run that ends.

    Raises:
        StudyError: another run holds the lock.
        OSError: the folder cannot be created or written.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(root / LOCK).acquire(timeout=patience)
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


def remove_if_empty(root: Path, nothing: Collection[str], absent: Iterable[Path] = ()) -> None:
    """Removes a folder in which no file is left but half-written ones and those of the names in `nothing`.

    Args:
        root: the folder; a file of another name keeps all of it.
        nothing: names of files that are no results.
        absent: the folders that were not there before, innermost first: they are removed too, where they are empty.
    """
    below = sorted(root.rglob("*"), reverse=True)  # what lies deeper comes first
    files = [path for path in below if not path.is_dir()]
    if any(path.name not in nothing and not (path.name[0] == "." and path.suffix == ".tmp") for path in files):
        return
    with contextlib.suppress(OSError):  # what cannot be removed stays
        for path in files:
            path.unlink()
        for folder in (*(path for path in below if path not in files), *absent):
            folder.rmdir()


def unwritable(path: Path, error: OSError) -> StudyError:
    """The error to raise where the system refuses to write `path`."""
    return StudyError(f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}")
