"""A folder of records belongs to one study, and one process at a time writes to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.folders import MANIFEST, StudyFolder


def folder(root: Path) -> StudyFolder:
    return StudyFolder(root, "run", lambda manifest: bool(manifest["cells"]))


def begun(root: Path, config_hash: str = "abc") -> StudyFolder:
    with folder(root).claimed(config_hash):
        folder(root).write_manifest({"config_hash": config_hash, "cells": [1]})
    return folder(root)


def test_a_folder_is_created_and_claimed_by_one_at_a_time(tmp_path: Path) -> None:
    own = folder(tmp_path / "deep" / "run")
    with own.claimed("abc"):
        assert not own.has_manifest
        with pytest.raises(StudyError, match="another run is writing to"), own.claimed("abc"):
            pytest.fail("it was claimed twice")
        own.write_manifest({"config_hash": "abc", "cells": [1]})
    with own.claimed("abc"):
        assert own.manifest() == {"config_hash": "abc", "cells": [1]}


def test_another_study_is_refused(tmp_path: Path) -> None:
    own = begun(tmp_path / "run")
    with pytest.raises(StudyError, match=r"holds another study \(config abc, this one is def\)"), own.claimed("def"):
        pytest.fail("it was claimed")


def test_what_is_no_studys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="holds files but no run"), folder(tmp_path).claimed("abc"):
        pytest.fail("it was claimed")
    with pytest.raises(StudyError, match="is not a folder"), folder(tmp_path / "notes.txt").claimed("abc"):
        pytest.fail("it was claimed")
    with pytest.raises(StudyError, match="cannot write"), folder(tmp_path / "notes.txt" / "run").claimed("abc"):
        pytest.fail("it was claimed")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), folder(tmp_path / "run").claimed("abc"):
        raise OSError("mine")
    begun(tmp_path / "run")


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"config_hash": 1, "cells": [1]}', '{"config_hash": "abc"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    own = begun(tmp_path / "run")
    (own.root / MANIFEST).write_text(content)
    with pytest.raises(StudyError, match=r"manifest\.json is not the manifest of a run"):
        own.manifest()
    (own.root / MANIFEST).unlink()
    with pytest.raises(StudyError, match=r"holds no run: .* cannot be read"):
        own.manifest()
