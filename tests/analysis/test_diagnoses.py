"""Folders of diagnoses: their verdicts, figures and best corrections, side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.cli import main
from jackpot_sim.diagnose.report import records
from tests.cases import each
from tests.diagnose.report.made import diagnosis, effect

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = diagnosis(
        corrections=[
            effect("none", effective_kl_reverse=0.04),
            effect("tis", 0.97, effective_kl_reverse=0.01),
            effect("beaten", 0.96, effective_kl_reverse=0.02),
            effect("equal", 0.97, effective_kl_reverse=0.01),
            effect("refused", refused="it looks at the overlap"),
        ]
    )
    roots = [tmp_path_factory.mktemp("diagnoses") / name for name in ("a", "b")]
    for root in roots:
        with records.claimed(root) as folder:
            records.write(folder, made, None)
    return [str(root) for root in roots]


def test_the_best_corrections_of_a_dump_are_printed_and_all_are_written(
    folders: list[str], tmp_path: Path, capsys: Captured
) -> None:
    assert main([folders[0], "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"{folders[0]}: problem. The actor samples at temperature 0.8" in printed
    rows = [line.split()[0] for line in printed.splitlines() if line.strip()]
    assert rows.index("tis") < rows.index("none"), "the least KL comes first"
    assert not {"beaten", "equal", "refused"} & {*rows}
    assert "2 of 4" in printed
    written = pd.read_csv(tmp_path / "out" / "corrections.csv")
    assert list(written["name"]) == ["none", "tis", "beaten", "equal", "refused"]


def test_several_stand_side_by_side(folders: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert main([*folders, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("problem. The actor") == 2
    assert pd.read_csv(tmp_path / "out" / "metrics.csv")["folder"].nunique() == 2
    assert main([folders[1], "--quiet"]) == 0
    assert (Path(folders[1]) / "analysis" / "breakdowns.csv").exists()
    assert capsys.readouterr().out == ""


@each("name", ["corrections.parquet", "report.json"])
def test_a_damaged_folder_is_refused(name: str, folders: list[str], tmp_path: Path, capsys: Captured) -> None:
    root = tmp_path / f"damaged-{name}"
    shutil.copytree(folders[0], root)
    (root / name).write_text("{}")
    assert main([str(root)]) == 2
    assert f"{name} is missing or damaged" in capsys.readouterr().err


def test_a_diagnosis_beside_a_run_is_refused(folders: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert main([folders[0], str(tmp_path)]) == 2
    assert "one run at a time" in capsys.readouterr().err
