"""Users' own studies of training: any names, one seed, lost and missing runs, figures that nothing was measured of."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from analysis.cli import main
from jackpot_sim.studies.files import write_atomically
from jackpot_sim.training import records
from jackpot_sim.training.study import name_of_run

Captured = pytest.CaptureFixture[str]
STEPS = 40
LONG = "x" * 60
ODD = "über $\\frac methode 日本"
"""A name with spaces, signs that the font lacks, and half a formula."""
DIVERGED = "step 25: training diverged"


def rows(setting: str, method: str, seed: int, accuracy: float, kl: float, last: int = STEPS) -> pd.DataFrame:
    """A run whose accuracy and KL are constant up to its last step."""
    step = np.arange(last + 1)
    table = pd.DataFrame({name: np.full(last + 1, math.nan) for name in records.FIGURES})
    return table.assign(setting=setting, method=method, seed=seed, step=step, accuracy=accuracy, kl_policy_actor=kl)[
        records.STEPS.names
    ]


def outcome(setting: str, method: str, seed: int, frame: pd.DataFrame) -> dict[str, object]:
    last = int(frame["step"].iloc[-1])
    reason = "" if last == STEPS else DIVERGED
    return records.outcome(pa.Table.from_pandas(frame, schema=records.STEPS), reason, STEPS)


def write(root: Path, runs: dict[tuple[str, str, int], pd.DataFrame], asked: dict[str, list[str]], seeds: int) -> Path:
    """The folder of a study, finished unless runs are missing."""
    training = {"steps": STEPS, "task": {"kind": "addition", "digits": 3}, "actor": {"kind": "on-policy"}}
    grid = {setting: dict.fromkeys(methods, training) for setting, methods in asked.items()}
    root.mkdir(parents=True)
    content = {"study": "own", "config_hash": "abc", "config": {"name": "own", "grid": grid, "seeds": [*range(seeds)]}}
    (root / "manifest.json").write_text(json.dumps(content))
    if len(runs) == seeds * sum(map(len, asked.values())):
        tables = pa.Table.from_pandas(pd.concat(runs.values()), schema=records.STEPS, preserve_index=False)
        write_atomically(root / "steps.parquet", lambda path: records.write(tables, path))
        found = pa.Table.from_pylist([outcome(*key, frame) for key, frame in runs.items()], schema=records.OUTCOMES)
        write_atomically(root / "outcomes.parquet", lambda path: records.write(found, path))
        return root
    for key, frame in runs.items():
        table = pa.Table.from_pandas(frame, schema=records.STEPS, preserve_index=False)
        path = root / "runs" / name_of_run(*key) / "steps.parquet"
        path.parent.mkdir(parents=True)
        records.write(records.with_reason(table, "" if int(frame["step"].iloc[-1]) == STEPS else DIVERGED), path)
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds: the odd one is better by 0.1 and 0.3 and has twice and 8 times the KL."""
    runs = {
        ("run", LONG, 0): rows("run", LONG, 0, 0.5, 0.01),
        ("run", LONG, 1): rows("run", LONG, 1, 0.4, 0.02),
        ("run", ODD, 0): rows("run", ODD, 0, 0.6, 0.02),
        ("run", ODD, 1): rows("run", ODD, 1, 0.7, 0.16),
    }
    return write(tmp_path_factory.mktemp("own") / "run", runs, {"run": [LONG, ODD]}, 2)


