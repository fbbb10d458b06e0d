"""Dotted options of a command line: `--a.b x` is the field b of a."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from jackpot_sim.studies.errors import StudyError

Nested: TypeAlias = "dict[str, Nested | str | list[str | None] | None]"
"""A mapping of options: a value, several, none, or the options below."""


def split_dotted(
    tokens: Sequence[str],
    roots: Collection[str] | None,
    *,
    beside_fields: str | None = None,
    paths: Collection[str] = (),
) -> tuple[Nested, list[str]]:
    """The nested mapping that `--root.a.b x y` options describe, and all other tokens.

    >>> split_dotted(["--env.kind", "top-k", "--env.base.vocab", "10", "20", "--seeds", "1"], {"env"})
    ({'env': {'kind': 'top-k', 'base': {'vocab': ['10', '20']}}}, ['--seeds', '1'])

    A root may have a plain value, and the value `null` is none, as in YAML:

    >>> split_dotted(["--correction", "tis", "--update.clip", "null"], {"correction", "update"})
    ({'correction': 'tis', 'update': {'clip': None}}, [])
    >>> split_dotted(["--correction", "tis", "--correction.clip", "3"], {"correction"}, beside_fields="kind")
    ({'correction': {'kind': 'tis', 'clip': '3'}}, [])
    >>> split_dotted(["--policy", "X", "--policy.lora.rank", "4"], {"policy"}, beside_fields="kind", paths={"policy"})
    ({'policy': {'path': 'X', 'lora': {'rank': '4'}}}, [])

    Args:
        tokens: the command line.
        roots: the first names of the options to take, with `_` where an option has `-`; None: every option with a dot.
        beside_fields: the field that a plain value stands for where fields are given too; None refuses both.
        paths: names whose plain value stands for the field `path` there.

    Raises:
        StudyError: a name is empty, or has no value, or two, or both a value and fields.
    """
    nested: Nested = {}
    rest: list[str] = []
    target: list[str] | None = None
    options: list[tuple[str, list[str], list[str]]] = []
    for token in tokens:
        if token.startswith("--"):
            option, equals, value = token.partition("=")
            path = option.removeprefix("--").replace("-", "_").split(".")
            if not (len(path) > 1 if roots is None else path[0] in roots):
                target = None
                rest.append(token)
                continue
            if not all(path):
                raise StudyError(f"{option}: a name is missing beside a dot")
            target = [value] if equals else []
            options.append((option, path, target))
        elif target is None:
            rest.append(token)
        else:
            target.append(token)
    for option, path, texts in options:
        if not texts:
            raise StudyError(f"{option} needs a value")
        values = [None if text.lower() in ("null", "none") else text for text in texts]
        fields = {name: "path" if name in paths else beside_fields for name in path}
        _put(nested, option, path, values, fields)
    return nested, rest


def _put(
    nested: Nested, option: str, path: list[str], values: list[str | None], beside_fields: Mapping[str, str | None]
) -> None:
    *above, last = path
    beside = beside_fields[last]
    if beside is not None and isinstance(nested.get(last), dict) and not above:
        above, last = [last], beside
    for part in above:
        beside = beside_fields.get(part)
        if beside is not None and isinstance(nested.get(part), str):
            nested[part] = {beside: nested[part]}
        below = nested.setdefault(part, {})
        if not isinstance(below, dict):
            raise StudyError(
                f"{option}: {part} is given both a value and fields: give the value as its kind or path too"
            )
        nested = below
    if last in nested:
        raise StudyError(f"{option} is given twice")
    nested[last] = values[0] if len(values) == 1 else values
