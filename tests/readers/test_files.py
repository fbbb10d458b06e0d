from __future__ import annotations

import os
from pathlib import Path

import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.files import files
from tests.cases import each


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = ("step_10/rank_0.jsonl", "step_2/rank_0.jsonl")
    for name in (*kept, "step_2/.rank_1.jsonl", ".git/x.jsonl", "step_2/a.tmp", "step_2/_SUCCESS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


def names(found: tuple[Path, ...], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_gives_the_files_below_it_by_their_numbers_without_hidden_and_temporary_ones(folder: Path) -> None:
    assert names(files([folder]), folder) == ["step_2/rank_0.jsonl", "step_10/rank_0.jsonl"]


def test_a_pattern_gives_the_files_that_match_in_the_same_order(folder: Path) -> None:
    assert names(files([str(folder / "step_*" / "*.jsonl")]), folder) == ["step_2/rank_0.jsonl", "step_10/rank_0.jsonl"]
    assert names(files([str(folder / "step_*")]), folder) == ["step_2/rank_0.jsonl", "step_10/rank_0.jsonl"]
    assert names(files([str(folder / "**" / "*.jsonl")]), folder) == ["step_2/rank_0.jsonl", "step_10/rank_0.jsonl"]


def test_a_file_is_read_once_however_often_it_is_named(folder: Path) -> None:
    one = folder / "step_2" / "rank_0.jsonl"
    assert files([one, str(one), folder / "step_2"]) == (one,)


def test_a_name_with_the_signs_of_a_pattern_is_a_file_where_it_exists(tmp_path: Path) -> None:
    odd = tmp_path / "run[1].jsonl"
    odd.write_text("{}")
    assert files([odd]) == (odd,)


def test_a_hidden_file_that_is_named_counts(folder: Path) -> None:
    hidden = folder / "step_2" / ".rank_1.jsonl"
    assert files([hidden]) == (hidden,)


def test_what_is_no_file_is_said(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "hidden").mkdir()
    (folder / "hidden" / ".a").write_text("{}")
    os.mkfifo(folder / "pipe")
    for path, told in {
        folder / "absent.jsonl": "absent.jsonl does not exist",
        folder / "*.parquet": r"no file matches .*\*\.parquet",
        folder / "pip*": r"no file matches .*pip\*",
        folder / "empty": "empty holds no file that could be a dump",
        folder / "hidden": "hidden holds no file that could be a dump",
        folder / "pipe": "pipe is no regular file",
        folder / "step_2" / "rank_0.jsonl" / "x": "does not exist|cannot be read",
        folder / ("x" * 300): "cannot be read: file name too long|does not exist",
    }.items():
        with pytest.raises(DumpError, match=told):
            files([path])
    for empty in ([], [""], [" "]):
        with pytest.raises(DumpError, match=r"name at least one|name a file or folder"):
            files(empty)


@each("call", ["exists", "is_dir"])
def test_a_folder_that_may_not_be_entered_is_said(call: str, folder: Path) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, call, refuse)
        with pytest.raises(DumpError, match="cannot be read: permission denied"):
            files([folder / "step_2" / "rank_0.jsonl"])
