"""The one registry of corrections, by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import TypeVar

from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.parameters import Parameter

C = TypeVar("C", bound=type[Correction])

_REGISTRY: dict[str, type[Correction]] = {}


def register(*names: str) -> Callable[[C], C]:
    """A decorator that enters a correction into the registry under its name and any aliases."""

    def enter(correction: C) -> C:
        correction.name = names[0]
        _REGISTRY.update(dict.fromkeys(names, correction))
        return correction

    return enter


def get(name: str, **parameters: Parameter | str | None) -> Correction:
    """The correction called `name`.

    >>> get("tis", clip=2.0)
    TruncatedImportanceSampling(clip=2.0, floor=0.0, c2=None)

    Raises:
        ValueError: no such correction, no such parameter, or a parameter outside its range.
    """
    correction = registered(name)
    known = defaults(correction)
    for parameter, value in parameters.items():
        if parameter not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameter"
            raise ValueError(f"estimator {name!r} has no parameter {parameter!r}: {takes}")
        for kind, noun in ((bool, "true or false"), (str, "a name")):
            if isinstance(value, kind) != isinstance(known[parameter], kind):
                wanted = noun if isinstance(known[parameter], kind) else "a number"
                raise ValueError(f"{name}: {parameter} must be {wanted}, got {value!r}")
    return correction(**parameters)


def registered(name: str) -> type[Correction]:
    """The class registered as `name`, which may be an alias.

    Raises:
        ValueError: no such correction.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    near = difflib.get_close_matches(name.lower(), _REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; names are separated by spaces"
    elif "(" in name:
        hint = "; parameters go beside the kind in a config file, or as arguments of get"
    raise ValueError(f"unknown estimator {name!r}{hint} (known: {', '.join(sorted(_REGISTRY))})")


def names() -> tuple[str, ...]:
    """The names of the registered corrections, without aliases, as records use them."""
    return tuple(sorted({correction.name for correction in _REGISTRY.values()}))


def defaults(correction: type[Correction]) -> dict[str, object]:
    """The parameters of a registered correction and their defaults, by name."""
    return {field.name: field.default for field in dataclasses.fields(correction)}
