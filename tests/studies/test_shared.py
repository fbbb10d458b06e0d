"""A marked folder is known by its mark: one of the same name on another machine is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from jackpot_sim.studies import shared as module
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.shared import SharedFolder, shared


def test_a_folder_is_known_while_it_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with shared(Path("deep/run")) as folder:
        monkeypatch.chdir("/")
        folder.require()
        assert folder.root == tmp_path / "deep" / "run"
    assert list(folder.root.iterdir()) == []


@pytest.mark.parametrize("there", ["nothing", "another"])
def test_another_folder_of_this_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    sentence = f"^node .* does not see {tmp_path}/run, where what it writes would be lost: give a folder"
    if there == "nothing":
        with pytest.raises(StudyError, match=sentence):
            SharedFolder(tmp_path / "run", "a").require()
        return
    with shared(tmp_path / "run"), pytest.raises(StudyError, match=sentence):
        SharedFolder(tmp_path / "run", "a").require()
