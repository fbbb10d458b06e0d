"""The public functions, methods and dataclasses of the product that take arrays, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ARRAYS = ("Array", "Floats", "Ints", "Flags", "NDArray", "ArrayLike", "Tensor")
"""The words in an annotation that mean an array."""


def taking_arrays(package: str) -> Iterator[str]:
    """The names, without jackpot_sim, of what takes arrays in a package: "core.obrs.overlap"."""
    for path in sorted((ROOT / "jackpot_sim" / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "jackpot_sim").with_suffix("").parts).removesuffix(".__init__")
        yield from (f"{module}.{name}" for name in _names(ast.parse(path.read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and _is_array(each.annotation)]
            if (fields and _is_dataclass(node)) or any(_takes_arrays(each) for each in _own(node, "__init__")):
                yield node.name
            yield from (f"{node.name}.{name}" for name in _names(node.body))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _takes_arrays(node):
            yield node.name


def _own(node: ast.ClassDef, name: str) -> Iterator[ast.FunctionDef]:
    yield from (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name)


def _takes_arrays(node: ast.FunctionDef) -> bool:
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return any(each.annotation is not None and _is_array(each.annotation) for each in arguments)


def _is_array(annotation: ast.expr) -> bool:
    words = ast.unparse(annotation)
    return any(each in words for each in ARRAYS) and "Callable" not in words


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)
