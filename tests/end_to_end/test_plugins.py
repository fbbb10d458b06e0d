"""A user's own correction goes through the commands like one of ours, and a wrong one is one sentence."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jackpot_sim.estimators.corrections import registry
from jackpot_sim.studies import plugins
from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.sweep import cli, records
from tests.cases import each
from tests.end_to_end.commands import sweep
from tests.end_to_end.plugins import AT_IMPORT, GOOD, IN_STUDY, Wrong
from tests.end_to_end.stupid_inputs import Input, answer

STUDY = """
env: {kind: top-k, k: 3, base: {kind: zipf, vocab: 5, states: 2}}
estimators: [{kind: probability-gap, gap: [0.05, 0.9]}, {kind: tis, masked_by: probability-gap}]
seeds: 2
"""
SMALL = (
    "--env.kind top-k --env.k 3 --env.base.kind zipf --env.base.vocab 5 --env.base.states 2 --seeds 1 --executor serial"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with every plug-in in it; what a test registers is forgotten after it."""
    for name in ("_REGISTRY", "_LOADED", "_DIGESTS"):
        home = registry if name == "_REGISTRY" else plugins
        monkeypatch.setattr(home, name, dict(getattr(home, name)))
    for name, wrong in (AT_IMPORT | IN_STUDY).items():
        (tmp_path / f"{name}.py").write_text(wrong.source)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "study.yaml").write_text(f"plugins: good.py\n{STUDY}")
    (tmp_path / "without.yaml").write_text(STUDY)
    (tmp_path / "bad.yaml").write_text(f"plugins: [1]\n{STUDY}")
    (tmp_path / "train.yaml").write_text(
        "plugins: [good.py]\ncorrection: {kind: probability-gap, gap: 0.2}\nsteps: 1\n"
    )
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line: str, part: str, command: str = "sweep") -> None:
    asked = Input(command, line, part)
    assert answer(asked).faults(asked) == []


@each("name, wrong", AT_IMPORT.items())
def test_a_plug_in_that_cannot_be_run_is_one_sentence(name: str, wrong: Wrong) -> None:
    before = dict(registry._REGISTRY)
    refused(f"--plugin {name}.py", wrong.part)
    refused(f"--plugin {name}.py --dry-run", f"plug-in {name}.py: ", "training")
    refused(f"--help --plugin {name}.py", f"plug-in {name}.py: ")
    assert before == registry._REGISTRY


@each("name, wrong", IN_STUDY.items())
def test_a_correction_that_does_not_work_is_one_sentence(name: str, wrong: Wrong) -> None:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        refused(f"--plugin {name}.py --estimators new {SMALL}", wrong.part)


@each(
    "line, part",
    [
        ("--plugin nowhere.py", "plug-in nowhere.py cannot be read: No such file"),
        ("--plugin folder", "plug-in folder: there is no such module"),
        ("--plugin nowhere", "plug-in nowhere: there is no such module"),
        ("--plugin nowhere.below", "plug-in nowhere.below: there is no such module"),
        ("--plugin good", "there is no such module; did you mean good.py?"),
        ("--plugin ./good", "give a file that ends in .py, or the name of a module"),
        ("--plugin json", "plug-in json: it registers no correction"),
        ("--plugin good.py --estimators probability-gapp", "did you mean 'probability-gap'"),
        ("--config without.yaml", "unknown estimator 'probability-gap'"),
        ("--config bad.yaml", "plugins: give files that end in .py or names of modules, not 1"),
        ("--config study.yaml --plugin nowhere.py", "nowhere.py cannot be read"),
        ("--plugin", "--plugin: name a file that ends in .py, or a module"),
        ("--columns --plugin", "--plugin: name a file"),
    ],
)
def test_what_is_no_plug_in_is_one_sentence(line: str, part: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        refused(line, part)


def test_a_plugged_in_correction_is_in_the_help_and_among_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help", "all", "--plugin", "good.py"]) == 0
    assert "probability-gap (gap=0.3, hard=true)" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["--columns", "--plugin", "good.py"]) == 0
    printed = capsys.readouterr().out
    assert "parameter (probability-gap)" in printed
    from jackpot_sim.training import cli as training

    assert training.main(["--help", "all", "--plugin", "good.py"]) == 0
    assert "probability-gap (gap=0.3, hard=true)" in " ".join(capsys.readouterr().out.split())


