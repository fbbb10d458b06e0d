"""The fenced blocks of a Markdown page, and the trial of each by its language.

A comment before a block says what becomes of it. All blocks of a page share a folder.

    <!-- runs -->              run as it stands; with `runs: nightly` in the long tail only
    <!-- file: NAME -->        written to the page's folder, for the blocks below it
    <!-- prints -->            lines that the last block which ran has printed, in this order
    <!-- yours: a, b -->       Python that takes these names from the reader's own code: it is resolved, not run
    <!-- not run: REASON -->   a reason of `REASONS`; a command's options are read, and Python is resolved
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from cyclopts import App

from jackpot_sim import completion
from jackpot_sim.__main__ import OLD_NAMES, main

OURS = ("jackpot_sim", "analysis", "paper_figures", "tests")
_FENCE = re.compile(r"(?:<!-- ((?:(?!-->).)*) -->\n+)?^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_BREAKS = {";", "&&", "||", "|", "&", ">", ">>", "<", "2>", "2>&1", "(", ")"}
_FIELDS = {"jackpot_sim.sweep.cli": "sweep", "jackpot_sim.training.cli": "train"}
"""The commands with options that are fields of studies."""

REASONS = {
    "installs packages": r"pip install|\buv\b",
    "a GPU": r"\bgpu\b|cuda",
    "a cluster": r"\bray\b|srun|kubectl",
    "a server": r"https?://",
    "a trainer": r"\b(trl|verl|slime|miles|skyrl|prime-rl|prime_rl)\b",
    "your own files": r"\b[A-Z]{5,}\b|rollouts\b|\w\.(yaml|txt|jsonl|json|parquet)\b|\w/(\s|$)",
    "your shell": r"completion|activate",
    "minutes": r"-m (jackpot_sim\.(sweep|training|bench)|paper_figures|tests|pytest)|pytest|train\(|jackpot-sim",
}
"""Why a block is not run, each with what such a block holds."""

_NAMED = {"the main command": "installs packages", "the test command": "installs packages"}
"""The blocks that tests and tools find by a name of their own, with the reason why they are not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: the line of its fence.
        language: the word behind the fence.
        text: the contents.
        mark: the comment before it.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        """True where it is run as it stands, today or in the long tail."""
        return self.mark in ("runs", "runs: nightly")

    @property
    def nightly(self) -> bool:
        """True where the long tail alone runs it."""
        return self.mark == "runs: nightly"

    @property
    def file(self) -> str:
        """The name under which it is written; empty where it is none."""
        return self._told("file: ")

    @property
    def reason(self) -> str:
        """Why it is not run; empty where nothing is said."""
        return _NAMED.get(self.mark, self._told("not run: "))

    @property
    def yours(self) -> set[str]:
        """The names of the reader's own."""
        return set(re.findall(r"\w+", self._told("yours: ")))

    def _told(self, kind: str) -> str:
        return self.mark.removeprefix(kind) if self.mark.startswith(kind) else ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page that name their language."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start(2)) + 1,
            language=found[3],
            text=re.sub(f"^{found[2]}", "", found[4], flags=re.MULTILINE),
            mark=found[1] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> list[list[str]]:
    """The commands of this project in a block of shell, in words."""
    lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [words for line in lines for words in in_line(line)]


def in_line(line: str) -> list[list[str]]:
    """The commands of this project in a line of shell: the program, or python -m, and all words after it.

    A command may stand behind another that starts it, as in `srun jackpot-sim sweep`.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts = [[*words] for breaks, words in itertools.groupby(lexer, _BREAKS.__contains__) if not breaks]
    return [own for words in parts if (own := _own(words))]


def _own(words: list[str]) -> list[str]:
    """The words from the start of a command of this project on; empty where there is none."""
    for at, word in enumerate(words):
        if Path(word).name == "jackpot-sim":
            return words[at:]
        module = words[at + 2] if words[at + 1 : at + 2] == ["-m"] and len(words) > at + 2 else ""
        if re.fullmatch(r"python[\d.]*", Path(word).name) and module.split(".")[0] in OURS[:-1]:
            return words[at:]
    return []


def run(words: Sequence[str]) -> int:
    """Runs a command of this project in this process; the exit code."""
    start, given = _start(words)
    return start(given)


def parse(words: Sequence[str]) -> int:
    """Reads the options of a command, and does not run it; 2 where one is wrong."""
    start, given = _start(words)
    whole = App.parse_args

    def parsed(self: App, *args: Any, **kwargs: Any) -> Any:
        _, bound, ignored = whole(self, *args, **kwargs)
        return (lambda *_, **__: 0), bound, ignored

    with mock.patch.object(App, "parse_args", parsed):
        return start(given)


def misspelt(words: Sequence[str]) -> list[str]:
    """The dotted options that no field of a study has; a correction's own parameters are not looked at."""
    fields = next((name for module, name in _FIELDS.items() if _module(words) == module), None)
    if fields is None:
        return []
    known = completion._fields(fields)
    options = [word.partition("=")[0].replace("_", "-") for word in words if re.match(r"--[\w-]+\.", word)]
    deep = [".".join(option.split(".")[: completion._DEPTH]) for option in options]
    return [option for option in deep if option not in known and not option.startswith("--correction.")]


