"""The provenance of a record: versions and commit."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path

from jackpot_sim.version import commit

VERSION = metadata.version("jackpot-sim")

_PACKAGE = Path(__file__).parents[1]


def provenance() -> dict[str, str]:
    """Versions, and the commit of a checkout, by name."""
    return {
        "version": VERSION,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "commit": commit(),
    }


@functools.cache
def source_digest(*parts: str) -> str:
    """A digest of the source of this package, 16 hex digits; it changes with every byte, comments included.

    Args:
        parts: files and folders in the package; none: all of it.

    Raises:
        ValueError: a part holds no source, which would make its digest say nothing.
    """
    digest = hashlib.sha256()
    for path in (_PACKAGE / part for part in parts or (".",)):
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*.py") if each.is_file())
        if not files:
            raise ValueError(f"{path} holds no Python source: install the project with its sources")
        for file in files:
            digest.update(file.relative_to(_PACKAGE).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
