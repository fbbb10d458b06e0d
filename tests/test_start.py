"""Ctrl-C ends a command with one sentence and 130 from its first line on, wherever it is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import each

COMMANDS = {
    "training": ["jackpot_sim.training"],
    "sweep": ["jackpot_sim.sweep"],
    "diagnose": ["jackpot_sim.diagnose"],
    "record": ["jackpot_sim.record"],
    "report": ["jackpot_sim.report"],
    "bench": ["jackpot_sim.bench"],
    "doctor": ["jackpot_sim.doctor"],
    "analysis": ["analysis"],
    "train": ["jackpot_sim", "train"],
}
"""The arguments of python -m, by the name in the sentence."""

AT = ("packaging", "jackpot_sim.version", "rich.console")
"""Imports on the way of every command: before, in and after the check of packages."""

INTERRUPTED_AT = """
import os, runpy, signal, sys

class Finder:
    "Interrupts the process where a module is looked for, and goes on, as packages do that catch everything."
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == AT:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                [None for _ in range(100)]
            except BaseException:
                pass

AT, MODULE, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Finder)
runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
"""


def run(code: str, *arguments: str, ignoring: bool = False) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that answers SIGINT, or ignores it from the start."""

    def answer() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignoring else signal.SIG_DFL)

    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, preexec_fn=answer
    )
    return done.returncode, done.stdout, done.stderr


@each("name", COMMANDS)
def test_an_interruption_during_the_imports_is_one_sentence(name: str) -> None:
    for at in AT[: None if name != "doctor" else 1]:
        expected = (130, "", f"{name}: interrupted before it began\n")
        assert run(INTERRUPTED_AT, at, *COMMANDS[name]) == expected, at


def test_an_interruption_inside_an_import_of_a_working_command_cannot_be_lost(tmp_path: Path) -> None:
    code, out, error = run(
        INTERRUPTED_AT, "torch", "jackpot_sim.training", "--quiet", "--executor", "serial", "--out", str(tmp_path)
    )
    assert (code, out) == (130, "")
    assert error == "training: interrupted; the same command goes on from the checkpoints\n"


STARTED = """
import os, signal
from jackpot_sim import start
start.answer_interrupts("it")
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    [None for _ in range(100)]
"""


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("interrupt()", (130, "", "it: interrupted before it began\n")),
        (
            "try:\n    with start.Working('it: late'): interrupt()\nexcept KeyboardInterrupt: print('caught')",
            (0, "caught\n", ""),
        ),
        ("with start.Working('it: late'): pass\ninterrupt()", (130, "", "it: late\n")),
        (
            "class Dies:\n    __del__ = lambda self: interrupt()\nwith start.Working('it: late'):\n    Dies()\n"
            "    print('went on')",
            (130, "", "it: late\n"),
        ),
        ("import atexit\natexit.register(interrupt)", (130, "", "it: interrupted before it began\n")),
        (
            "class Fails:\n    def __del__(self): raise ValueError('told as ever')\nFails()",
            (0, "", "told as ever"),
        ),
    ],
    ids=["before", "at work", "after", "in a destructor", "at exit", "another error"],
)
def test_only_a_working_command_sees_an_exception(then: str, expected: tuple[int, str, str]) -> None:
    code, out, error = run(f"{STARTED}\n{then}")
    assert (code, out) == expected[:2]
    assert error == expected[2] or ("ValueError" in error and expected[2] in error and code == 0)


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    assert run(f"{STARTED}\ninterrupt()\nprint('went on')", ignoring=True) == (0, "went on\n", "")


def test_the_project_s_modules_leave_a_program_that_imports_them_its_own_answer() -> None:
    code = "import jackpot_sim.start, jackpot_sim.commands, signal\nprint(signal.getsignal(signal.SIGINT))"
    assert "default_int_handler" in run(code)[1]
    code = f"from jackpot_sim.__main__ import main\nmain(['--version'])\n{code}"
    assert "default_int_handler" in run(code)[1]


def test_where_nothing_is_installed_one_sentence_says_so() -> None:
    line = [sys.executable, "-S", "-m", "jackpot_sim.diagnose", "--example"]
    done = subprocess.run(line, cwd=Path(__file__).parents[1], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "install this project first, pip install -c constraints-cpu.txt" in done.stderr
