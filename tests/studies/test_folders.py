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


def failing(root: Path, *files: str, error: type[BaseException] = ValueError) -> None:
    """A study that writes a manifest and these files, and fails."""

    def run() -> None:
        with folder(root).claimed("abc"):
            folder(root).write_manifest({"config_hash": "abc", "cells": [1]})
            for name in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text("x")
            raise error

    with pytest.raises(error):
        run()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_study_that_fails_at_once_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    failing(tmp_path / "runs" / "one", "records/.half.parquet.tmp", "states/deep/.lock", error=error)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    failing(tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"], "the user made it"


def test_a_study_that_fails_later_loses_nothing(tmp_path: Path) -> None:
    failing(tmp_path / "run", "records/one.parquet")
    assert folder(tmp_path / "run").manifest()["config_hash"] == "abc"
    assert (tmp_path / "run" / "records" / "one.parquet").read_text() == "x"
    begun(tmp_path / "begun")
    failing(tmp_path / "begun")
    assert folder(tmp_path / "begun").has_manifest, "it was begun before"


def test_a_study_of_the_other_kind_is_called_what_it_is(tmp_path: Path) -> None:
    root = tmp_path / "trained"
    training = StudyFolder(root, "study", lambda manifest: "config" in manifest)
    with training.claimed("abc"):
        training.write_manifest({"config_hash": "abc", "config": {"grid": {}}})
    told = r"trained holds a study of training, of which `python -m jackpot_sim\.report .*trained` shows the table"
    with pytest.raises(StudyError, match=told):
        folder(root).manifest()
    with pytest.raises(StudyError, match=f"{told}.*; choose another --out$"), folder(root).claimed("abc"):
        pytest.fail("it was claimed")
    own = begun(tmp_path / "run").root
    told = r"run holds a run of `python -m jackpot_sim\.sweep`, which `jackpot-sim analysis \S*run` reads"
    with pytest.raises(StudyError, match=told):
        StudyFolder(own, "study", lambda manifest: "config" in manifest).manifest()


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"config_hash": 1, "cells": [1]}', '{"config_hash": "abc"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    own = begun(tmp_path / "run")
    (own.root / MANIFEST).write_text(content)
    with pytest.raises(StudyError, match=r"manifest\.json is not the manifest of a run"):
        own.manifest()
    (own.root / MANIFEST).unlink()
    with pytest.raises(StudyError, match=r"holds no run: .* cannot be read"):
        own.manifest()
