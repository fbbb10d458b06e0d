"""The command line: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from analysis import show, tables
from analysis.bootstrap import Options
from analysis.cli import main
from analysis.show import with_error
from tests.analysis.conftest import Run

FILES = ["acceptance_vs_kl", "bias_variance", "figures", "kl_before_after", "lowest_mse"]


def test_prints_and_writes_all_tables(small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "deep" / "out"), "--n-samples", "8", "512", "--replicates", "50"]
    assert main([str(small.root), *options]) == 0
    shown = capsys.readouterr().out
    titles = ("Lowest MSE", "Acceptance rate", "and of the accepted", "weighted update", "frontier", "15 cells")
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    assert "none, is, tis(clip=2), tis(clip=5), overlap-tis" in shown
    assert sorted(path.stem for path in (tmp_path / "deep" / "out").iterdir()) == FILES
    lowest = pd.read_csv(tmp_path / "deep" / "out" / "lowest_mse.csv")
    assert sorted(lowest["n_samples"].unique()) == [8, 512]
    figures = pd.read_csv(tmp_path / "deep" / "out" / "figures.csv", keep_default_na=False)
    assert "inf" in set(figures["value"].astype(str))


def test_by_default_it_writes_beside_the_records_and_the_run_stays_one(
    small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(small.root, root)
    assert main([str(root), "--replicates", "20", "--quiet"]) == 0
    assert sorted(path.stem for path in (root / "analysis").glob("*.csv")) == FILES
    assert main([str(root), "--replicates", "20", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_an_unfinished_run_is_called_so(small: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "run"
    shutil.copytree(small.root, root)
    next((root / "records").glob("top-p*-2.parquet")).unlink()
    assert main([str(root), "--replicates", "20"]) == 0
    assert "14 cells of 15: the run is not finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no run below runs/"),
        (["{run}", "{nowhere}"], "one run at a time: 2 folders"),
        (["{nowhere}"], "holds no run"),
        (["{run}", "--n-samples", "0"], "n_samples must be whole numbers of at least 1"),
        (["{run}", "--n-samples", "many"], "--n-samples"),
        (["{run}", "--replicates", "1"], "replicates must be at least 2"),
        (["{run}", "--level", "95"], "level must lie between 0 and 1"),
        (["{run}", "--resample", "tokens"], "--resample"),
        (["{run}", "--colour"], "--colour"),
        (["{run}", "--replicates", "5", "--out", "{file}"], "cannot write"),
    ],
)
def test_refusals_are_one_sentence_and_exit_2(
    small: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    places = {"nowhere": tmp_path / "nowhere", "run": small.root, "file": tmp_path / "file"}
    assert main([option.format(**places) for option in options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("analysis: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1


def test_without_a_folder_it_takes_the_latest_run(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, age in (("one", 300), ("group/two", 100), ("three", 200)):
        shutil.copytree(small.root, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "manifest.json", (1e9 - age, 1e9 - age))
    assert main(["--replicates", "5"]) == 0
    # A figure's own study, deeper down, is not what was asked for.
    assert capsys.readouterr().out.startswith("runs/three, the latest run below runs/.\n")
    assert (tmp_path / "runs" / "three" / "analysis" / "lowest_mse.csv").exists()


def test_the_latest_run_is_one_that_has_something_to_analyse(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = {"config_hash": "abc", "config": {"grid": {}}}
    for name, manifest in (("trained", json.dumps(trained)), ("damaged", "{")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").write_text(manifest)
    shutil.copytree(small.root, tmp_path / "runs" / "empty", ignore=lambda *_: ["records"])
    assert main([]) == 2
    assert "no run below runs/ (of 3 other folders of studies none" in capsys.readouterr().err
    shutil.copytree(small.root, tmp_path / "runs" / "good")
    os.utime(tmp_path / "runs" / "good" / "manifest.json", (1e9, 1e9))
    assert main(["--replicates", "5"]) == 0
    assert capsys.readouterr().out.startswith("runs/good, the latest run below runs/.\n")
    assert main(["runs/trained"]) == 2
    error = capsys.readouterr().err
    assert "runs/trained/manifest.json does not say what was to be trained" in error
    assert "delete" not in error


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_no_number_is_cut(small: Run, width: int) -> None:
    found = tables.build(small.records, small.states, [16, 64], Options(replicates=10))
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show.print_tables(found, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    words = shown.split()
    for value, error in found.acceptance_vs_kl[["acceptance_rate", "acceptance_rate_se"]].to_numpy():
        if value < 1 - 1e-9:
            assert with_error(value, error) in words


@given(value=st.floats(-1e12, 1e12), error=st.floats(1e-15, 1e12))
def test_a_figure_and_its_error_can_be_read_back(value: float, error: float) -> None:
    text = with_error(value, error)
    found = re.fullmatch(r"(-?\d+)(?:\.(\d+))?(?:\((\d+)\))?(e[+-]\d+)?", text)
    assert found, text
    if found[3] is None:
        assert float(text) == pytest.approx(value, rel=1e-3, abs=1e-12)
        return
    unit = 10.0 ** (int((found[4] or "e0")[1:]) - len(found[2] or ""))
    assert abs(float(text.replace(f"({found[3]})", "")) - value) <= 0.51 * max(unit, error)
    assert abs(int(found[3]) * unit - error) <= 0.51 * 10.0 ** math.floor(math.log10(error))
    assert found[4] is None or len(found[1].lstrip("-")) == 1, "one digit before the point of a power of ten"


def test_long_names_fold_on_a_narrow_console(small: Run) -> None:
    found = tables.build(small.records, small.states, [16], Options(replicates=10))
    long = "batch-normalize(rao-blackwell(jackpot(c1=2, lam=1.5)))"
    for frame in (found.acceptance_vs_kl, found.kl_before_after):
        frame["estimator"] = frame["estimator"].replace("tis(clip=2)", long)
    console = Console(width=60, file=io.StringIO(), highlight=False)
    show._print_by_estimator("KL", found.kl_before_after, "kl_effective", console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 60
    assert long.replace(" ", "") in "".join(line[:30].strip() for line in lines).replace(" ", "")


def lowest(mse: list[float], rescaled: list[float], probability: float = 1.0) -> str:
    """The table of one environment with one estimator, `e`, at n = 1, 2, ..."""
    about = {"environment": "{}", "label": "top-p on zipf p=0.8", "env_kind": "top-p", "base_kind": "zipf"}
    named = about | {"estimator": "e", "denominator": "proposed", "lowest": True, "lowest_rescaled": True}
    rows = [
        named | {"n_samples": n, "mse": a, "mse_rescaled": b, "probability": probability / n, "probability_rescaled": 1}
        for n, (a, b) in enumerate(zip(mse, rescaled, strict=True), start=1)
    ]
    console = Console(width=160, file=io.StringIO(), highlight=False)
    show._print_lowest(pd.DataFrame(rows), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_where_no_estimator_beats_no_update_it_says_so() -> None:
    lines = [" ".join(line.split()) for line in lowest([37.0, 0.5], [0.9, 0.4]).splitlines()]
    assert "p=0.8 1 no update (MSE 1); least: e 37 e 0.9" in lines
    assert "2 e 0.5 (0.50) e 0.4" in lines


def test_a_probability_belongs_to_a_stated_n() -> None:
    shown = " ".join(lowest([0.8, 0.6, 0.5], [0.7, 0.5, 0.4], 0.9).split())
    assert "1–3 e 0.8 to 0.5 (0.30 at n=3) e 0.7 to 0.4" in shown
    assert "MSE of 1 is no update at all" in shown


def test_help_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for said in ("lowest_mse", "--n-samples", "bootstrap", "Exit codes"):
        assert said.lower() in shown.lower()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.97163, 0.0003, "0.9716(3)"),
        (0.97163, 0.00096, "0.972(1)"),
        (4.1234e-5, 3e-7, "4.12(3)e-05"),
        (12.34, 0.5, "12.3(5)"),
        (1.3e-16, 2e-17, "0"),
        (0.9, 1e-17, "0.9"),
        (np.inf, np.inf, "inf"),
        (np.nan, np.nan, "nan"),
        (0.25, np.inf, "0.25(inf)"),
        (0.002, 0.03, "0.00(3)"),
        (9.6e-6, 3e-6, "1.0(3)e-05"),
        (9.96e-6, 3e-8, "9.96(3)e-06"),
        (9.996e-6, 3e-8, "1.000(3)e-05"),
        (-9.6e-6, 3e-6, "-1.0(3)e-05"),
        (-2e-6, 3e-5, "0(3)e-05"),
        (99996.0, 30.0, "1.0000(3)e+05"),
        (123.0, 40.0, "123(40)"),
    ],
)
def test_figures_are_written_as_far_as_they_are_known(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text
