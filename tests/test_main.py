"""`jackpot-sim` lists the commands, runs the one that is named, and refuses any other in one sentence."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jackpot_sim import version
from jackpot_sim.__main__ import COMMANDS, OLD_NAMES, main
from tests.cases import each

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"]])
def test_it_lists_every_command_in_a_line(line: list[str], capsys: Captured) -> None:
    assert main(line) == 0
    out, error = capsys.readouterr()
    assert error == ""
    listed = [text.split()[0] for text in out.splitlines() if text.startswith("  ")]
    assert listed == [*COMMANDS, "--version", "--install-completion", "--help,"]
    assert max(map(len, out.splitlines())) <= 80


@each("name", COMMANDS)
def test_a_command_is_the_one_of_its_name(name: str, capsys: Captured) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    assert main([name, "--help"]) == module.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_a_command_has_its_old_name_too(capsys: Captured) -> None:
    """And the names that modules have."""
    assert OLD_NAMES == {"training": "train", "paper_figures": "figures"}
    for old, new in OLD_NAMES.items():
        assert main([old, "--help"]) == main([new, "--help"]) == 0
        out = capsys.readouterr().out
        assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_a_figure_is_drawn_by_its_name(capsys: Captured) -> None:
    assert main(["figures", "figure2", "--help"]) == 0
    assert "--records" in capsys.readouterr().out
    assert main(["figures", "figre2"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert "figre2" in error


@pytest.mark.parametrize(
    ("name", "near"),
    [("swep", "sweep"), ("paper-figures", "figures"), ("trian", "train"), ("diagnosis", "diagnose"), ("x\nλ", None)],
)
def test_a_mistyped_command_is_one_sentence(name: str, near: str | None, capsys: Captured) -> None:
    assert main([name, "--help"]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith(f"jackpot_sim: there is no command {name!a}")
    assert (f"did you mean {near}?" in error) == (near is not None)


def test_arguments_reach_the_command_from_a_shell() -> None:
    command = [sys.executable, "-m", "jackpot_sim", "sweep", "--seeds", "x"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("sweep: Invalid value for --seeds")


def test_the_entry_point_is_this() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["jackpot-sim"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


@each("line", [["--version"], *([name, "--version"] for name in COMMANDS)])
def test_the_version_is_told_by_every_command(line: list[str], capsys: Captured) -> None:
    assert main(line) == 0
    assert capsys.readouterr() == (f"{version.line()}\n", "")


@each("line", [["--help"], ["--version"], ["swep"]])
def test_it_starts_at_once_and_imports_nothing_that_it_does_not_need(line: list[str]) -> None:
    """In half a second of processor time, and without any package but this one."""
    script = (
        "import sys, time; from jackpot_sim.__main__ import main\n"
        f"main({line!r}); own = {{*sys.stdlib_module_names, 'jackpot_sim', '__main__'}}\n"
        "others = {name.split('.')[0] for name in sys.modules} - own\n"
        "print(sorted(name for name in others if not name.startswith('_')), time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True)
    others, seconds = done.stderr.splitlines()[-1].rsplit(" ", 1)
    assert others == "[]"
    assert float(seconds) < 0.5
