"""What made a record is told, in a checkout or out of one."""

from __future__ import annotations

import platform
import subprocess
from typing import Any

import numpy as np
import pytest

import jackpot_sim
from jackpot_sim.studies.provenance import provenance


def test_versions_are_those_that_run() -> None:
    told = provenance()
    assert told["version"] == jackpot_sim.__version__
    assert told["numpy"] == np.__version__
    assert told["python"] == platform.python_version()
    assert told["commit"]


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert provenance()["commit"] == "unknown"
