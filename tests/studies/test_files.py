"""A file is whole or not there, and a folder is one run's at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import LOCK, locked, unwritable, write_atomically


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "figures.txt"

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")

    write_atomically(path, write)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "figures.txt"
    path.write_text("before")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_and_locked_until_the_block_ends(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "first"
    with locked(root):
        assert (root / LOCK).exists()
        with pytest.raises(StudyError, match=f"another run is writing to {root}"), locked(root):
            pytest.fail("it was locked twice")
    with pytest.raises(KeyboardInterrupt), locked(root):
        raise KeyboardInterrupt
    with locked(root):
        pass


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "below"):
        pytest.fail("it was locked")


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    full = str(unwritable(tmp_path, OSError(errno.ENOSPC, "the disk said no")))
    assert full == f"cannot write {tmp_path}: {os.strerror(errno.ENOSPC)}"
    assert str(unwritable(tmp_path, OSError("odd"))) == f"cannot write {tmp_path}: odd"
