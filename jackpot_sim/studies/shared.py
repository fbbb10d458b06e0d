"""A folder that every worker of a study must see: files written to another one of the same name would be lost."""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jackpot_sim.studies.errors import StudyError

_MARK = ".shared"
_PATIENCE = 10.0
"""Seconds that a file may take to be seen on another node of a shared file system."""


class SharedFolder(NamedTuple):
    """A folder with a mark in it."""

    root: Path
    """The folder, absolute: a worker may run elsewhere."""
    mark: str

    def require(self) -> None:
        """Refuses a process that does not see this folder.

        Raises:
            StudyError: it sees none of this name, or another one.
        """
        deadline = time.monotonic() + _PATIENCE
        while not self._is_seen():
            if time.monotonic() > deadline:
                raise StudyError(
                    f"node {platform.node()} does not see {self.root}, where what it writes would be lost: give a "
                    "folder that all nodes share"
                )
            time.sleep(0.2)

    def _is_seen(self) -> bool:
        with contextlib.suppress(OSError):
            return (self.root / _MARK).read_text(encoding="utf-8") == self.mark
        return False


@contextlib.contextmanager
def shared(root: Path) -> Iterator[SharedFolder]:
    """A block in which the folder `root`, created if it is missing, is marked for workers to know it by.

    Raises:
        OSError: it cannot be written.
    """
    folder = SharedFolder(root.absolute(), uuid.uuid4().hex)
    root.mkdir(parents=True, exist_ok=True)
    path = folder.root / _MARK
    path.write_text(folder.mark, encoding="utf-8")
    try:
        yield folder
    finally:
        path.unlink(missing_ok=True)
