"""Help in pages: a short one of the options, and one for each chapter or kind that `--help NAME` asks for."""

from __future__ import annotations

import ast
import contextlib
import difflib
import enum
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from cyclopts import App

OPTIONS, ALL = "options", "all"
"""The pages that every command has: its options in full, and everything."""
_LABEL = 23
"""The width of the column of options."""


class HelpError(ValueError):
    """A page that there is not."""


@dataclass(frozen=True)
class Chapter:
    """A part of a command's help, and the pages of the kinds that it treats."""

    name: str
    about: str
    """Its line in the short help."""
    text: str
    """Paragraphs between empty lines."""
    entries: Mapping[str, str] = field(default_factory=dict)
    """The page of each kind, by its name."""


def asked_for(tokens: Sequence[str]) -> str | None:
    """The page that a command line asks for; None for the short help.

    >>> asked_for(["--seeds", "3", "--help", "tis"]), asked_for(["--help", "--plugin", "a.py"])
    ('tis', None)
    """
    for flag, after in zip(tokens, [*tokens[1:], "-"], strict=True):
        if flag in ("--help", "-h") and not after.startswith("-"):
            return after
    return None


def page(name: str, chapters: Sequence[Chapter], width: int) -> str:
    """The page of a chapter or of a kind; of all kinds of this name, where there are several.

    Raises:
        HelpError: there is none.
    """
    found = [each.text for each in chapters if each.name == name]
    found += list(dict.fromkeys(each.entries[name] for each in chapters if name in each.entries))
    if not found:
        known = {*(each.name for each in chapters), *(kind for each in chapters for kind in each.entries)}
        near = difflib.get_close_matches(name, sorted(known), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the chapters"
        raise HelpError(f"there is no help on {name!r}: {hint}")
    return "\n\n".join(filled(text, width) for text in found)


def filled(text: str, width: int) -> str:
    """Paragraphs in lines of this width; lines that begin with a space or a bullet stay lines of their own."""
    out = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        pieces: list[str] = []
        for line in paragraph.splitlines():
            if pieces and not line.startswith((" ", "* ")) and not pieces[-1].startswith((" ", "* ")):
                pieces[-1] += f" {line}"
            else:
                pieces.append(line)
        out += ["\n".join(_filled(each, width) for each in pieces)]
    return "\n\n".join(out)


def _filled(line: str, width: int) -> str:
    """A line in as many as it needs, of which the further ones are indented where it is an item."""
    indent = "    " if line.startswith((" ", "* ")) else ""
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def of_docstring(kind: type, defaults: Mapping[str, str]) -> str:
    """The page of a class: its docstring, and its fields with their meanings there and their defaults.

    Args:
        kind: the class.
        defaults: its fields, each with its default in words, empty where it has none.
    """
    text = re.split(r"\n(?:Raises:|>>>)", inspect.getdoc(kind) or "")[0]
    prose = text.partition("Attributes:\n")[0]
    meanings: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        meanings |= _meanings(each)
    lines = []
    for name, default in defaults.items():
        meaning = meanings.get(name, "")
        given = f" [{default}]" if default else ""
        lines.append(f"  {name}{given}{f': {meaning}' if meaning else ''}")
    return "\n\n".join([prose.strip(), *(["Fields [default]:\n" + "\n".join(lines)] if lines else [])])


def _meanings(kind: type) -> dict[str, str]:
    """The meanings of a class's own fields: those of its docstring, or of the strings below them."""
    listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    out = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE))
    with contextlib.suppress(OSError, TypeError, SyntaxError):  # of a class whose source is not there
        (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(made, ast.ClassDef)
        for assigned, below in itertools.pairwise(made.body):
            if not (isinstance(assigned, ast.AnnAssign) and isinstance(assigned.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                out[assigned.target.id] = str(below.value.value)
    return {name: " ".join(meaning.split()) for name, meaning in out.items()}


def short(app: App, chapters: Sequence[Chapter], width: int) -> str:
    """The options with the first sentence on each, and the names of all chapters."""
    name = app.name[0]
    arguments = [each for each in app.assemble_argument_collection(parse_docstring=True) if each.show]
    places = "".join(f" [{each.name}...]" for each in arguments if not each.name.startswith("-"))
    lines = [f"Usage: {name} [OPTIONS]{places}", "", *filled(str(app.help), width).splitlines(), ""]
    for each in arguments:
        label = f"{each.name} {_metavar(each.hint)}".rstrip() if each.name.startswith("-") else each.name
        lines += _row(label, first_sentence(each.parameter.help or ""), width)
    pages = [(each.name, each.about) for each in chapters]
    pages += [(OPTIONS, "all of what there is to say on each option"), (ALL, "everything, for a pager or a search")]
    lines += ["", "More, with --help NAME:"]
    lines += [line for page_name, about in pages for line in _row(page_name, about, width)]
    if any(each.entries for each in chapters):
        lines += _row("KIND", f"one kind, as in --help {next(iter(_kinds(chapters)))}", width)
    return "\n".join(lines)


def _kinds(chapters: Sequence[Chapter]) -> Iterable[str]:
    return (kind for each in chapters for kind in each.entries)


def _row(label: str, text: str, width: int) -> list[str]:
    """A label with its text beside it."""
    lines = textwrap.wrap(text, max(width - _LABEL - 2, 20)) or [""]
    first = f"  {label:{_LABEL - 1}} {lines[0]}".rstrip()
    return [first, *(" " * (_LABEL + 2) + line for line in lines[1:])]


def first_sentence(text: str) -> str:
    """The part of a text up to its first full stop.

    >>> first_sentence("A study in YAML. Without it: the default, e.g. none.")
    'A study in YAML.'
    """
    return re.split(r"(?<=[a-zA-Z)]{2}\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _metavar(hint: Any) -> str:
    """The word for an option's value; none for a flag."""
    if type(None) in get_args(hint):
        hint = next(each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) in (list, tuple):
        return f"{_metavar(get_args(hint)[0])}..."
    if hint is bool:
        return ""
    if get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        return "CHOICE"
    return getattr(hint, "__name__", "VALUE").upper()