def _module(words: Sequence[str]) -> str:
    """The module of a command's `main`."""
    if Path(words[0]).name == "jackpot-sim" or words[2] == "jackpot_sim":
        rest = words[1:] if Path(words[0]).name == "jackpot-sim" else words[3:]
        name = OLD_NAMES.get(rest[0], rest[0]) if rest else ""
        return completion.COMMANDS.get(name, ("jackpot_sim.__main__", ""))[0]
    own = importlib.util.find_spec(f"{words[2]}.cli") if _is_package(words[2]) else None
    if own is not None:
        return f"{words[2]}.cli"
    if not _is_package(words[2]):
        return words[2]
    started = importlib.util.find_spec(f"{words[2]}.__main__")
    source = Path(started.origin).read_text(encoding="utf-8") if started and started.origin else ""
    elsewhere = re.search(r'run\("[\w-]+", "([\w.]+)"\)', source)
    return elsewhere[1] if elsewhere else f"{words[2]}.__main__"


def _is_package(module: str) -> bool:
    found = importlib.util.find_spec(module)
    assert found is not None, f"there is no module {module}"
    return found.submodule_search_locations is not None


def _start(words: Sequence[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """The function that a command starts with, and its arguments."""
    if Path(words[0]).name == "jackpot-sim":
        return main, list(words[1:])
    start: Callable[[list[str]], int] = importlib.import_module(_module(words)).main
    return (main if words[2] == "jackpot_sim" else start), list(words[3:])


# --- Python -----------------------------------------------------------------------------------------------


def faults(block: Block) -> Iterator[str]:
    """What is wrong with a piece of Python, which is not run: names, imports, arguments of this project's functions."""
    tree = ast.parse(block.text)
    objects = dict[str, object]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node, objects)
    known = {*dir(builtins), "__file__", *block.yours, *_bound(tree)}
    loads = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    yield from (f"{name} is nowhere defined" for name in dict.fromkeys(node.id for node in loads) if name not in known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in objects:
            yield from _arguments(node, objects[node.func.id])


def _bound(tree: ast.AST) -> Iterator[str]:
    """The names that a tree gives a meaning, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)


def _imports(node: ast.Import | ast.ImportFrom, objects: dict[str, object]) -> Iterator[str]:
    """The imports that fail; what is imported from this project goes to `objects`. A framework may be missing."""
    origins = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    for origin in origins:
        top = origin.split(".")[0]
        spec = importlib.util.find_spec(top)
        if top not in OURS and (spec is None or spec.origin is None):  # missing, or a mere folder of its name
            continue
        try:
            module = importlib.import_module(origin)
        except ImportError as error:
            yield f"{origin} cannot be imported: {error}"
            continue
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            inner = f"{origin}.{alias.name}"
            if not hasattr(module, alias.name) and _found(inner) is None:
                yield f"{origin} has no {alias.name}"
            elif top in OURS:
                objects[alias.asname or alias.name] = getattr(module, alias.name, None)


def _found(module: str) -> object:
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec(module)
    return None


def _arguments(node: ast.Call, function: object) -> Iterator[str]:
    """The arguments that a function of this project does not take."""
    if not callable(function) or any(keyword.arg is None for keyword in node.keywords):
        return
    if any(isinstance(each, ast.Starred) for each in node.args):
        return
    with contextlib.suppress(ValueError):  # without a signature
        signature = inspect.signature(function)
        try:
            signature.bind_partial(*node.args, **{str(keyword.arg): None for keyword in node.keywords})
        except TypeError as error:
            yield f"{ast.unparse(node.func)}: {error}"


READ: dict[str, Callable[[str], object]] = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
"""The readers of configurations."""
