"""`python -m jackpot_sim` lists the commands, runs the one that is named, and refuses any other in one sentence."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from jackpot_sim.__main__ import COMMANDS, main
from tests.cases import each

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"]])
def test_it_lists_every_command_in_a_line(line: list[str], capsys: Captured) -> None:
    assert main(line) == 0
    out, error = capsys.readouterr()
    assert error == ""
    listed = [text.split()[0] for text in out.splitlines() if text.startswith("  ")]
    assert listed == list(COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


@each("name", COMMANDS)
def test_a_command_is_the_one_of_its_name(name: str, capsys: Captured) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    assert main([name, "--help"]) == module.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


@pytest.mark.parametrize(("name", "near"), [("swep", "sweep"), ("paper-figures", "paper_figures"), ("x\nλ", None)])
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
