"""The one registry of corrections, by name."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import traceback
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from jackpot_sim.estimators.corrections.completeness import RegistrationError, require_complete
from jackpot_sim.estimators.corrections.correction import Correction, is_ours
from jackpot_sim.estimators.corrections.parameters import Parameter

C = TypeVar("C", bound=type[Correction])

GROUP = "jackpot_sim.corrections"
"""The entry-point group in which an installed package names the module of its corrections."""

_REGISTRY: dict[str, type[Correction]] = {}
_NAME = r"\w[\w.:+-]*"
_NOUNS: dict[type[bool] | type[str] | type[float], str] = {bool: "true or false", str: "a name", float: "a number"}


def register(*names: str) -> Callable[[C], C]:
    """A decorator that enters a correction into the registry under its name and any aliases.

    A class that is defined again, in a notebook or by a file that is read again, takes the place of its old self.

    Raises:
        RegistrationError: the class is no correction, or is not complete; a name is taken or cannot be one; a parameter
            cannot have its name or its default.
    """

    def enter(correction: C) -> C:
        require_complete(correction)
        for name in names or ("",):
            _require_free(name, correction)
        _require_parameters(correction, names[0])
        correction.name = names[0]
        _REGISTRY.update(dict.fromkeys(names, correction))
        return correction

    return enter


def _require_free(name: str, correction: type[Correction]) -> None:
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise RegistrationError(
            f"{correction.__name__} is registered as {name!r}: give a name of letters, digits, hyphens, dots and colons"
        )
    taken = _REGISTRY.get(name)
    if taken is None or (taken.__module__, taken.__qualname__) == (correction.__module__, correction.__qualname__):
        return
    whose = "an estimator of jackpot_sim" if is_ours(taken) else f"{taken.__qualname__} of {taken.__module__}"
    raise RegistrationError(f"{correction.__name__}: the name {name!r} is taken by {whose}: register it under another")


def _require_parameters(correction: type[Correction], name: str) -> None:
    known = {
        parameter: (type_of(default), other.name)
        for other in _REGISTRY.values()
        for parameter, default in defaults(other).items()
        if other.name != name
    }
    for parameter, default in defaults(correction).items():
        if hasattr(Correction, parameter) or parameter == "name":
            raise RegistrationError(
                f"{name}: a parameter cannot be called {parameter}, as a part of every correction is"
            )
        if default is dataclasses.MISSING or not isinstance(default, int | float | str | None):
            raise RegistrationError(
                f"{name}: give its parameter {parameter} a default, a number, a name, or true or false"
            )
        kind, owner = known.get(parameter, (type_of(default), ""))
        if kind is not type_of(default):
            raise RegistrationError(
                f"{name}: its parameter {parameter} is {_NOUNS[type_of(default)]}, and that of {owner} is "
                f"{_NOUNS[kind]}, in one column of the records: give it another name"
            )


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
        if type_of(value) is not (wanted := type_of(known[parameter])):
            raise ValueError(f"{name}: {parameter} must be {_NOUNS[wanted]}, got {value!r}")
    try:
        return correction(**parameters)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        if is_ours(correction):
            raise
        told = " ".join(str(error).split())
        raise ValueError(
            f"{name}: its __post_init__ must refuse with a ValueError, not {type(error).__name__}: {told}"
        ) from error


_WRAPPERS = ("rao-blackwell", "centred", "batch-normalize")
"""The wrappers, as labels in tables name them."""


def registered(name: str) -> type[Correction]:
    """The class registered as `name`, which may be an alias.

    Raises:
        ValueError: no such correction.
    """
    broken = {} if name in _REGISTRY else unusable_packages()
    if name in _REGISTRY:
        return _REGISTRY[name]
    near = difflib.get_close_matches(name.lower(), _REGISTRY, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; names are separated by spaces"
    elif "(" in name:
        wrapper, _, inside = name.partition("(")
        hint = "; parameters go beside the kind in a config file, or as arguments of get"
        if wrapper in _WRAPPERS:
            hint = f"; write {{kind: {inside.rstrip(')')}, {wrapper.replace('-', '_')}: true}} in a config file"
    known = f"known: {', '.join(sorted(_REGISTRY))}"
    raise ValueError(f"unknown estimator {name!r}{hint} ({'; '.join([known, *broken])})")


def is_registered(name: str) -> bool:
    """True where a correction is registered as `name`, which may be an alias."""
    return name in _REGISTRY


def names() -> tuple[str, ...]:
    """The names of the corrections that there are, without aliases, as records use them: ours and those of packages."""
    unusable_packages()
    return tuple(sorted({correction.name for correction in _REGISTRY.values()}))


@functools.cache
def unusable_packages() -> tuple[str, ...]:
    """Loads the corrections of installed packages, once; a sentence for each of those that cannot be used.

    A package names a module, or a class, in the entry-point group `jackpot_sim.corrections`.
    """
    sentences = []
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda each: (each.value, each.name)):
        package = entry.module.partition(".")[0] if entry.dist is None else entry.dist.name
        try:
            load(entry.load, entry.module)
        except RegistrationError as error:
            sentences.append(f"the package {package} cannot be used: {error}")
    return tuple(sentences)


def load(run: Callable[[], object], module: str) -> tuple[str, ...]:
    """Runs somebody's code that registers corrections; all of them are registered, or none.

    Args:
        run: imports or executes the code.
        module: the name of its module.

    Returns:
        The names, without aliases, of the corrections that it has registered, now or when it was imported before.

    Raises:
        RegistrationError: it fails, or registers nothing; the message says where, why, and what to write.
    """
    before = dict(_REGISTRY)
    try:
        run()
    except (Exception, SystemExit) as error:
        _REGISTRY.clear()
        _REGISTRY.update(before)
        raise RegistrationError(_told(error)) from error
    packages = (module, module.partition(".")[0])
    mine = [
        correction.name
        for name, correction in _REGISTRY.items()
        if before.get(name) is not correction or correction.__module__.partition(".")[0] in packages
    ]
    if not mine:
        raise RegistrationError('it registers no correction: write @register("its-name") above a class')
    return tuple(sorted(set(mine)))


def _told(error: BaseException) -> str:
    """The error of somebody's code in one line, with its place: the line of a module that failed while it was run."""
    if isinstance(error, RegistrationError):
        return str(error)
    ran = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    place = "it"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"line {error.lineno} of {Path(error.filename).name}"
    elif ran:
        place = f"line {ran[-1].lineno} of {Path(ran[-1].filename).name}"
    what = "it ends the program" if isinstance(error, SystemExit) else " ".join(str(error).split())
    hint = ": write @dataclass(frozen=True)" if "non-frozen dataclass" in what else ""
    return f"mend {place} ({type(error).__name__}: {what}{hint})"


