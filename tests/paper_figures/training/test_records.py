"""Where figures of training take their records from, and how they refuse what does not fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, SerialExecutor
from jackpot_sim.training.study import Study, read
from paper_figures import figure1, records
from paper_figures.__main__ import FIGURES
from paper_figures.training import records as training_records
from paper_figures.training.records import committed, config, load
from tests.packages import without
from tests.paper_figures.training.trained import Fate, write
from tests.training.tiny import TINY

Captured = pytest.CaptureFixture[str]

OF_TRAINING = (
    *("figure1", "factorial", "table1", "table2", "updates", "sizes", "collapse_map", "recipes", "longer"),
    *("ablation", "no_clipping", "long_run", "closed_loop", "real_training"),
)
SHIPPED = [name for name in OF_TRAINING if committed(name).exists()]
LEVEL = dict.fromkeys(("on-policy", "none", "tis", "jackpot", "rao-blackwell"), Fate())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in which all methods are alike."""
    return write(tmp_path_factory.mktemp("records") / "figure1", "figure1", LEVEL, seeds=2, steps=60)


@pytest.mark.parametrize("name", OF_TRAINING)
def test_each_has_a_study_with_a_quick_version_and_is_among_all_figures(name: str) -> None:
    assert name in FIGURES
    assert read(config(name)).name == name
    assert len(read(config(name), quick=True).runs) <= len(read(config(name)).runs)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_the_figures_study_and_is_drawn(name: str, tmp_path: Path, capsys: Captured) -> None:
    found = load(name, None)
    asked = read(config(name)).grid
    assert json.loads((committed(name) / "manifest.json").read_text())["study"] == name
    assert {setting: set(methods) for setting, methods in found.grid.items()} == {
        setting: set(methods) for setting, methods in asked.items()
    }
    assert FIGURES[name](["--out", str(tmp_path)]) in (0, 1)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert "\nVERDICT: " in capsys.readouterr().out


@pytest.mark.parametrize("folder", sorted(committed("figure1").parent.iterdir()), ids=lambda folder: folder.name)
def test_what_ships_is_what_its_study_asks_for(folder: Path) -> None:
    asked, told = read(config(folder.name)), json.loads((folder / "manifest.json").read_text())
    # By what this version makes of both: records of an older one have that one's digest in their manifest.
    assert Study.model_validate(told["config"]).config_hash == asked.config_hash
    assert told["config"]["seeds"] == list(asked.seeds)
    found = pd.read_parquet(folder / "outcomes.parquet")
    assert sorted(zip(found["setting"], found["method"], found["seed"], strict=True)) == sorted(
        (run.setting, run.method, run.seed) for run in asked.runs
    )


