"""The version that runs is told with its commit, and never with that of somebody else's checkout."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

import jackpot_sim
from jackpot_sim import version

ROOT = Path(__file__).parents[1]


def git(folder: Path, *options: str) -> str:
    own = ("-c", "user.name=x", "-c", "user.email=x@y")
    return subprocess.run(["git", "-C", folder, *own, *options], capture_output=True, text=True, check=True).stdout


def test_a_checkout_tells_its_commit() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    assert version.commit() == git(ROOT, "rev-parse", "HEAD").strip()
    of = re.escape(f"(commit {version.commit()[:12]}), Python {platform.python_version()}")
    assert re.fullmatch(rf"jackpot-sim {re.escape(jackpot_sim.__version__)} {of}", version.line())


def test_a_package_inside_another_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(version, "_ROOT", tmp_path)
    assert version.commit() == git(tmp_path, "rev-parse", "HEAD").strip()
    monkeypatch.setattr(version, "_ROOT", tmp_path / "site-packages")
    (tmp_path / "site-packages").mkdir()
    assert version.commit() == "unknown"
    assert version.line() == f"jackpot-sim {jackpot_sim.__version__}, Python {platform.python_version()}"
