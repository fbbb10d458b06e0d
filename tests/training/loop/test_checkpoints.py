"""Checkpoints: whole or not there, the last two, and the one before where one is damaged."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.loop import checkpoints

torch = pytest.importorskip("torch")


def state(step: int) -> dict[str, Any]:
    return {"trainer": {"step": step, "policy": {"w": torch.full((50,), float(step))}}, "rows": [{"step": 0.5}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (50, 100, 150):
        checkpoints.save(tmp_path, step, state(step))
    return tmp_path


def newest(folder: Path) -> int | None:
    found = checkpoints.newest(folder)
    return None if found is None else int(found["trainer"]["step"])


def test_what_was_saved_comes_back(folder: Path) -> None:
    found = checkpoints.newest(folder)
    assert found is not None
    assert torch.equal(found["trainer"]["policy"]["w"], state(150)["trainer"]["policy"]["w"])
    assert found["rows"] == [{"step": 0.5}]


def test_the_last_two_are_kept(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-000100.pt", "checkpoint-000150.pt"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "missing") is None
    checkpoints.delete(tmp_path / "missing")


def test_all_of_them_are_deleted_and_nothing_else(folder: Path) -> None:
    (folder / "log.jsonl").write_text("")
    checkpoints.delete(folder)
    assert [path.name for path in folder.iterdir()] == ["log.jsonl"]


def test_what_a_kill_left_is_never_read_and_is_cleared_away(folder: Path) -> None:
    torch.save(state(200), folder / ".checkpoint-000200.pt.tmp")
    assert newest(folder) == 150
    assert not list(folder.glob(".*"))


def test_a_disk_that_refuses_leaves_the_ones_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(folder, 200, state(200))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-000100.pt", "checkpoint-000150.pt"]


@pytest.mark.parametrize("kept", [0, 1, 10, 200, 0.3, 0.9, 0.999])
def test_a_truncated_one_is_passed_over(folder: Path, kept: float) -> None:
    content = (folder / "checkpoint-000150.pt").read_bytes()
    (folder / "checkpoint-000150.pt").write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    assert newest(folder) == 100


def test_garbage_of_any_kind_is_passed_over(folder: Path) -> None:
    """torch meets it with pickle's errors, its own, ValueError, KeyError and others."""
    chance = random.Random(3)
    starts = [
        b"",
        b"\x80\x02",
        b"\x80\x04",
        b"PK\x03\x04",
        b"(",
        b"c",
        b"\x80\x02c",
        b"}",
        b"]",
        b"\x8c",
        b"garbage.",
        b"I1\n.",
    ]
    for start in starts:
        for size in (0, 1, 7, 300):
            (folder / "checkpoint-000150.pt").write_bytes(start + chance.randbytes(size))
            assert newest(folder) == 100


def test_bytes_that_were_changed_are_never_taken_for_weights(folder: Path) -> None:
    content = (folder / "checkpoint-000150.pt").read_bytes()
    weights = state(150)["trainer"]["policy"]["w"].numpy().tobytes()
    at = content.index(weights) + len(weights) // 2
    (folder / "checkpoint-000150.pt").write_bytes(content[:at] + b"\x01\x02" + content[at + 2 :])
    assert newest(folder) == 100


def test_code_in_a_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    torch.save(Evil(), folder / "checkpoint-000150.pt")
    assert newest(folder) == 100
    assert not (tmp_path / "touched").exists()


def test_something_else_in_its_place_is_passed_over(folder: Path) -> None:
    torch.save([1, 2], folder / "checkpoint-000150.pt")
    assert newest(folder) == 100
    (folder / "checkpoint-000200.pt").mkdir()
    assert newest(folder) == 100
    (folder / "checkpoint-000100.pt").write_bytes(b"")
    with pytest.raises(StudyError, match=r"checkpoint-000200.pt cannot be read, nor one before it: move"):
        newest(folder)
