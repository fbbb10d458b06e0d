"""The packages that are installed, compared with the lower bounds in this project's metadata.

A command checks them before it imports anything that needs them, so that an old package is named in one sentence and
does not show as a missing attribute somewhere else.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from packaging.requirements import Requirement

PROJECT = "jackpot-sim"


class RequirementError(ValueError):
    """A package that is missing, older than needed, or without something that this project relies on."""


def require(*names: str, purpose: str = "this project") -> None:
    """Refuses packages that are missing or too old.

    Args:
        names: as in pyproject.toml; none: all packages that the core needs.
        purpose: the subject of the error: the part of the project that needs them.

    Raises:
        RequirementError: names the package, its version and the version that is needed.
    """
    bounds = _bounds()
    for name in names or [name for name, (_, extra) in bounds.items() if not extra]:
        needed, extra = bounds.get(name, (None, ""))
        install = f"pip install -c constraints-cpu.txt '.{f'[{extra}]' if extra else ''}' in the project's folder"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise RequirementError(f"{purpose} needs {name}, which is missing: {install}") from None
        if needed is not None and not needed.specifier.contains(version, prereleases=True):
            raise RequirementError(f"{purpose} needs {needed}, and {name} {version} is installed: {install}")


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
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return {}
    bounds: dict[str, tuple[Requirement, str]] = {}
    for requirement in map(Requirement, lines):
        marker = str(requirement.marker or "")
        extra = marker.split('"')[1] if marker.startswith("extra ==") else ""
        requirement.marker = None
        bounds.setdefault(requirement.name, (requirement, extra))
    return bounds
