"""The packages that are installed, compared with the versions that this project needs and was tested with.

The lower bounds are those of the project's metadata, and the newest tested versions those that its constraints files
pin. A command checks them before it imports anything that needs them, so that an old package is named in one sentence
and does not show as a missing attribute somewhere else.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PROJECT = "jackpot-sim"
CONSTRAINTS = "constraints-{}.txt"
"""The file with the versions that passed all tests together: of `cpu`, or of an extra that needs others."""

_PACKAGE = Path(__file__).parent


class RequirementError(ValueError):
    """A package that is missing, older than needed, or without something that this project relies on."""


class UntestedVersionWarning(UserWarning):
    """A package that is newer than the versions that this project was tested with."""


class State(StrEnum):
    """The place of an installed version beside the tested ones."""

    MISSING = "missing"
    UNREADABLE = "unreadable version"
    TOO_OLD = "older than needed"
    TESTED = "tested"
    NEWER = "newer than tested"
    UNBOUNDED = "no bounds"


@dataclass(frozen=True)
class Package:
    """A package as it is installed, and the versions of it that are known to serve.

    Attributes:
        name: the name in pyproject.toml.
        extra: the first extra that asks for it; empty for the core.
        installed: its version; None where it is missing, empty where its metadata tells none.
        needed: the versions that the metadata allows.
        newest: the newest version that was tested, None where none is pinned.
    """

    name: str
    extra: str
    installed: str | None
    needed: SpecifierSet
    newest: Version | None

    @property
    def state(self) -> State:
        """The place of the installed version beside the tested ones; a build of a version (+cpu) counts as it."""
        if self.installed is None:
            return State.MISSING
        try:
            version = Version(self.installed)
        except InvalidVersion:
            return State.UNREADABLE
        if not self.needed.contains(version, prereleases=True):
            return State.TOO_OLD
        if self.newest is not None and Version(version.public) > self.newest:
            return State.NEWER
        return State.TESTED if self.newest is not None else State.UNBOUNDED

    @property
    def tested(self) -> str:
        """The range of the tested versions, as in `>=1.16,<=1.16.0`; what is known of it."""
        return ",".join([*map(str, self.needed), *([] if self.newest is None else [f"<={self.newest}"])])

    @property
    def install(self) -> str:
        """The command that installs a version that was tested."""
        return install(self.extra)


def require(*names: str, purpose: str = "this project") -> None:
    """Refuses packages that are missing or too old.

    Args:
        names: as in pyproject.toml; none: all packages that the core needs.
        purpose: the subject of the error: the part of the project that needs them.

    Raises:
        RequirementError: names the package, its version and the version that is needed.
    """
    for each in map(package, names or core()):
        if each.state is State.MISSING:
            raise RequirementError(f"{purpose} needs {each.name}, which is missing: {each.install}")
        if each.state is State.UNREADABLE:
            told = f"version {each.installed!a}" if each.installed else "no version"
            raise RequirementError(f"{purpose} needs {each.name}, whose metadata tell {told}: {each.install}")
        if each.state is State.TOO_OLD:
            raise RequirementError(
                f"{purpose} needs {each.name}{each.needed}, and {each.name} {each.installed} is installed: "
                f"{each.install}"
            )


def require_tested(*names: str, purpose: str = "this project") -> None:
    """Refuses packages that are missing or too old, and warns of those that are newer than tested.

    Args:
        names: as in pyproject.toml.
        purpose: the subject of the error: the part of the project that needs them.

    Raises:
        RequirementError: as `require`.

    Warns:
        UntestedVersionWarning: names the range, once in a process for each package.
    """
    require(*names, purpose=purpose)
    for each in map(package, names):
        if each.state is State.NEWER and each.name not in _WARNED:
            _WARNED.add(each.name)
            warnings.warn(
                f"{purpose} was tested with {each.name}{each.tested}, and {each.name} {each.installed} is installed: "
                "what has changed since is not known here",
                UntestedVersionWarning,
                stacklevel=2,
            )


_WARNED: set[str] = set()
"""The packages of which `require_tested` has warned."""


def package(name: str) -> Package:
    """A package by its name in pyproject.toml, whether it is asked for there or not."""
    requirement, extra = _bounds().get(name, (Requirement(name), ""))
    try:
        # None, or a KeyError: the folder of its metadata is there, and names no version.
        installed: str | None = metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        installed = None
    except Exception:  # the metadata of a broken installation may fail in any way
        installed = ""
    return Package(name, extra, installed, requirement.specifier, _newest(name, extra))


def install(extra: str) -> str:
    """The command that installs an extra, or the core for an empty name, in versions that were tested."""
    own = has_own_constraints(extra)
    file = CONSTRAINTS.format(extra if own else "cpu")
    where = "in the project's folder, in an environment of its own" if own else "in the project's folder"
    return f"pip install -c {file} '.{f'[{extra}]' if extra else ''}' {where}"


def has_own_constraints(extra: str) -> bool:
    """True for an extra whose tested versions are others, so that it needs an environment of its own."""
    return bool(extra) and _constraints(extra) is not None


def core() -> list[str]:
    """The packages that every part of the project needs."""
    return [name for name, (_, extra) in _bounds().items() if not extra]


def imported(name: str) -> ModuleType:
    """The module of a package that `require` has accepted.

    Raises:
        RequirementError: the package is broken: something that it needs itself is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        broken = str(error).split("\n")[0]
        raise RequirementError(
            f"{name} {metadata.version(name)} is installed and cannot be imported ({broken}): install it anew with "
            "what it needs"
        ) from error


