"""Steps of TRL with and without corrections take turns, each does what it is said to, and all parts are timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from jackpot_sim.bench import correcting
from jackpot_sim.bench.cli import main
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.timing import Finding
from tests.environments.tiny_checkpoints import save_checkpoint
from tests.packages import without


@pytest.fixture(scope="module")
def steps() -> dict[str, Any]:
    found, _ = correcting._steps(None, correcting.TINY)
    return found


def test_every_method_has_its_rounds_and_nothing_of_ours_runs_in_the_steps_without(steps: dict[str, Any]) -> None:
    assert {name: len(its) for name, its in steps.items()} == dict.fromkeys(
        ["none", *correcting.CORRECTIONS], correcting.TINY.rounds
    )
    assert all(not any(step.parts.values()) for step in steps["none"])


def test_parts_of_a_correction_are_timed_where_it_has_them(steps: dict[str, Any]) -> None:
    for name in correcting.CORRECTIONS:
        of_topk = {"_see", "log_probs"}
        for step in steps[name]:
            at_work = {part for part, seconds in step.parts.items() if seconds > 0}
            assert at_work == set(step.parts) - (set() if "top-20" in name else of_topk), name
            assert sum(step.parts.values()) < step.seconds


def test_no_correction_makes_a_pass_more(steps: dict[str, Any]) -> None:
    assert {step.passes for its in steps.values() for step in its} == {correcting.TINY.length + 1}


def test_a_checkpoint_is_measured_by_its_name(tmp_path: Path) -> None:
    words = ("<end>", *"abcdefghijk")
    model = str(save_checkpoint(tmp_path / "model", 0, words))
    findings: list[Finding] = list(correcting.correcting(model, correcting.TINY))
    assert len(findings) == 1 + 3 * len(correcting.CORRECTIONS)
    assert all(finding.labels["model"] == model for finding in findings)
    passes = [finding for finding in findings if finding.has_target]
    assert len(passes) == len(correcting.CORRECTIONS)
    assert all(finding.met for finding in passes), passes


def test_a_missing_trl_and_a_model_for_another_case_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure2", "--model", "smollm2"]) == 2
    assert "model is an option of real and trl" in capsys.readouterr().err
    without(monkeypatch, "trl")
    with pytest.raises(CannotMeasureError, match="the measure of corrections in TRL needs trl"):
        next(correcting.correcting(None, correcting.TINY))