def test_what_does_not_ship_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(training_records, "committed", lambda name: tmp_path / name)
    for name in OF_TRAINING:
        assert FIGURES[name](["--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"{name}: no records of {name} ship with this version")
        assert f"{name}.yaml" in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("sketched")
def test_what_ships_is_read_by_default(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(training_records, "committed", lambda _: root)
    assert figure1.main(["--out", str(tmp_path)]) == 0
    assert f"Records {root}" in " ".join(capsys.readouterr().out.split())


def test_the_same_records_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for place in ("first", "again"):
        figure1.main(["--records", str(root), "--out", str(tmp_path / place)])
    for kind in ("png", "pdf"):
        first, again = (tmp_path / place / f"figure1.{kind}" for place in ("first", "again"))
        assert first.read_bytes() == again.read_bytes()


def _spoilt(root: Path, how: str) -> str:
    """Spoils records; what is said of them."""
    if how == "nothing":
        shutil.rmtree(root)
        return "holds no study"
    if how == "unfinished":
        (root / "steps.parquet").unlink()
        return "holds no finished study"
    if how == "no parquet":
        (root / "outcomes.parquet").write_text("nonsense")
        return "cannot be read"
    if how == "no column":
        pd.read_parquet(root / "steps.parquet").drop(columns="accuracy").to_parquet(root / "steps.parquet")
        return "lack accuracy"
    if how in ("another grid", "no steps asked"):
        manifest = json.loads((root / "manifest.json").read_text())
        if how == "another grid":
            manifest["config"]["grid"] = {"elsewhere": {}}
        else:
            del manifest["config"]["grid"]["run"]["tis"]["steps"]
        (root / "manifest.json").write_text(json.dumps(manifest))
        return "their manifest is that of another study"
    assert how == "no method"
    for name in ("steps", "outcomes"):
        rows = pd.read_parquet(root / f"{name}.parquet")
        rows[rows["method"] != "tis"].to_parquet(root / f"{name}.parquet")
    return "lacks tis"


@pytest.mark.parametrize(
    "how", ["nothing", "unfinished", "no parquet", "no column", "another grid", "no steps asked", "no method"]
)
def test_records_that_do_not_fit_are_refused_in_one_sentence(
    root: Path, tmp_path: Path, capsys: Captured, how: str
) -> None:
    shutil.copytree(root, tmp_path / "run")
    told = _spoilt(tmp_path / "run", how)
    assert figure1.main(["--records", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("figure1: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ways", [("--quick", "--records"), ("--rerun", "--records"), ("--rerun", "--quick")])
def test_ways_to_records_exclude_each_other(root: Path, capsys: Captured, ways: tuple[str, str]) -> None:
    assert figure1.main([*ways, *([str(root)] if "--records" in ways else [])]) == 2
    assert "give one of --records, --rerun and --quick" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["--quick", "--rerun"])
def test_training_without_torch_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: Captured, way: str) -> None:
    without(monkeypatch, "torch")
    assert figure1.main([way]) == 2
    told = capsys.readouterr().err
    assert f"{way}, which trains models, needs torch" in told


@pytest.mark.usefixtures("sketched")
def test_records_of_another_configuration_are_told_of_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """They took hours, and may still show what the figure asks; whose settings are missing is refused elsewhere."""
    assert load("table2", None)
    assert capsys.readouterr().err == ""
    other = yaml.safe_load(config("table2").read_text()) | {"steps": 7}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(other))
    monkeypatch.setattr(training_records, "config", lambda name: tmp_path / f"{name}.yaml")
    assert load("table2", None)
    assert capsys.readouterr().err == (
        "table2: the records that ship are not of configs/table2.yaml as it is: --rerun trains those\n"
    )


@pytest.mark.usefixtures("sketched")
def test_quick_trains_the_short_version_once_and_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = {"kind": "qwen3", "hidden": 8, "layers": 1, "heads": 2, "kv_heads": 1, "initial_scale": 17}
    methods: dict[str, Any] = {"on-policy": {"actor": {"kind": "on-policy"}}, "none": {}}
    methods |= {kind: {"correction": {"kind": kind}} for kind in ("tis", "jackpot")}
    tiny = TINY | {"name": "figure1", "actor": {"kind": "frozen", "kl": 1.5, "model": model}, "methods": methods}
    tiny |= {"steps": 300, "seeds": 3, "quick": {"seeds": 1, "steps": 2}}
    (tmp_path / "figure1.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.setattr(training_records, "config", lambda _: tmp_path / "figure1.yaml")
    monkeypatch.chdir(tmp_path)
    pools = []

    def opened(kind: ExecutorKind, count: int) -> AbstractContextManager[Executor]:
        """This process: that others give the same is a test of tests/training/test_conduct.py."""
        pools.append((kind, count))
        return nullcontext(SerialExecutor())

    monkeypatch.setattr(training_records, "opened", opened)
    assert figure1.main(["--quick"]) == 0
    assert pools == [(ExecutorKind.LOKY, min(os.cpu_count() or 1, 4))]
    captured = capsys.readouterr()
    verdict = captured.out[captured.out.index("NO VERDICT") :]
    assert verdict.startswith("NO VERDICT, a quick look at 1 seed and at most 2 steps, which decides nothing")
    assert "SUPPORT" not in verdict
    assert "4 of 4 runs finished" in captured.err
    assert (tmp_path / "runs/figures/figure1-quick/steps.parquet").exists()
    assert figure1.main(["--quick"]) == 0
    assert "0 of 4" not in capsys.readouterr().err
    (tmp_path / "figure1.yaml").write_text(yaml.safe_dump(tiny | {"quick": {"seeds": 1, "steps": 3}}))
    assert figure1.main(["--quick"]) == 2
    assert "another version of the study" in capsys.readouterr().err


def test_records_are_read_without_torch(root: Path) -> None:
    code = (
        "import sys; from paper_figures import figure1;"
        f"figure1.main(['--records', {str(root)!r}, '--out', {str(root.parent / 'drawn')!r}]);"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_help_tells_of_the_quick_version(capsys: Captured) -> None:
    assert figure1.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--quick" in shown
    assert "--records" in shown


def test_an_error_is_of_one_kind(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        load("figure1", tmp_path)


def test_the_papers_numbers() -> None:
    assert records.published("figure1").set_index("method")["kl"].to_dict() == {"none": 2, "tis": 1, "jackpot": 0.1}