def run(name: str, module: str, argv: Sequence[str] | None = None) -> int:
    """Runs `main()` of a command's module, after a check of the packages that it imports.

    Args:
        name: the command, at the head of its sentences.
        module: the module of its `main`, imported here and not before.
        argv: the arguments; None: those of the process.

    Returns:
        Its exit code; 2 for a package that is missing or too old, 130 for an interruption during the imports.
    """
    try:
        require()
        return int(importlib.import_module(module).main(argv))
    except RequirementError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted before it began", file=sys.stderr)
        return 130


@functools.cache
def _bounds() -> dict[str, tuple[Requirement, str]]:
    """The requirement of each package, and the first extra that asks for it; empty without an installation."""
    bounds: dict[str, tuple[Requirement, str]] = {}
    for requirement, extra in asked_for():
        bounds.setdefault(requirement.name, (requirement, extra))
    return bounds


def asked_for() -> Iterator[tuple[Requirement, str]]:
    """The requirements of the project, those of the core first, each with its extra or an empty name.

    A checkout's are in its pyproject.toml, where an installation that points to it may be older.
    """
    source = _PACKAGE.parent / "pyproject.toml"
    project = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {}) if source.is_file() else {}
    if project.get("name") == PROJECT:
        yield from ((Requirement(line), "") for line in project["dependencies"])
        for extra, lines in project["optional-dependencies"].items():
            yield from ((Requirement(line), extra) for line in lines)
        return
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        marker = str(requirement.marker or "")
        yield requirement, marker.split('"')[1] if marker.startswith("extra ==") else ""


def _newest(name: str, extra: str) -> Version | None:
    """The newest version of a package that was tested: the one that is pinned where all tests pass."""
    pinned = {**(_constraints(extra) or {}), **(_constraints("cpu") or {})} if extra else _constraints("cpu") or {}
    return pinned.get(canonicalize_name(name))


@functools.cache
def _constraints(label: str) -> dict[str, Version] | None:
    """The versions that a constraints file pins, by package; None where there is no such file.

    A checkout has the file at its top, an installed package in itself.
    """
    places = (folder / CONSTRAINTS.format(label) for folder in (_PACKAGE, _PACKAGE.parent))
    path = next((each for each in places if each.is_file()), None)
    return None if path is None else dict(_pinned(path.read_text(encoding="utf-8").splitlines()))


def _pinned(lines: Sequence[str]) -> Iterator[tuple[str, Version]]:
    for line in lines:
        try:
            requirement = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # a comment
            continue
        yield from ((canonicalize_name(requirement.name), Version(each.version)) for each in requirement.specifier)
