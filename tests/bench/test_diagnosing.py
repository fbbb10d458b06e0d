"""The benchmark of a pass over a dump."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim.bench import cli, diagnosing
from jackpot_sim.bench.diagnosing import Pass, Step
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.timing import Finding
from jackpot_sim.readers.open_dump import open_dump

pytest.importorskip("pyarrow")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """The findings of a small dump by name, measured in this process."""
    monkeypatch.setitem(sys.modules, "verl", None)
    monkeypatch.setattr(diagnosing, "measured", lambda run: dataclasses.replace(run(), gib=0.25))
    return {each.what: each for each in diagnosing.diagnosing(4000)}


def test_time_memory_growth_and_parts_are_told(found: dict[str, Finding]) -> None:
    for size in (0.0004, 0.0016, 0.004):
        assert found[f"diagnose, {size} M tokens of Parquet, 1 worker"].value > 0
    assert found["diagnose, 0.004 M tokens of Parquet, 2 workers"].value > 0
    parts = {name.partition(": ")[2]: each.value for name, each in found.items() if name.startswith("share")}
    assert set(parts) == {"reading", "screening", "what-if", "measuring"}
    assert sum(parts.values()) == pytest.approx(100)
    assert min(parts.values()) > 0
    limits = {name: each.at_most for name, each in found.items() if each.has_target}
    assert limits == {"peak memory, 1 worker": 1, "peak memory, 2 workers": 1}  # so few tokens tell no speed


def test_without_verl_nothing_stands_for_it(found: dict[str, Finding]) -> None:
    finding = found["verl's metrics alone on 0.004 M tokens in memory"]
    assert math.isnan(finding.value)
    assert "verl is not installed here" in finding.note


def test_the_whole_dump_is_read_in_both_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosing, "_A_FILE", 1500)
    steps = [Step.made(step, 1500) for step in range(2)]
    for files in (diagnosing._parquet(tmp_path / "columns", 3000), diagnosing._jsonl(tmp_path / "text", 3000)):
        tables = list(open_dump(files).tables())
        assert len(files) == len(steps)
        for column, name in (("actor_log_probs", "actor"), ("policy_log_probs", "policy")):
            read = np.concatenate([getattr(each, column) for each in tables])
            np.testing.assert_array_equal(read, np.concatenate([getattr(each, name) for each in steps]))
        assert sum(each.sequences for each in tables) == sum(len(each.lengths) for each in steps)


def _holding() -> Pass:
    held = np.ones(2**24)
    time.sleep(1.0)
    return Pass(int(held[0]), 1.0)


def test_the_memory_is_that_of_the_process_that_ran() -> None:
    found = diagnosing.measured(_holding)
    assert found.tokens == 1
    assert 0.125 < found.gib < 1


def test_too_few_tokens_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", "--tokens", "10"]) == 2
    assert "tokens must be at least 1000" in capsys.readouterr().err
    assert cli.main(["memory", "--tokens", "1000000"]) == 2
    assert "tokens is an option of diagnose" in capsys.readouterr().err
    with pytest.raises(CannotMeasureError):
        next(diagnosing.diagnosing(999))
