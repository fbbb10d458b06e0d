"""A command that plants faults in the product, one at a time, and shows which of them the tests notice.

    python -m tests.planted_faults [--faults N] [--seed S] [--limit SECONDS] [--list] [MODULE...]

Each fault is one small change of a module's syntax tree: a comparison swapped, + for −, max for min, a constant
off by one, a `not` or an `abs` left out, the branches of a `where` exchanged, a term of a sum left out. It is
written into a temporary copy of the tree, and the tests that mirror the module run there until the first failure:
for jackpot_sim/X/y.py those are tests/X/test_y.py and tests/X/test_y_*.py (all of tests/X where there is neither),
and the contract tests too for estimators.

A row of the table is `caught` where a test failed, `time` where the tests took longer than the limit (a hang, which
counts as caught), and `UNCAUGHT` where all passed. What is not caught is either a hole in the tests, or a change
that no test can see: an equivalent program, such as `<` for `<=` where the two branches agree at equality. The
faults depend on the seed and on the product alone, so that two versions of the tests can be compared on the same.
The tests must pass without a fault; those that do not are named first, and the command ends with exit code 2.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COPIED = ("jackpot_sim", "analysis", "paper_figures", "tests", "pyproject.toml", "README.md", "constraints-cpu.txt")
CONTRACTS = Path("tests/contracts/test_corrections.py")

DEFAULT = (
    *(f"jackpot_sim/core/{name}.py" for name in ("budget", "divergences", "heads", "normalizer", "numerics", "obrs")),
    *(f"jackpot_sim/core/{name}.py" for name in ("log_ratios", "policy_gradient", "sampling", "sequences", "topk")),
    *(
        f"jackpot_sim/estimators/corrections/{name}.py"
        for name in ("token", "jackpot", "sequence", "batch", "correction", "inputs")
    ),
    *(f"jackpot_sim/estimators/states/{name}.py" for name in ("moments", "sorted_state", "optimum", "sampled")),
    *(f"jackpot_sim/estimators/{name}.py" for name in ("statistics", "replicates", "sequences/sampled")),
    *(f"jackpot_sim/environments/{name}.py" for name in ("states/base_laws", "prefix_tree", "targets")),
    "jackpot_sim/environments/sequences/small_lm.py",
    *(f"jackpot_sim/training/objective/{name}.py" for name in ("advantages", "loss", "weights")),
)

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
PAIRS = (
    ("min", "max"),
    ("minimum", "maximum"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("floor", "ceil"),
    ("sum", "mean"),
)
NAMES = dict(PAIRS) | {second: first for first, second in PAIRS}


@dataclass(frozen=True)
class Fault:
    """A change of one expression of a module."""

    module: Path
    node: int
    """Its place in the order of `ast.walk`."""
    option: int
    """Which of the changes that the node allows."""
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}  {_short(self.before)}  ->  {_short(self.after)}"


def changes(node: ast.AST) -> Iterator[ast.expr]:
    """What may stand in the place of an expression."""
    match node:
        case ast.Compare(left, [operator], [right]):
            yield from (ast.Compare(left, [other()], [right]) for other in _others(operator))
        case ast.BoolOp(operator, values):
            yield from (ast.BoolOp(other(), values) for other in _others(operator))
            yield from (value for value in values if len(values) == 2)
        case ast.BinOp(left, operator, right):
            yield from (ast.BinOp(left, other(), right) for other in _others(operator))
            if isinstance(operator, ast.Add | ast.Sub):
                yield left
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value + 1)
        case ast.Call(function, arguments, keywords):
            yield from _calls(function, arguments, keywords)


def _others(operator: ast.AST) -> tuple[Callable[[], Any], ...]:
    return OPERATORS.get(type(operator), ())


def _calls(function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]) -> Iterator[ast.expr]:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in NAMES:
        is_method = isinstance(function, ast.Attribute)
        other = ast.Attribute(function.value, NAMES[name]) if is_method else ast.Name(NAMES[name])  # type: ignore[attr-defined]
        if is_method or NAMES[name] in ("min", "max", "any", "all", "sum"):
            yield ast.Call(other, arguments, keywords)
    if name == "where" and len(arguments) == 3:
        yield ast.Call(function, [arguments[0], arguments[2], arguments[1]], keywords)
    if name in ("abs", "sqrt", "cumulative_sum", "flip", "clip") and arguments:
        yield arguments[0]
    for index, keyword in enumerate(keywords):
        if keyword.arg == "axis" and isinstance(keyword.value, ast.UnaryOp):
            moved = [*keywords[:index], ast.keyword("axis", ast.Constant(0)), *keywords[index + 1 :]]
            yield ast.Call(function, arguments, moved)


def _expressions(tree: ast.AST) -> Iterator[tuple[int, ast.AST]]:
    """The nodes that a fault may change, with their places: what computes, not types, texts of errors or imports."""
    left_out: set[int] = set()
    for index, node in enumerate(ast.walk(tree)):
        kept_away: list[ast.AST | None] = []
        match node:
            case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
                kept_away = [node]
            case ast.FunctionDef() | ast.ClassDef():
                kept_away = [*node.decorator_list, getattr(node, "returns", None)]
            case ast.arg() | ast.AnnAssign():
                kept_away = [node.annotation]
        for top in kept_away:
            left_out |= {id(each) for each in ast.walk(top)} if top is not None else set()
        if id(node) not in left_out:
            yield index, node


def faults_of(module: Path) -> list[Fault]:
    """All faults of a module, in the order of its syntax tree."""
    return [
        Fault(module, index, option, getattr(node, "lineno", 0), ast.unparse(node), ast.unparse(changed))
        for index, node in _expressions(ast.parse((ROOT / module).read_text()))
        for option, changed in enumerate(changes(node))
    ]


def chosen(modules: Sequence[Path], number: int, seed: int) -> list[Fault]:
    """So many faults, as evenly over the modules as can be; more of them begin with the same."""
    queues = []
    for module in modules:
        found = faults_of(module)
        random.Random(f"{seed} {module}").shuffle(found)
        queues.append(found)
    turns = (queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue))
    return [fault for fault, _ in zip(turns, range(number), strict=False)]


class _Planted(ast.NodeTransformer):
    def __init__(self, target: ast.AST, changed: ast.expr) -> None:
        self.target, self.changed = target, changed

    def visit(self, node: ast.AST) -> Any:
        return self.changed if node is self.target else self.generic_visit(node)


def planted(source: str, fault: Fault) -> str:
    """The module's text with the fault in it."""
    tree = ast.parse(source)
    target = next(node for index, node in enumerate(ast.walk(tree)) if index == fault.node)
    changed = list(changes(target))[fault.option]
    return ast.unparse(ast.fix_missing_locations(_Planted(target, changed).visit(tree)))