def test_differences_are_paired_by_seed_and_all_tables_are_written(own: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main([str(own), "--out", str(tmp_path), "--level", "0.5"]) == 0
    changes = pd.read_csv(tmp_path / "differences.csv").set_index("figure")
    assert changes.loc["accuracy", ["value", "pairs"]].tolist() == pytest.approx([0.2, 2])
    # Student's quantile of one degree of freedom at 75 % is 1; the standard error of 0.1 and 0.3 is 0.1.
    assert changes.loc["accuracy", ["low", "high"]].tolist() == pytest.approx([0.1, 0.3])
    assert changes.loc["kl_ratio", ["value", "low", "high"]].tolist() == pytest.approx([4, 2, 8])
    cells = pd.read_csv(tmp_path / "cells.csv").set_index("method")
    assert cells.loc[ODD, ["accuracy", "kl", "lost", "seeds"]].tolist() == pytest.approx([0.65, 0.02 * 8**0.5, 0, 2])
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 4
    shown = capsys.readouterr().out
    assert "+0.200 [+0.100, +0.300]*" in shown
    assert f"Difference to {LONG}" in shown


def test_the_base_is_none_unless_another_is_asked_for(own: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main([str(own), "--out", str(tmp_path), "--base", ODD]) == 0
    assert pd.read_csv(tmp_path / "differences.csv")["method"].unique().tolist() == [LONG]
    assert main([str(own), "--out", str(tmp_path), "--base", "jackpot"]) == 2
    assert "there is no method jackpot" in capsys.readouterr().err
    named = {("run", name, 0): rows("run", name, 0, 0.5, 0.1) for name in ("tis", "none")}
    root = write(tmp_path / "named", named, {"run": ["tis", "none"]}, 1)
    assert main([str(root), "--quiet"]) == 0
    assert pd.read_csv(root / "analysis" / "differences.csv")["base"].unique().tolist() == ["none"]


@pytest.mark.parametrize("width", [60, 80])
def test_long_names_fit_the_terminal(
    width: int, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([str(own), "--out", str(tmp_path)]) == 0
    tables = capsys.readouterr().out.split("Accuracy and KL")[1].split("4 runs")[0]
    assert max(map(len, tables.splitlines())) <= width
    assert tables.replace("\n", "").replace(" ", "").count("xxx") > 10


def test_one_seed_has_no_interval_and_lost_runs_count_as_0(tmp_path: Path, capsys: Captured) -> None:
    runs = {
        ("a", "fine", 0): rows("a", "fine", 0, 0.5, math.nan),
        ("a", "bad", 0): rows("a", "bad", 0, 0.5, math.nan, last=25),
    }
    root = write(tmp_path / "run", runs, {"a": ["fine", "bad"]}, 1)
    assert main([str(root), "--figures"]) == 0
    shown = capsys.readouterr().out
    assert "1 seed; " in shown
    assert "%]" not in shown
    assert "1 of 1 (1 div.)" in shown
    cells = pd.read_csv(root / "analysis" / "cells.csv").set_index("method")
    assert cells.loc["bad", "accuracy"] == 0
    assert cells[["accuracy_low", "kl"]].isna().all(axis=None)
    # The KL was measured nowhere: a single panel is half of the figure's width.
    assert (root / "analysis" / "curves.png").exists()


def test_an_unfinished_study_is_summarised_as_far_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    asked = {"a": ["m", "n"], "b": ["m", "n"]}
    root = write(tmp_path / "run", {("a", "m", 1): rows("a", "m", 1, 0.5, 0.1, last=25)}, asked, 2)
    assert main([str(root), "--figures"]) == 0
    shown = capsys.readouterr().out
    assert "1 runs of 8: the study is not finished" in shown
    assert "Difference" not in shown
    assert pd.read_csv(root / "analysis" / "runs.csv")["ended"].tolist() == [DIVERGED]
    empty = write(tmp_path / "empty", {}, asked, 2)
    assert main([str(empty)]) == 2
    assert "none of the 8 runs is finished yet" in capsys.readouterr().err


def test_figures_of_any_names_are_drawn_without_a_warning(own: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([str(own), "--out", str(tmp_path), "--figures", "--quiet"]) == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["cells.csv", "curves.pdf", "curves.png", "differences.csv", "runs.csv"]
    with Image.open(tmp_path / "curves.png") as image:
        foot = np.asarray(image.convert("L"))[-40:]
    assert (foot < 150).any(), "nothing is written at the foot"


def test_six_settings_stand_in_two_rows(tmp_path: Path) -> None:
    from analysis import style
    from analysis.training.curves import curves
    from analysis.training.records import of_folder

    names = [f"setting {at}" for at in range(6)]
    runs = {(name, "m", 0): rows(name, "m", 0, 0.5, 0.1) for name in names}
    trained = of_folder(write(tmp_path / "run", runs, {name: ["m"] for name in names}, 1))
    with style.context():
        figure, axes = curves(trained)
        figure.draw_without_rendering()
    places = {name: axes[name, "accuracy"].get_position() for name in names}
    assert places["setting 0"].y0 == pytest.approx(places["setting 2"].y0, abs=1e-3)
    assert places["setting 3"].x0 == pytest.approx(places["setting 0"].x0, abs=0.03)
    assert axes["setting 0", "kl_policy_actor"].get_position().y0 > places["setting 0"].y0 > places["setting 3"].y0
    assert all(axis.get_title(loc="left").endswith(name) for (name, _), axis in axes.items())


@pytest.mark.parametrize("damage", ["manifest", "steps"])
def test_damaged_records_are_refused_in_one_sentence(damage: str, tmp_path: Path, capsys: Captured) -> None:
    root = write(tmp_path / "run", {("a", "m", 0): rows("a", "m", 0, 0.5, 0.1)}, {"a": ["m"]}, 1)
    if damage == "manifest":
        (root / "manifest.json").write_text(json.dumps({"config_hash": "x", "config": {"grid": [1]}}))
    else:
        (root / "steps.parquet").write_bytes(b"PAR1 nothing")
    assert main([str(root)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis: ")
    assert error.count("\n") == 1
