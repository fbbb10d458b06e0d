"""The version of the package that runs: its number, and the commit of a checkout."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from jackpot_sim import __version__

UNKNOWN = "unknown"
"""The commit of what is no checkout."""

_ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit of this checkout; "unknown" for an installed package, also in the middle of another checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), "rev-parse", "--show-toplevel", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    top, _, found = done.stdout.strip().partition("\n")
    return found if done.returncode == 0 and Path(top) == _ROOT.resolve() else UNKNOWN


def line() -> str:
    """The answer to `--version`: the number, the commit where it is known, and Python's version."""
    known = commit()
    of = "" if known == UNKNOWN else f" (commit {known[:12]})"
    return f"jackpot-sim {__version__}{of}, Python {platform.python_version()}"
