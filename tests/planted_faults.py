"""A command that plants faults in the product, one at a time, and shows which of them the tests notice.

    python -m tests.planted_faults [--faults N] [--seed S] [--jobs J] [--results FILE] [--at-least SHARE] [MODULE...]

Each fault is one small change of a module's syntax tree (`tests.faults`): a comparison swapped, + for −, max for min,
a constant off by one, a `not` or an `abs` left out, the branches of a `where` exchanged, a term of a sum left out.
Without a MODULE they are drawn evenly from all modules of core, the estimators and the training objective. A fault is
written into a temporary copy of the tree, and tests run there until the first failure: for jackpot_sim/X/y.py those
are its examples, tests/X/test_y.py and tests/X/test_y_*.py, the contract tests for estimators, the tests that import
y, and all of tests/X where there is no test_y.py.

A row of the table is `caught` where a test failed, `time` where the tests took longer than the limit (a hang, which
counts as caught), and `UNCAUGHT` where all passed. What is not caught is either a hole in the tests, or a change
that no test can see: an equivalent program, such as `<` for `<=` where the two branches agree at equality. Those that
are known, with the reason, stand in tests/equivalent_faults.toml by file, function and statement; they are not drawn.
The faults depend on the seed and on the product alone, so that two versions of the tests can be compared on the same.

With `--results` each verdict is appended to a file at once, and the same command goes on where it was killed. There a
caught fault counts until its function changes, and an uncaught one until its function or one of its tests changes.
The tests must pass without a fault; those that do not are named first, and the command ends with exit code 2. It ends
with 1 if the share that is caught lies below `--at-least`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults import ROOT, Change, Fault, chosen, described, faults_of, known_equivalent, planted

COPIED = ("jackpot_sim", "analysis", "paper_figures", "tests", "pyproject.toml", "README.md", "constraints-cpu.txt")
CONTRACTS = Path("tests/contracts/test_corrections.py")
ELSEWHERE = {
    "jackpot_sim/core/weighted_laws.py": (
        "tests/estimators/states/test_small_differences.py",
        "tests/estimators/states/test_moments.py",
    ),
    "jackpot_sim/core/scored.py": (
        "tests/estimators/rollouts/test_weights.py",
        "tests/estimators/rollouts/test_gradients.py",
    ),
    "jackpot_sim/estimators/replicates.py": (
        "tests/estimators/states/test_sampled.py",
        "tests/estimators/sequences/test_sampled.py",
    ),
    "jackpot_sim/estimators/states/cumulated.py": (
        "tests/estimators/states/test_policy_gaps.py",
        "tests/estimators/states/test_path.py",
    ),
    "jackpot_sim/estimators/states/tokens.py": (
        "tests/estimators/test_new_correction.py",
        "tests/estimators/states/test_sampled.py",
        "tests/estimators/states/test_moments.py",
    ),
    "jackpot_sim/estimators/states/sorted_state.py": (
        "tests/estimators/states/test_path.py",
        "tests/estimators/states/test_small_differences.py",
    ),
}
"""Tests of modules that others use and no test of their own mirrors."""
DEFAULT = ("core", "estimators", "training/objective")
OURS = ("jackpot_sim", "analysis", "paper_figures", "tests")
HEAVY = ("numpy", "scipy.optimize", "scipy.special", "scipy.stats", "torch", "hypothesis.extra.numpy", "mpmath")
"""Imported once, before the tests of each fault begin in a fork."""
ENVIRONMENT = {"HYPOTHESIS_PROFILE": "ci", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def default_modules() -> list[Path]:
    """The modules of core, the estimators and the training objective in which a fault can be planted."""
    found = (path for part in DEFAULT for path in sorted((ROOT / "jackpot_sim" / part).rglob("*.py")))
    return [path.relative_to(ROOT) for path in found if faults_of(path.relative_to(ROOT))]


def mirror(module: Path) -> list[Path]:
    """The tests of a module, the nearest first."""
    folder = Path("tests", *module.parent.parts[1:])
    top = ROOT / Path(*folder.parts[:2])
    package = ".".join(module.parent.parts)
    imports = re.compile(
        rf"(from {re.escape(package)} import [^\n]*\b{module.stem}\b|{re.escape(package)}\.{module.stem}\b)"
    )
    own = [ROOT / folder / f"test_{module.stem}.py", *sorted((ROOT / folder).glob(f"test_{module.stem}_*.py"))]
    own += [ROOT / path for path in ELSEWHERE.get(str(module), ())]
    is_mirrored = own[0].exists() or str(module) in ELSEWHERE
    own += [ROOT / CONTRACTS] if "estimators" in folder.parts else []
    importing = [path for path in sorted(top.rglob("test_*.py")) if imports.search(path.read_text())]
    found = [path.relative_to(ROOT) for path in dict.fromkeys([*own, *importing]) if path.exists()]
    doctests = [module] if ">>>" in (ROOT / module).read_text() else []
    return [*doctests, *found, *([] if is_mirrored else [folder])]


def run(copy: Path, tests: Sequence[Path], limit: float) -> int | None:
    """The exit code of pytest at the first failure; None beyond the time limit."""
    process = os.fork()
    if process == 0:
        _run_forked(copy, tests)
    end = time.monotonic() + limit
    ended, status = 0, 0
    try:
        while not ended and time.monotonic() < end:
            ended, status = os.waitpid(process, os.WNOHANG)
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(status) if ended else None
    finally:
        if not ended:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _run_forked(copy: Path, tests: Sequence[Path]) -> None:
    """The tests in this process, which ends with their exit code; nothing of ours is imported from elsewhere."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(copy)
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        import pytest

        # Hypothesis is there already, and its own asserts stay as they are.
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = int(pytest.main([*options, *map(str, tests)]))
    finally:
        os._exit(code)