def test_a_worker_process_runs_it_and_analysis_does_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # where python -m finds this checkout
    config, root = folder / "without.yaml", folder / "run"
    code, out, err = sweep("--config", config, "--plugin", folder / "good.py", "--workers", "1", "--out", root)
    assert (code, err) == (0, ""), err
    assert "probability-gap" in out
    (folder / "good.py").rename(folder / "gone.py")
    rows = records.load(root)
    found = rows[rows["estimator_kind"] == "probability-gap"]
    assert sorted(found["gap"]) == [0.05, 0.05, 0.9, 0.9]
    assert set(found["hard"]) == {True}
    done = subprocess.run(
        [sys.executable, "-m", "analysis", root, "--replicates", "20"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "probability-gap(gap=0.05)" in done.stdout


def test_the_hash_follows_the_contents_of_the_plug_in_and_not_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = read_mapping(Path("study.yaml"))
    study = cli.study_from(Path("study.yaml"), {}, False)
    (folder / "folder" / "other.py").write_text(GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", {k: c for k, c in registry._REGISTRY.items() if k != "probability-gap"})
        (folder / "moved.yaml").write_text(json.dumps({**mapping, "plugins": ["folder/other.py"], "name": "study"}))
        assert cli.study_from(Path("moved.yaml"), {}, False).config_hash == study.config_hash
    line = ["--config", "study.yaml", "--executor", "serial", "--out", "run", "--quiet"]
    assert cli.main(line) == 0
    assert cli.main(line) == 0
    (folder / "good.py").write_text(GOOD.replace("<=", "<"))
    assert cli.main(line) == 2
    assert "run was begun with other code of probability-gap: put the plug-in back as it was" in capsys.readouterr().err
    (folder / "good.py").write_text(GOOD)
    assert cli.main(line) == 0


def test_a_process_that_finds_other_contents_refuses() -> None:
    (known,) = plugins.load(["good.py"])
    plugins.require_unchanged([known])
    Path("good.py").write_text(GOOD.replace("<=", "<"))
    plugins.require_unchanged([known])  # what has run in this process stays as it was
    plugins._LOADED.clear()
    with pytest.raises(plugins.StudyError, match=r"plug-in good\.py has changed since the study began"):
        plugins.require_unchanged([known])


def test_a_process_that_does_not_see_the_file_runs_what_it_is_given() -> None:
    (known,) = plugins.load(["good.py"])
    Path("good.py").unlink()
    plugins._LOADED.clear()
    plugins.require_unchanged([known])
    assert plugins.loaded() == (known,)
    with pytest.raises(plugins.StudyError, match=r"plug-in good\.py cannot be read"):
        plugins.load(["good.py"])


def test_a_study_without_plug_ins_has_the_hash_of_before() -> None:
    plugins.load(["good.py"])
    study = cli.study_from(None, {}, False)
    assert study.corrections == {}
    named = cli.study_from(None, {}, False, plugins=["good.py"])
    assert named.plugins == ("good.py",)
    assert named.config_hash == study.config_hash


def test_training_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    from jackpot_sim.training import cli as training

    assert training.main(["--config", "train.yaml", "--dry-run"]) == 0
    assert training.main(["--plugin", "good.py", "--correction", "probability-gap", "--dry-run"]) == 0
    assert "probability-gap" in capsys.readouterr().out
    refused("--plugin good.py --correction probability-gap --correction.gep 1 --dry-run", "gep", "training")
