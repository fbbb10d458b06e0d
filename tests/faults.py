"""Small faults of a module's syntax tree: which there are, what they change, and which no test can see."""

from __future__ import annotations

import ast
import hashlib
import random
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
_SHOWN = 40
"""So many letters of a long statement are shown before the change."""
EQUIVALENT = Path(__file__).with_name("equivalent_faults.toml")

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


class Change(NamedTuple):
    """A fault as it is told and remembered, whatever the line."""

    module: str
    function: str
    """Its qualified name; empty at the top of the module."""
    before: str
    """The statement, or the head of one that has a body, on one line."""
    after: str

    def __str__(self) -> str:
        differ = (at for at, (x, y) in enumerate(zip(self.before, self.after, strict=False)) if x != y)
        start = max(next(differ, 0) - _SHOWN, 0)
        before, after = (textwrap.shorten(text[start:], 3 * _SHOWN) for text in (self.before, self.after))
        return f"{self.module}  {self.function or '(module)'}\n      {before}\n   -> {after}"


@dataclass(frozen=True)
class Fault:
    """A change of one expression of a module."""

    module: Path
    node: int
    """Its place in the order of `ast.walk`."""
    option: int
    """Which of the changes that the node allows."""
    says_the_same: bool = False
    """True where it makes axis 1 of axis −1, which is the same for two axes, or drops a `strict` of `zip`."""


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
    tree = ast.parse((ROOT / module).read_text())
    left_out = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and (node.arg == "strict" or (node.arg == "axis" and isinstance(node.value, ast.UnaryOp)))
    }
    return [
        Fault(module, index, option, id(node) in left_out)
        for index, node in _expressions(tree)
        for option, _ in enumerate(changes(node))
    ]


def known_equivalent() -> dict[Change, str]:
    """The faults that leave an equivalent program, with the reason."""
    entries = tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    return {Change(e["module"], e["function"], e["before"], e["after"]): e["reason"] for e in entries}


def chosen(modules: Sequence[Path], number: int, seed: int, without: frozenset[Change] = frozenset()) -> list[Fault]:
    """So many faults, as evenly over the modules as can be; more of them begin with the same."""
    queues = []
    for module in modules:
        found = faults_of(module)
        random.Random(f"{seed} {module}").shuffle(found)
        queues.append([fault for fault in found if not fault.says_the_same])
    turns = (queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue))
    some: list[Fault] = []
    for fault in turns:
        if len(some) == number:
            break
        if not without or described(fault)[0] not in without:
            some.append(fault)
    return some


def described(fault: Fault, root: Path | None = None) -> tuple[Change, str]:
    """A fault's change, and a digest of the function that it is in."""
    tree = ast.parse(((root or ROOT) / fault.module).read_text())
    nodes = list(ast.walk(tree))
    target = nodes[fault.node]
    above = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
    line: list[ast.AST] = [target]
    while line[-1] in above:
        line.append(above[line[-1]])
    statement = next((node for node in line if isinstance(node, ast.stmt)), tree)
    scopes = [node for node in line[1:] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    digest = hashlib.sha256(ast.unparse(scopes[0] if scopes else tree).encode()).hexdigest()[:16]
    before = head(statement)
    _Planted(target, list(changes(target))[fault.option]).visit(tree)
    name = ".".join(scope.name for scope in reversed(scopes))
    return Change(str(fault.module), name, before, head(ast.fix_missing_locations(statement))), digest


def head(statement: ast.AST) -> str:
    """A statement on one line; of one with a body, what stands before it."""
    lines = [line for line in ast.unparse(statement).splitlines() if not line.startswith("@")]
    return lines[0] if hasattr(statement, "body") or hasattr(statement, "cases") else " ".join(map(str.strip, lines))


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
