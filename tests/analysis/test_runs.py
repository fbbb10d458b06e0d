"""`python -m analysis runs`: every kind of run, how far it is, and what it was asked for."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from analysis.cli import main
from tests.analysis.conftest import Run

Captured = pytest.CaptureFixture[str]

TRAINING = {
    "task": {"kind": "addition", "digits": 4},
    "policy": {"kind": "taught", "model": {"kind": "qwen3", "layers": 3, "hidden": 96}},
    "actor": {"kind": "served", "source": {"kind": "stale"}},
    "steps": 70,
}


@pytest.fixture
def folder(small: Run, tmp_path: Path) -> Path:
    root = tmp_path / "all"
    shutil.copytree(
        small.root, root / "sweep", ignore=lambda path, names: [n for n in names if n.endswith("-2.parquet")]
    )
    contents = {
        "deep/trained": {"config_hash": "a", "config": {"grid": {"s": {"tis": TRAINING}}, "seeds": [0, 1, 2]}},
        "judged": {"config_hash": "b", "diagnosis": {"paths": "dump.jsonl", "files": "3"}},
        "broken": {"config_hash": "c", "config": {"grid": {"s": 1}}},
        "others": {"name": "somebody else's"},
    }
    for name, content in contents.items():
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text(json.dumps(content))
    (root / "cut").mkdir()
    (root / "cut" / "manifest.json").write_text("{")
    for age, name in enumerate(("deep/trained", "sweep", "judged", "cut", "broken")):
        os.utime(root / name / "manifest.json", (1e9 - age, 1e9 - age))
    done = root / "deep" / "trained" / "runs" / "s.tis.1"
    done.mkdir(parents=True)
    (done / "steps.parquet").write_bytes(b"")
    return root


def test_every_kind_is_listed_with_what_it_was_asked_for(folder: Path, capsys: Captured) -> None:
    assert main(["runs", str(folder), "--json"]) == 0
    found = {Path(each["folder"]).relative_to(folder).as_posix(): each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == ["deep/trained", "sweep", "judged", "cut", "broken"], "the latest first, and no other's"
    assert [each["kind"] for each in found.values()] == ["training", "sweep", "diagnosis", "damaged", "damaged"]
    assert [(each["finished"], each["planned"]) for each in found.values()][:2] == [(1, 3), (10, 15)]
    trained, sweep = found["deep/trained"]["asked"], found["sweep"]["asked"]
    wanted = {"task": "addition of 4 digits", "policy": "qwen3 3x96", "actor": "served stale", "methods": "tis"}
    assert trained == wanted | {"steps": "70", "seeds": "3"}
    assert sweep["environments"] == "2 × logit-noise on zipf, 2 × logit-noise on lm-like, top-p on zipf"
    assert sweep["estimators"] == "none, is, tis, obrs and 2 more"
    assert (sweep["samples"], sweep["seeds"]) == ("64", "3")
    assert found["judged"]["asked"]["paths"] == "dump.jsonl"


def test_the_list_fits_80_columns_unless_it_is_to_be_wide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert any(line.startswith("deep/trained  (training, 2001-09-") and "1 of 3 runs" in line for line in lines)
    assert main(["runs", str(folder), "--wide"]) == 0
    wide = capsys.readouterr().out.splitlines()
    assert len(wide) < len(lines)
    assert any("samples: 64; how: exact" in line for line in wide)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["empty"], "there is no run in empty"),
        (["--columns"], "--columns"),
        (["empty", "empty"], "empty"),
    ],
)
def test_refusals_are_one_sentence_and_exit_2(
    options: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["runs", *options]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert told in error
    assert error.count("\n") == 1


def test_its_help_is_its_own(capsys: Captured) -> None:
    assert main(["runs", "--help"]) == 0
    assert "List the runs" in " ".join(capsys.readouterr().out.split())