def mirror(module: Path) -> list[Path]:
    """The tests of a module, the nearest first."""
    folder = Path("tests", *module.parent.parts[1:])
    own, more = folder / f"test_{module.stem}.py", sorted((ROOT / folder).glob(f"test_{module.stem}_*.py"))
    found = [path for path in (own, *(path.relative_to(ROOT) for path in more)) if (ROOT / path).exists()]
    if "estimators" not in folder.parts:
        return found or [folder]
    return [*found, CONTRACTS] if found else [CONTRACTS, folder]


def run(copy: Path, tests: Sequence[Path], limit: float) -> int | None:
    """The exit code of pytest at the first failure; None beyond the time limit."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, tests)]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "ci", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return None


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
    if code in (4, 5):
        raise RuntimeError(f"pytest could not run the tests of {fault.module}: exit code {code}")
    return "time" if code is None else "caught" if code else "UNCAUGHT"


def _forget(module: Path) -> None:
    """Removes the compiled form, which is known by its second and size alone."""
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc"):
        compiled.unlink()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:67]}..."


def main(argv: Sequence[str] | None = None) -> int:
    """Plants faults and prints what becomes of each; 2 if the tests fail without any."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted_faults", description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", type=Path, metavar="MODULE", help="such as jackpot_sim/core/obrs.py")
    parser.add_argument("--faults", type=int, default=100, help="how many to plant (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default 0)")
    parser.add_argument("--limit", type=float, default=300, help="seconds that the tests of a fault may take")
    parser.add_argument("--list", action="store_true", help="show the faults, and run nothing")
    parser.add_argument("--unchecked", action="store_true", help="do not first run the tests without a fault")
    options = parser.parse_args(argv)
    modules = options.modules or [Path(name) for name in DEFAULT]
    faults = chosen(modules, options.faults, options.seed)
    if options.list:
        print(*faults, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, copy / name)
        if not options.unchecked:
            tests = dict.fromkeys(path for fault in faults for path in mirror(fault.module))
            failing = [str(path) for path in tests if run(copy, [path], options.limit) != 0]
            if failing:
                print(f"these tests fail without a fault: {' '.join(failing)}", file=sys.stderr)
                return 2
        told = []
        for fault in faults:
            began = time.monotonic()
            told.append(trial(copy, fault, options.limit))
            print(f"{told[-1]:9}{time.monotonic() - began:6.1f} s  {fault}", flush=True)
    print(f"{len(faults)} faults: {len(faults) - told.count('UNCAUGHT')} caught, {told.count('UNCAUGHT')} not")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
