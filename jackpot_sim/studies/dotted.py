"""Dotted options of a command line: `--a.b x` is the field b of a."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jackpot_sim.studies.errors import StudyError


def split_dotted(
    tokens: Sequence[str], roots: Collection[str] | None, *, beside_fields: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The nested mapping that `--root.a.b x y` options describe, and all other tokens.

    >>> split_dotted(["--env.kind", "top-k", "--env.base.vocab", "10", "20", "--seeds", "1"], {"env"})
    ({'env': {'kind': 'top-k', 'base': {'vocab': ['10', '20']}}}, ['--seeds', '1'])

    A root may have a plain value, and the value `null` is none, as in YAML:

    >>> split_dotted(["--correction", "tis", "--update.clip", "null"], {"correction", "update"})
    ({'correction': 'tis', 'update': {'clip': None}}, [])
    >>> split_dotted(["--correction", "tis", "--correction.clip", "3"], {"correction"}, beside_fields="kind")
    ({'correction': {'kind': 'tis', 'clip': '3'}}, [])

    Args:
        tokens: the command line.
        roots: the first names that are taken, with `_` where the option has `-`; None takes every option with a dot.
        beside_fields: the field that a plain value is where fields are given too; None refuses both.

    Raises:
        StudyError: a name is empty, or has no value, or two, or both a value and fields.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    target: list[str] | None = None
    named: list[tuple[str, list[str], list[str]]] = []
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
            named.append((option, path, target))
        elif target is None:
            rest.append(token)
        else:
            target.append(token)
    for option, path, values in named:
        if not values:
            raise StudyError(f"{option} needs a value")
        known = [None if value.lower() in ("null", "none") else value for value in values]
        _put(found, option, path, known, beside_fields)
    return found, rest


def _put(
    found: dict[str, Any], option: str, path: list[str], values: list[str | None], beside_fields: str | None
) -> None:
    *above, last = path
    if beside_fields is not None and isinstance(found.get(last), dict) and not above:
        above, last = [last], beside_fields
    for part in above:
        if beside_fields is not None and isinstance(found.get(part), str):
            found[part] = {beside_fields: found[part]}
        found = found.setdefault(part, {})
        if not isinstance(found, dict):
            raise StudyError(
                f"{option}: {part} is given both a value and fields: give the value as its kind or path too"
            )
    if last in found:
        raise StudyError(f"{option} is given twice")
    found[last] = values[0] if len(values) == 1 else values