def has(names: Iterable[str]) -> bool:
    """True where all of these names are registered by now."""
    return all(name in _REGISTRY for name in names)


def ours() -> tuple[str, ...]:
    """The names of the corrections of this package, without aliases, in alphabetical order."""
    return tuple(sorted({correction.name for correction in _REGISTRY.values() if is_ours(correction)}))


def plugged_in(kinds: Iterable[str]) -> tuple[str, ...]:
    """Those of these corrections that are not ours, each once and without aliases, in alphabetical order."""
    found = {_REGISTRY[kind] for kind in kinds if kind in _REGISTRY}
    return tuple(sorted(correction.name for correction in found if not is_ours(correction)))


def defaults(correction: type[Correction]) -> dict[str, object]:
    """The parameters of a registered correction and their defaults, by name."""
    return {field.name: field.default for field in dataclasses.fields(correction)}


def parameter_types() -> dict[str, type[bool] | type[str] | type[float]]:
    """The type of each parameter of the corrections registered so far; corrections that share a name share its type."""
    return {
        parameter: type_of(default)
        for correction in _REGISTRY.values()
        for parameter, default in defaults(correction).items()
    }


def type_of(default: object) -> type[bool] | type[str] | type[float]:
    """The type of a parameter's values by its default: a flag, a name, or else a number."""
    if isinstance(default, bool):
        return bool
    return str if isinstance(default, str) else float
