"""`python -m tests.versions`: the model-facing tests in fresh environments of pinned, lowest and newest packages.

Each environment is made by uv from pyproject.toml alone:

    pinned   the versions in constraints-cpu.txt, with which the README installs
    lowest   the lowest version of every direct dependency that its lower bound allows
    newest   the newest version of everything

One table says which versions were installed and how the tests ended; the exit code is 0 if all passed. A
failing environment and its log stay where the table says.

On Linux torch's ordinary wheel brings CUDA libraries of several gigabytes. Where PyTorch's own CPU index can be
reached, UV_TORCH_BACKEND=cpu avoids them; UV_FIND_LINKS names a folder with wheels of one's own. `--hold` adds
constraints to every environment, as in `--hold torch==2.13.0`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = "constraints-cpu.txt"

SETS: dict[str, tuple[str, ...]] = {
    "pinned": ("--constraints", CONSTRAINTS),
    "lowest": ("--resolution", "lowest-direct"),
    "newest": ("--upgrade",),
}
"""The options that make uv choose these versions."""

TESTS = (
    *("tests/test_requirements.py", "tests/doors", "tests/studies"),
    *("tests/environments", "tests/training", "tests/sweep", "tests/bench"),
)

SHOWN = ("numpy", "pandas", "pyarrow", "cyclopts", "pydantic", "torch", "transformers", "trl", "gguf")
"""Packages whose versions the table shows."""

_PLAIN = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Outcome:
    """How the tests ended in one environment."""

    label: str
    versions: dict[str, str]
    ended: str
    seconds: float
    passed: bool


def outcome(label: str, options: Sequence[str], python: str, tests: Sequence[str], folder: Path, jobs: str) -> Outcome:
    """Makes one environment and runs the tests in it."""
    environment, log = folder / label, folder / f"{label}.log"
    interpreter = environment / "bin" / "python"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        for command in (
            [*_uv(), "venv", "--quiet", "--clear", "--python", python, str(environment)],
            [*_uv(), "pip", "install", "--quiet", "--python", str(interpreter), *options, "--editable", ".[test]"],
        ):
            if subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode:
                return Outcome(label, {}, f"cannot be installed, see {log}", time.monotonic() - started, False)
        command = [str(interpreter), "-m", "pytest", "-n", jobs, *tests]
        code = subprocess.run(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False, env=os.environ | _PLAIN
        ).returncode
    ended = _last_line(log)
    return Outcome(
        label,
        _versions(interpreter),
        ended if code == 0 else f"{ended}, see {log}",
        time.monotonic() - started,
        code == 0,
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8").splitlines()
    return next(
        (line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "the tests did not run"
    )


def _uv() -> list[str]:
    return [sys.executable, "-m", "uv"]


def _versions(interpreter: Path) -> dict[str, str]:
    question = (
        "import sys; from importlib.metadata import version\n"
        "print('python', sys.version.split()[0])\n"
        f"for name in {SHOWN!r}: print(name, version(name))"
    )
    answer = subprocess.run([str(interpreter), "-c", question], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in answer.stdout.splitlines())


def _table(outcomes: Sequence[Outcome]) -> str:
    """One row for each environment, in Markdown."""
    columns = ("python", *SHOWN)
    rows = [("set", *columns, "tests", "seconds"), ("---",) * (len(columns) + 3)]
    rows += [
        (each.label, *(each.versions.get(name, "") for name in columns), each.ended, f"{each.seconds:.0f}")
        for each in outcomes
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is asked for, and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="default: all three")
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], help="interpreters or their versions; default: this one"
    )
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help=f"paths for pytest; default: {' '.join(TESTS)}")
    parser.add_argument("--hold", nargs="+", default=[], help="constraints for every environment")
    parser.add_argument("--folder", type=Path, help="where the environments go; default: a temporary folder")
    parser.add_argument("-n", "--jobs", default="2", help="processes of pytest")
    options = parser.parse_args(argv)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="jackpot-versions-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    held = folder / "held.txt"
    held.write_text("".join(f"{line}\n" for line in options.hold), encoding="utf-8")
    outcomes = []
    for python in options.python:
        for name in options.sets:
            label = f"{name}-{Path(python).name}" if len(options.python) > 1 else name
            print(f"{label} …", file=sys.stderr, flush=True)
            given = (*SETS[name], "--constraints", str(held))
            outcomes.append(outcome(label, given, python, options.tests, folder, options.jobs))
            print(_table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(_table(outcomes))
    return 0 if all(each.passed for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
