"""What made a record: the versions, and the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSION = metadata.version("jackpot-sim")


def provenance() -> dict[str, str]:
    """Versions, and the commit where this is a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
        commit = found.stdout.strip() if found.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "version": VERSION,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "commit": commit or "unknown",
    }