def trial(copy: Path, fault: Fault, limit: float) -> str:
    """What becomes of a fault: "caught", "time" or "UNCAUGHT"."""
    there = copy / fault.module
    source = there.read_text()
    there.write_text(planted(source, fault))
    try:
        _forget(there)
        code = run(copy, mirror(fault.module), limit)
    finally:
        there.write_text(source)
        _forget(there)
    if code in (5, 70):  # with 4 the fault broke an import of conftest.py
        raise RuntimeError(f"pytest could not run the tests of {fault.module}: exit code {code}")
    return "time" if code is None else "caught" if code else "UNCAUGHT"


def _forget(module: Path) -> None:
    """Removes the compiled form, which is known by its second and size alone."""
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"):
        compiled.unlink()


@contextmanager
def copied() -> Iterator[Path]:
    """A temporary copy of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, copy / name)
        yield copy


class Results:
    """Verdicts by change, kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._kept: dict[tuple[Change, str], tuple[str, str]] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                with suppress(json.JSONDecodeError):  # a kill may cut the last line
                    row = json.loads(line)
                    self._kept[Change(*row["change"]), row["function"]] = row["verdict"], row["tests"]

    def verdict(self, fault: Fault) -> str | None:
        """What is known of a fault; None if its function, or a test that did not catch it, has changed since."""
        verdict, tests = self._kept.get(described(fault), (None, ""))
        return None if verdict == "UNCAUGHT" and tests != digest_of_tests(fault.module) else verdict

    def add(self, fault: Fault, verdict: str, copy: Path) -> None:
        """Appends at once a verdict on what stands in a copy of the tree."""
        (change, function), tests = described(fault, copy), digest_of_tests(fault.module, copy)
        row = {"change": change, "function": function, "tests": tests, "verdict": verdict}
        self._kept[change, function] = verdict, tests
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def digest_of_tests(module: Path, root: Path | None = None) -> str:
    """A digest of the tests of a module."""
    files = (
        file
        for path in mirror(module)
        for file in (sorted(((root or ROOT) / path).rglob("*.py")) or [(root or ROOT) / path])
    )
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def work(faults: Sequence[Fault], results: Results, limit: float) -> None:
    """Plants faults one after another in a copy of their own."""
    with copied() as copy:
        for fault in faults:
            began = time.monotonic()
            verdict = trial(copy, fault, limit)
            results.add(fault, verdict, copy)
            print(f"{verdict:9}{time.monotonic() - began:6.1f} s  {described(fault, copy)[0]}", flush=True)


def in_processes(jobs: Sequence[Callable[[], None]]) -> None:
    """Runs each job in a process of its own, and ends when all have."""
    children = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                job()
                code = 0
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise RuntimeError(f"a worker ended early (exit codes {codes}): run the same command again to go on")


def failing_tests(faults: Sequence[Fault], limit: float) -> list[str]:
    """The tests of these faults that fail without any."""
    tests = dict.fromkeys(path for fault in faults for path in mirror(fault.module))
    with copied() as copy:
        return [str(path) for path in tests if run(copy, [path], limit) != 0]


def tell(faults: Sequence[Fault], results: Results, at_least: float) -> int:
    """Prints the share that was caught and the survivors; 1 if the share is too small."""
    verdicts = [(fault, results.verdict(fault)) for fault in faults]
    survivors = [described(fault)[0] for fault, verdict in verdicts if verdict == "UNCAUGHT"]
    caught = len(faults) - len(survivors)
    for change in survivors:
        print(f"survivor: {change}")
    share = caught / len(faults) if faults else 1.0
    print(f"{len(faults)} faults that are not known to be equivalent: {caught} caught, {share:.1%}")
    return 1 if share < at_least else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Plants faults and prints what becomes of each; 2 if the tests fail without any, 1 if too few are caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted_faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("modules", nargs="*", type=Path, metavar="MODULE", help="such as jackpot_sim/core/obrs.py")
    parser.add_argument("--faults", type=int, default=250, help="how many to plant (default 250)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that plant faults at the same time (default 1)")
    parser.add_argument("--limit", type=float, default=300, help="seconds that the tests of a fault may take")
    parser.add_argument("--results", type=Path, help="a file of verdicts, to go on after a kill")
    parser.add_argument("--at-least", type=float, default=0.0, help="the share to catch, such as 0.98, for exit code 0")
    parser.add_argument("--list", action="store_true", help="show the faults, and run nothing")
    parser.add_argument("--unchecked", action="store_true", help="do not first run the tests without a fault")
    options = parser.parse_args(argv)
    known = known_equivalent()
    modules = options.modules or default_modules()
    faults = chosen(modules, options.faults, options.seed, frozenset(known))
    if options.list:
        print(*(described(fault)[0] for fault in faults), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy goes, and the tests end
    os.environ.update(ENVIRONMENT)
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)
    results = Results(options.results)
    left = [fault for fault in faults if results.verdict(fault) is None]
    failing = [] if options.unchecked else failing_tests(left, options.limit)
    if failing:
        print(f"these tests fail without a fault: {' '.join(failing)}", file=sys.stderr)
        return 2
    if options.jobs == 1:
        work(left, results, options.limit)
        return tell(faults, results, options.at_least)
    with tempfile.TemporaryDirectory() as folder:
        file = options.results or Path(folder) / "results.jsonl"
        shared = Results(file)
        jobs = [lambda own=left[k :: options.jobs]: work(own, shared, options.limit) for k in range(options.jobs)]
        in_processes(jobs)
        return tell(faults, Results(file), options.at_least)


if __name__ == "__main__":
    raise SystemExit(main())
