"""The versions of trainers, of no extra of this project, in whose own files the corrections were tested."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from importlib import metadata

from packaging.specifiers import SpecifierSet

from jackpot_sim.requirements import UntestedVersionWarning

TESTED: Mapping[str, str] = {
    "slime": ">=0.3.1,<0.4",
    "miles": ">=0.1.0,<0.2",
    "prime-rl": ">=0.8.0,<0.9",
    "skyrl": ">=0.3.0,<0.4",
}
"""The range of each trainer's versions, by the name of its package."""


@functools.cache
def warn_untested(trainer: str) -> None:
    """Warns, once in a process, of a trainer whose version was not tested; a checkout that is not installed has none.

    Args:
        trainer: one of `TESTED`.

    Warns:
        UntestedVersionWarning: names the range.
    """
    try:
        version = metadata.version(trainer)
    except metadata.PackageNotFoundError:
        return
    if not SpecifierSet(TESTED[trainer]).contains(version, prereleases=True):
        warnings.warn(
            f"corrections were tested with {trainer}{TESTED[trainer]}, and {trainer} {version} is installed: compare "
            "loss and gradient by python -m tests.integrations.real_files",
            UntestedVersionWarning,
            stacklevel=2,
        )
