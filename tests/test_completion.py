"""Bash completes every command and option of `jackpot-sim`, from a script that is loaded by a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jackpot_sim import estimators
from jackpot_sim.__main__ import COMMANDS, main
from tests.cases import each

BASH = shutil.which("bash")
Complete = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which completion was installed for bash, as a user installs it."""
    folder = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "jackpot_sim", "--install-completion", "bash"]
    done = subprocess.run(command, env=os.environ | {"HOME": str(folder)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": complete with Tab in the next bash.\n")
    return folder


@pytest.fixture(scope="module")
def complete(home: Path) -> Complete:
    """A function of a line that gives what bash offers for its last word."""
    if BASH is None:
        pytest.skip("no bash")

    def words(line: str) -> list[str]:
        told = shlex.split(line) + [""] * line.endswith(" ")
        script = (
            f"source .bashrc; COMP_WORDS=({shlex.join(told)}); COMP_CWORD={len(told) - 1}; "
            'function=$(complete -p jackpot-sim | sed "s/.*-F \\\\([^ ]*\\\\) .*/\\\\1/"); "$function"; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            [BASH, "--norc", "-c", script],
            env=os.environ | {"HOME": str(home)},
            cwd=home,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return words


def test_every_command_is_completed(complete: Complete) -> None:
    assert complete("jackpot-sim ") == list(COMMANDS)
    assert complete("jackpot-sim di") == ["diagnose"]
    assert {"--version", "--help", "--install-completion"} <= set(complete("jackpot-sim -"))
    for name in COMMANDS:
        assert {"--help", "--version"} <= set(complete(f"jackpot-sim {name} -")), name


@each(
    "line, offered",
    [
        ("jackpot-sim sweep --exe", {"--executor"}),
        ("jackpot-sim sweep --executor ", {"loky", "serial"}),
        ("jackpot-sim sweep --env.kind logit", {"logit-noise"}),
        ("jackpot-sim sweep --env.base.vo", {"--env.base.vocab"}),
        ("jackpot-sim train --update.learn", {"--update.learning-rate"}),
        ("jackpot-sim train --actor.kind st", {"stale"}),
        ("jackpot-sim train --correction.target ", {"p_ref", "p_new"}),
        ("jackpot-sim bench gpu --min", {"--minutes"}),
        ("jackpot-sim bench over", {"overhead"}),
        ("jackpot-sim figures figure2", {"figure2"}),
        ("jackpot-sim completion f", {"fish"}),
    ],
)
def test_options_and_their_values_are_completed(line: str, offered: set[str], complete: Complete) -> None:
    found = set(complete(line))
    assert offered <= found
    assert all(each.startswith(line.split(" ")[-1]) for each in found)


def test_corrections_are_those_that_are_registered(complete: Complete) -> None:
    for line in ("jackpot-sim train --correction ", "jackpot-sim sweep --estimators "):
        assert set(complete(line)) >= {"jackpot", "tis"}
        assert set(complete(line)) <= set(estimators.names()), line


def test_the_script_is_loaded_once_however_often_it_is_installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (home / ".bashrc").read_text(encoding="utf-8")
    assert before.count("jackpot-sim") == 3  # a comment, and a line that loads the file where there is one
    monkeypatch.setenv("HOME", str(home))
    assert main(["--install-completion", "bash"]) == 0
    assert (home / ".bashrc").read_text(encoding="utf-8") == before


@each("shell, sign", [("zsh", "#compdef jackpot-sim"), ("fish", "complete -c jackpot-sim")])
def test_other_shells_have_scripts(shell: str, sign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert sign in out
    assert "sweep" in out


@each("line", ["completion tcsh", "completion bash zsh", "completion --install=fish"])
def test_a_shell_that_is_not_known_is_one_sentence(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("completion: ")


def test_without_a_shell_around_it_one_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cyclopts.completion

    def another() -> str:
        return "powershell"

    def none() -> str:
        raise cyclopts.completion.ShellDetectionError

    for found in (another, none):
        monkeypatch.setattr(cyclopts.completion, "detect_shell", found)
        assert main(["--install-completion"]) == 2
        assert capsys.readouterr().err == "completion: this runs in no known shell: name one of bash, zsh, fish\n"


def test_a_home_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/proc/nope")
    assert main(["--install-completion", "fish"]) == 2
    assert capsys.readouterr().err == "completion: cannot write /proc/nope: No such file or directory\n"
