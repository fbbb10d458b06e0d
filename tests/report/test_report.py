"""A run's folder is shown as the command that wrote it showed it, and anything else is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.diagnose.cli import main as diagnose
from jackpot_sim.report.cli import main
from jackpot_sim.sweep.cli import main as sweep
from tests.cases import each

Captured = pytest.CaptureFixture[str]
TRAINED = Path(__file__).parents[2] / "paper_figures" / "measured" / "training" / "figure1"
LINE = "--env.kind top-k --env.k 1 --env.base.kind zipf --env.base.vocab 5 --estimators none tis --seeds 2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of three kinds."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def shown(*line: str, capsys: Captured) -> str:
    assert main(line) == 0
    out, error = capsys.readouterr()
    assert error == ""
    return out


def test_a_sweep_is_shown_as_it_ended(capsys: Captured) -> None:
    assert sweep([*LINE.split(), "--executor", "serial"]) == 0
    ended = capsys.readouterr().out
    (root,) = Path("runs").iterdir()
    assert shown(str(root), capsys=capsys) == ended
    assert shown(capsys=capsys) == f"{root}, a run:\n\n{ended}"
    next((root / "records").glob("*.parquet")).unlink()
    assert "1 cells of 2: the command that began it finishes it" in shown(str(root), capsys=capsys)


def test_a_diagnosis_is_shown_as_it_was_printed(capsys: Captured) -> None:
    assert diagnose(["--example", "--workers", "1", "--out", "diagnosed"]) == 0
    printed = capsys.readouterr().out
    found = shown("diagnosed", capsys=capsys)
    assert found.startswith(printed)
    assert found[len(printed) :].startswith("Plots in diagnosed: log_ratios.png")
    assert len(shown("diagnosed", "--wide", capsys=capsys)) > len(found)


def test_a_study_of_training_is_shown_from_its_records(capsys: Captured) -> None:
    out = shown(str(TRAINED), capsys=capsys)
    assert out.startswith("figure1: means over 5 seeds ± standard error")
    assert [line.split()[1] for line in out.splitlines() if line.startswith(" run ")] == [
        *("on-policy", "none", "tis", "jackpot", "rao-blackwell")
    ]
    assert "5 of 5 collapsed" in out
    assert f"25 runs; records in {TRAINED}." in out
    other = TRAINED.with_name("table2")
    both = shown(str(other), str(TRAINED), capsys=capsys)
    assert both.endswith(out)
    assert f"{other}, a study:" in both


def manifest(root: str, content: Any) -> str:
    Path(root).mkdir(exist_ok=True)
    Path(root, "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


@each(
    "root, part",
    [
        ("nowhere", "nowhere holds no run: nowhere/manifest.json cannot be read (No such file or directory)"),
        ("file", "file holds no run: file/manifest.json cannot be read (Not a directory)"),
        ("damaged", "damaged/manifest.json is damaged"),
        ("list", "list/manifest.json is not the manifest of a run"),
        ("foreign", "foreign/manifest.json is not the manifest of a run"),
        ("unfinished", "unfinished holds no finished study: run it to its end first"),
        ("cut", "cut holds records that cannot be read: run the study again"),
        ("hollow", "hollow/report.json is missing, damaged or of another version"),
        ("empty", "empty holds no finished cell yet"),
        ("hollow nowhere", "nowhere holds no run"),
    ],
)
def test_what_is_no_run_is_one_sentence(root: str, part: str, capsys: Captured) -> None:
    Path("file").write_text("")
    manifest("damaged", "{")
    manifest("list", "[]")
    manifest("foreign", {"name": "package"})
    manifest("unfinished", {"config_hash": "0", "config": {"grid": {}}})
    if not Path("cut").exists():
        shutil.copytree(TRAINED, "cut")
        Path("cut/steps.parquet").write_bytes(b"PAR1")
    manifest("hollow", {"config_hash": "0", "diagnosis": {}})
    manifest("empty", {"config_hash": "0", "cells": [{"cell": "a"}]})
    assert main(root.split()) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("report: ")
    assert part in error


def test_without_any_run_a_folder_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("report: there is no run below runs/")
