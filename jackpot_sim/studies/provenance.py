"""The provenance of a record: versions and commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSION = metadata.version("jackpot-sim")


def provenance() -> dict[str, str]:
    """Versions, and the commit of a checkout, by name."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
        commit = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "version": VERSION,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "commit": commit or "unknown",
    }
