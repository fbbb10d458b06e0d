"""What is installed is held against what this project needs, before anything else happens."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from jackpot_sim import requirements
from jackpot_sim.requirements import RequirementError, State, UntestedVersionWarning, require, require_tested, run
from tests.packages import with_version, without

ROOT = Path(__file__).parents[1]

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


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the package stands, as an installation puts it there, without a checkout around it."""
    package = tmp_path / "jackpot_sim"
    package.mkdir()
    monkeypatch.setattr(requirements, "_PACKAGE", package)
    for each in (requirements._bounds, requirements._constraints):
        each.cache_clear()
    yield package
    for each in (requirements._bounds, requirements._constraints):
        each.cache_clear()


def test_without_metadata_there_are_no_bounds(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", absent)
    with_version(monkeypatch, "numpy", "0.1")
    assert lacking("numpy") is None


def test_an_installation_takes_its_bounds_from_its_metadata_and_its_tested_versions_from_its_own_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["numpy>=2.2", "trl>=1.16; extra == 'trl'"]
    monkeypatch.setattr(metadata, "requires", lambda _: lines)
    (elsewhere / "constraints-cpu.txt").write_text("# pins\nnumpy==2.4.6\nTRL==1.16.0 ; sys_platform == 'linux'\n")
    with_version(monkeypatch, "trl", "1.17")
    found = requirements.package("trl")
    assert (found.extra, found.state, found.tested) == ("trl", State.NEWER, ">=1.16,<=1.16.0")
    assert requirements.core() == ["numpy"]


# --- tested versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "state"),
    [
        *(("1.15.9", State.TOO_OLD), ("1.16", State.TESTED), ("{}", State.TESTED), ("{}+cpu", State.TESTED)),
        *(("{}.1", State.NEWER), ("99.0.dev0", State.NEWER), ("unknown", State.UNREADABLE), ("", State.UNREADABLE)),
    ],
)
def test_a_version_stands_beside_the_tested_ones(version: str, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = requirements.package("trl").newest
    assert newest is not None
    assert f"trl=={newest}" in (ROOT / "constraints-cpu.txt").read_text(encoding="utf-8").splitlines()
    with_version(monkeypatch, "trl", version.format(newest))
    assert requirements.package("trl").state is state


def test_a_newer_version_is_warned_of_once_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_WARNED", set())
    with_version(monkeypatch, "trl", "99.1")
    range_ = re.escape(requirements.package("trl").tested)
    with pytest.warns(UntestedVersionWarning, match=rf"^the mixin was tested with trl{range_}, and trl 99\.1 is inst"):
        require_tested("trl", "numpy", purpose="the mixin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_tested("trl", purpose="the mixin")
    with pytest.raises(RequirementError, match=r"^the mixin needs nowhere, which is missing: pip install"):
        require_tested("trl", "nowhere", purpose="the mixin")


def test_the_newest_tested_version_of_every_package_is_known() -> None:
    """So that a newer one is warned of; those that only tests need are of no account."""
    asked_for = [(needed, extra) for needed, extra in requirements.asked_for() if extra not in ("test", "docs")]
    extras = {needed.name: extra for needed, extra in asked_for}
    assert {"numpy", "torch", "trl", "verl", "ray", "llama-cpp-python"} <= set(extras)
    assert [name for name in extras if requirements.package(name).newest is None] == []


def test_an_installation_brings_the_tested_versions_with_it() -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    taken = hatch["build"]["targets"]["wheel"]["force-include"]
    assert taken.items() >= {path.name: f"jackpot_sim/{path.name}" for path in ROOT.glob("constraints-*.txt")}.items()


def test_what_was_tested_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_WARNED", set())
    require_tested("trl", "torch", "transformers")
    assert set() == requirements._WARNED


@pytest.mark.parametrize("version", ["unknown", None, "raises"])
def test_metadata_without_a_version_are_one_sentence(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: str) -> str | None:
        if version == "raises":
            raise KeyError("Version")
        return version

    monkeypatch.setattr(metadata, "version", answer)
    sentence = lacking("trl")
    assert sentence is not None
    assert sentence.startswith("this project needs trl, whose metadata tell")
    assert sentence.endswith("'.[trl]' in the project's folder")


def test_an_extra_with_other_tested_versions_has_its_own_constraints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "verl")
    found = requirements.package("verl")
    assert found.newest is not None
    assert found.install == (
        "pip install -c constraints-verl.txt '.[verl]' in the project's folder, in an environment of its own"
    )


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
