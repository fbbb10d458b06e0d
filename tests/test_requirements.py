"""What is installed is held against what this project needs, before anything else happens."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import metadata

import pytest

from jackpot_sim import requirements
from jackpot_sim.requirements import RequirementError, require, run
from tests.packages import with_version, without

COMMANDS = {
    "sweep": "jackpot_sim.sweep.cli",
    "training": "jackpot_sim.training.cli",
    "bench": "jackpot_sim.bench.cli",
    "analysis": "analysis.cli",
}


def lacking(*names: str) -> str | None:
    """What `require` says against the installed packages."""
    try:
        require(*names)
    except RequirementError as error:
        return str(error)
    return None


def test_what_is_installed_here_is_enough() -> None:
    assert lacking() is None
    assert lacking("torch", "transformers", "datasets", "math-verify", "tensorboard", "trl") is None


def test_every_package_that_is_imported_has_a_bound() -> None:
    bounds = requirements._bounds()
    assert {"numpy", "pandas", "cyclopts", "packaging", "torch", "transformers"} <= set(bounds)
    assert all(needed.specifier for needed, extra in bounds.values() if extra in ("", "hf"))


@pytest.mark.parametrize(("name", "extra"), [("numpy", r"'\.'"), ("transformers", r"'\.\[hf\]'")])
def test_an_old_package_is_named_with_what_is_needed(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, name, "0.1")
    sentence = (
        rf"^small-lm needs {name}>=\d.*, and {name} 0\.1 is installed: pip install -c constraints-cpu\.txt {extra}"
    )
    with pytest.raises(RequirementError, match=sentence):
        require(name, purpose="small-lm")


def test_a_development_version_of_a_newer_release_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "transformers", "99.0.dev0")
    assert lacking("transformers") is None


def test_without_metadata_there_are_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    requirements._bounds.cache_clear()
    monkeypatch.setattr(metadata, "requires", absent)
    try:
        with_version(monkeypatch, "numpy", "0.1")
        assert lacking("numpy") is None
    finally:
        requirements._bounds.cache_clear()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_old_package_ends_a_command_before_it_is_imported(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_version(monkeypatch, "cyclopts", "2.0")
    imported = list[str]()
    monkeypatch.setattr(importlib, "import_module", imported.append)
    assert run(name, COMMANDS[name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: this project needs cyclopts>=")
    assert error.count("\n") == 1
    assert imported == []


def test_a_package_that_is_there_and_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ImportError("No module named 'httpx'\nand more")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RequirementError, match=r"^transformers [\d.]+ is installed .*\(No module named 'httpx'\)"):
        requirements.imported("transformers")


def test_models_that_are_missing_end_a_command_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "transformers")
    monkeypatch.setattr(sys, "argv", ["training", "--quiet"])
    assert run("training", COMMANDS["training"]) == 2
    assert capsys.readouterr().err.startswith("training: training needs transformers, which is missing: pip install")


def test_a_terminal_without_greek_letters_is_no_reason_to_fail() -> None:
    """One command in a process of its own; tests/end_to_end/test_stupid_inputs.py asks them all, in its process."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "jackpot_sim.training", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage" in done.stdout


def test_an_interruption_during_the_imports_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert run("sweep", COMMANDS["sweep"]) == 130
    assert capsys.readouterr().err == "sweep: interrupted before it began\n"
