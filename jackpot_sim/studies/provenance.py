"""The provenance of a record: versions and commit."""

from __future__ import annotations

import platform
from importlib import metadata

from jackpot_sim.version import commit

VERSION = metadata.version("jackpot-sim")


def provenance() -> dict[str, str]:
    """Versions, and the commit of a checkout, by name."""
    return {
        "version": VERSION,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "commit": commit(),
    }
