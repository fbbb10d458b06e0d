"""The benchmarks run and judge as they say; nothing here is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim.bench import cli, estimation, figures, sequences
from jackpot_sim.bench.timing import Finding, in_turn, median_ratio, peak_bytes


@pytest.mark.parametrize(
    ("finding", "met"),
    [
        (Finding("x", 3.0, at_most=3), True),
        (Finding("x", 3.1, at_most=3), False),
        (Finding("x", 3.0, at_least=3), True),
        (Finding("x", 2.9, at_least=3), False),
        (Finding("x", float("nan"), at_most=3), False),
        (Finding("x", 3.0), None),
    ],
)
def test_a_finding_meets_its_target_or_not(finding: Finding, met: bool | None) -> None:
    assert finding.met is met


def test_candidates_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_taken_within_each_round() -> None:
    assert median_ratio([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


def test_peak_memory_counts_what_is_held_at_once() -> None:
    assert 8e6 <= peak_bytes(lambda: np.zeros(10**6)) < 9e6


def test_figure2_agrees_with_every_published_point() -> None:
    findings = list(figures.figure2())
    assert len(findings) == 12
    assert all(finding.met for finding in findings)


def test_memory_of_the_exact_moments_does_not_grow() -> None:
    findings = list(estimation.memory(vocab=1024))
    assert findings[-1].met, findings


def test_scoring_by_prefix_is_scoring_and_every_estimator_is_measured() -> None:
    scores, _, measured, _ = sequences.enumeration(vocab=3, length=3, rounds=1)
    assert scores.met, scores
    assert "3 denominators, 27 sequences, 13 prefixes" in measured.what


def test_the_command_line_reports_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = [Finding("good", 1.0, at_most=2), Finding("bad", 3.0, at_most=2)]
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter(missed))
    assert cli.main(["memory", "--out", str(tmp_path / "found.json")]) == 1
    assert "1 of 2 targets met" in capsys.readouterr().out
    written = json.loads((tmp_path / "found.json").read_text())
    assert [finding["met"] for finding in written["findings"]] == [True, False]
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter(missed[:1]))
    assert cli.main(["memory"]) == 0


@pytest.mark.parametrize("argv", [["nope"], ["--nope"], ["memory", "--out", "/proc/nope/found.json"]])
def test_bad_input_is_one_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bench: ")
    assert captured.err.count("\n") == 1


def test_help_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(case in shown for case in cli.Case)
