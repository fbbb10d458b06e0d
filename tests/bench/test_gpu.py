"""The GPU command, tried on a CPU: its stages, their ends, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from jackpot_sim.bench import cli, fusing, gpu
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.gpu import Stage

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on a CPU")


@pytest.mark.nightly
@needs_a_compiler
def test_every_stage_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gpu", "--device", "cpu", "--tiny", "--minutes", "9", "--out", str(tmp_path / "records")]) == 0
    told = json.loads((tmp_path / "records" / "gpu.json").read_text())
    assert told["machine"]["torch"], "the versions go with the figures"
    ends = {each["name"]: each["outcome"] for each in told["stages"]}
    assert ends == dict.fromkeys(("tests", "overhead", "fused", "sweep-bf16", "sweep-fp16", "training"), "done")
    found = [json.loads((tmp_path / "records" / f"{name}.json").read_text()) for name in ("overhead", "fused")]
    assert all(each["findings"] for each in found)
    assert list((tmp_path / "records" / "training").glob("steps*"))
    assert "training: done" in capsys.readouterr().out


def stage(code: str, most: float = 1.0, needs: Path | None = None) -> Stage:
    return Stage("one", "a try", ("-c", code), most, needs)


@pytest.mark.parametrize(
    ("code", "outcome", "line"),
    [
        ("print('fine')", "done", "fine"),
        ("raise SystemExit('no memory')", "done", "no memory"),
        ("import sys; print('bad input'); sys.exit(2)", "failed", "bad input"),
        ("import os; os.kill(os.getpid(), 9)", "failed", ""),
    ],
)
def test_the_end_of_a_stage_is_told(tmp_path: Path, code: str, outcome: str, line: str) -> None:
    ended = gpu._run(stage(code), tmp_path, time.monotonic() + 60)
    assert (ended.outcome, ended.last_line) == (outcome, line)


def test_a_stage_that_takes_too_long_is_cut_off_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(8); pathlib.Path({str(mark)!r}).touch()"
    parent = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    ended = gpu._run(stage(parent, most=5 / 60), tmp_path, time.monotonic() + 60)
    assert (ended.outcome, ended.last_line) == ("cut off", "begun")
    time.sleep(4)
    assert not mark.exists()


def test_what_cannot_run_is_left_out(tmp_path: Path) -> None:
    absent = gpu._run(stage("print()", needs=tmp_path / "none"), tmp_path, time.monotonic() + 60)
    late = gpu._run(stage("print()"), tmp_path, time.monotonic() + 1)
    assert [absent.outcome, late.outcome] == ["left out", "left out"]
    assert "none" in absent.last_line
    assert late.last_line == "no time is left"


def test_a_failed_stage_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = stage("print('fine')"), stage("import sys; sys.exit(3)")
    named = [dataclasses.replace(each, name=name) for name, each in (("bad", bad), ("good", good))]
    monkeypatch.setattr(gpu, "stages", lambda *_: named)
    told: list[str] = []
    assert not gpu.measure(tmp_path / "records", 1, sys.executable, "cpu", False, told.append)
    assert [line.split(",")[0] for line in told] == ["bad: failed", "good: done"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--minutes", "0", "--device", "cpu"], "minutes must be positive"),
        (["--device", "tpu"], "device must be cpu or cuda"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert cli.main(["gpu", "--out", str(tmp_path / "records"), *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line


@needs_a_compiler
def test_the_fused_overlap_is_measured_beside_the_others() -> None:
    found = {each.what: each for each in fusing.fusing(fusing.TINY, rounds=1)}
    assert found["fused Z, largest relative error"].met
    assert found["time of fused / fused"].value == 1
    assert found["memory of exact / both laws"].value >= 0.5
    assert found["memory of fused / both laws"].value < found["memory of exact / both laws"].value


def test_a_missing_compiler_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(fusing.fused, "overlap", broken)
    with pytest.raises(CannotMeasureError, match="torch cannot compile for cpu: no compiler"):
        next(fusing.fusing(fusing.TINY, rounds=1))
