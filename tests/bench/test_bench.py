"""The benchmarks run and judge as they say; nothing here is timed."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.bench import cli, estimation, figures, sequences, sweeping, vocabularies
from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.settings import Device, Options, Precision
from jackpot_sim.bench.timing import Finding, in_turn, peak_bytes, ratios
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import spec

TINY_SWEEP = {
    "env": {"kind": "temperature", "temperature": 1.1, "base": {"kind": "zipf", "vocab": 10, "states": 2}},
    "estimators": ["none"],
}


@pytest.mark.parametrize(
    ("finding", "met"),
    [
        (Finding("x", 3.0, at_most=3), True),
        (Finding("x", 3.1, at_most=3), False),
        (Finding("x", 3.0, at_least=3), True),
        (Finding("x", 2.9, at_least=3), False),
        (Finding("x", float("nan"), at_most=3), False),
        (Finding("x", 3.0), None),
        (Finding.over_rounds("x", [2.0, 2.5, 3.0], at_most=3), True),
        (Finding.over_rounds("x", [3.1, 4.0, 9.0], at_most=3), False),
        (Finding.over_rounds("x", [2.0, 2.1, 3.1], at_most=3), None),
        (Finding.over_rounds("x", [2.9, 3.1, 3.2], at_least=3), None),
    ],
)
def test_a_finding_meets_its_target_or_not(finding: Finding, met: bool | None) -> None:
    assert finding.met is met


def test_candidates_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_the_time_of_other_programs_does_not_count() -> None:
    (slept,) = in_turn({"sleeps": lambda: time.sleep(0.05)}, rounds=1)["sleeps"]
    assert slept < 0.025
    (waited,) = in_turn({"sleeps": lambda: time.sleep(0.05)}, 1, time.perf_counter)["sleeps"]
    assert waited >= 0.05


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratios([2.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == [2.0, 2.0, 3.0]
    found = Finding.over_rounds("x", [2.0, 2.0, 3.0])
    assert (found.value, found.noise) == (2.0, 0.25)


def test_seconds_have_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "idle_processors", lambda: 8.0)
    monkeypatch.setattr(sweeping, "_study", lambda: spec.parse(TINY_SWEEP))
    found = [*sequences.enumeration(vocab=3, length=2, rounds=1), *estimation.paths(states=1, thresholds=3, rounds=1)]
    swept = list(sweeping.workers(rounds=1))
    assert swept[-2].met, "records of processes are those of this one"
    found += swept
    assert {finding.unit for finding in found if finding.has_target and finding.rounds} == {"x"}
    assert not [finding for finding in found if finding.unit == "s" and finding.has_target]
    assert [finding.what for finding in found if finding.unit == "x" and not finding.rounds] == []


def test_two_workers_are_not_judged_where_they_have_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "idle_processors", lambda: 0.4)
    monkeypatch.setattr(sweeping, "_study", lambda: spec.parse(TINY_SWEEP))
    monkeypatch.setattr(sweeping, "opened", lambda *_: nullcontext(SerialExecutor()))  # processes: the test before
    *_, same, ratio = sweeping.workers(rounds=1)
    assert same.met
    assert not ratio.has_target
    assert ratio.note == "no target: 0.4 processors were idle at first, and two workers need 2"


def test_peak_memory_counts_what_is_held_at_once() -> None:
    assert 8e6 <= peak_bytes(lambda: np.zeros(10**6)) < 9e6


def test_figure2_agrees_with_every_published_point() -> None:
    findings = list(figures.figure2())
    assert len(findings) == 12
    assert all(finding.met for finding in findings)


def test_memory_of_the_exact_moments_does_not_grow() -> None:
    findings = list(estimation.memory(vocab=1024))
    assert findings[-1].met, findings


def test_every_correction_of_single_tokens_is_measured_in_reads_of_both_laws() -> None:
    spent, reads, plain = vocabularies.corrections(states=2, vocab=50, rounds=1)
    count = len([name for name in estimators.names() if estimators.get(name).is_per_token])
    assert f"{count} corrections x 3 denominators, 2 x 50" in spent.what
    assert (spent.unit, spent.has_target, reads.at_most, plain.has_target) == ("s", False, 2, False)
    assert reads.value > 1  # so few tokens cost calls alone


def test_visited_states_are_measured_with_as_many_estimators_as_a_study_has() -> None:
    spent, reads = vocabularies.visited(tokens=2, vocab=50, rounds=1)
    assert "11 estimators, vocabulary 50" in spent.what
    assert (spent.unit, spent.has_target, reads.unit, reads.has_target) == ("s", False, "x", False)


def test_budgets_are_solved_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimation, "pairs", lambda states: {"small": vocabularies._pair(states, 80)})
    found = list(estimation.budget(states=4, rounds=1))
    assert len(found) == 4 * len(estimation._BUDGETS)
    assert all(each.met for each in found if each.what.startswith("|Z"))


def test_scoring_by_prefix_is_scoring_and_every_estimator_is_measured() -> None:
    scores, _, measured, ratio, _ = sequences.enumeration(vocab=3, length=3, rounds=1)
    assert scores.met, scores
    assert "3 denominators, 27 sequences, 13 prefixes" in measured.what
    assert (measured.unit, ratio.unit) == ("s", "x")


def test_the_command_line_reports_and_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = Finding.over_rounds("noisy", [1.0, 1.5, 3.0], at_most=2)
    found = [Finding("good", 1.0, at_most=2), noisy, Finding("bad", 3.0, at_most=2)]
    monkeypatch.setattr(cli, "idle_processors", lambda: 1e9)
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter(found))
    assert cli.main(["memory", "--out", str(tmp_path / "found.json")]) == 1
    out = capsys.readouterr().out
    assert re.search(r"noisy +1\.5 x +\[1, 3\] +at most 2 +open", out)
    assert "1 of 3 targets met\n  missed: bad\n  left open by the noise: noisy\nNoise: " in out
    assert "±67 % (median of 1 figures; the noisiest ±67 %)" in out
    assert "busy" not in out
    written = json.loads((tmp_path / "found.json").read_text())
    assert [finding["met"] for finding in written["findings"]] == [True, None, False]
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter(found[:2]))
    assert cli.main(["memory"]) == 0


@pytest.mark.parametrize(("idle", "code", "told"), [(1e9, 1, "missed"), (0.0, 0, "left open by the noise")])
def test_a_target_of_speed_is_not_missed_on_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], idle: float, code: int, told: str
) -> None:
    slow = Finding.over_rounds("slow", [3.0, 4.0], at_most=2)
    monkeypatch.setattr(cli, "idle_processors", lambda: idle)
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter([slow]))
    assert cli.main(["memory"]) == code
    out = capsys.readouterr().out
    assert f"0 of 1 targets met\n  {told}: slow\n" in out
    assert out.startswith("This machine is busy: ") == (code == 0)
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter([Finding("wrong", 3.0, at_most=2)]))
    assert cli.main(["memory"]) == 1  # an error is one on any machine


def test_what_was_found_before_it_failed_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_short() -> Iterator[Finding]:
        yield Finding("first", 1.0, labels={"shape": "tiny"})
        raise CannotMeasureError("the second does not fit: take a smaller one")

    monkeypatch.setitem(cli._CASES, cli.Case.NORMALIZERS, cut_short)
    assert cli.main(["normalizers", "--out", str(tmp_path / "found.json")]) == 2
    assert capsys.readouterr().err == "bench: the second does not fit: take a smaller one\n"
    (finding,) = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert finding["labels"] == {"shape": "tiny"}


@pytest.mark.parametrize("before", [None, "mine"])
def test_where_nothing_was_found_no_file_is_made_or_lost(
    before: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    if before is not None:
        file.write_text(before)
    assert cli.main(["overhead", "--rounds", "0", "--out", str(file)]) == 2
    assert capsys.readouterr().out == ""
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if before is None else [before])
    assert cli.main(["memory", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"bench: {tmp_path} is a folder: give a file to write\n")


def test_the_machine_is_told_without_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli._CASES, cli.Case.MEMORY, lambda: iter([Finding("x", 1.0)]))
    assert cli.main(["memory", "--out", str(tmp_path / "found.json")]) == 0
    text = (tmp_path / "found.json").read_text()
    machine = json.loads(text)["machine"]
    assert machine["processors"] >= 1
    assert machine["memory_gib"] > 0
    assert machine["numpy"] == np.__version__
    assert machine["jackpot_sim"]
    assert {"processor", "python", "torch", "transformers"} <= set(machine)
    assert platform.node() not in text
    assert str(Path.cwd()) not in text


def test_options_of_overhead_reach_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Options] = []

    def told(options: Options) -> Iterator[Finding]:
        asked.append(options)
        return iter([Finding("x", 1.0)])

    monkeypatch.setattr(cli, "overhead", told)
    line = "overhead --shape qwen3-0.6b qwen3-8b --device cuda --vocab 64 128 --precision float32 --batch 2 --length 9"
    assert cli.main([*line.split(), "--topk", "5", "--rounds", "1"]) == 0
    assert asked == [
        Options(
            shape=("qwen3-0.6b", "qwen3-8b"),
            vocab=(64, 128),
            device=Device.CUDA,
            precision=Precision.FLOAT32,
            batch=2,
            length=9,
            topk=5,
            rounds=1,
        )
    ]
    capsys.readouterr()
    assert cli.main(["memory", "--shape", "tiny"]) == 2
    assert "is an option of overhead alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["nope"],
        ["--nope"],
        ["memory", "--out", "/proc/nope/found.json"],
        ["overhead", "--shape", "qwen3-9b"],
        ["overhead", "--shape"],
        ["overhead", "--vocab", "many"],
        ["overhead", "--batch", "1", "--device", "cpu"],
        ["overhead", "--device", "tpu"],
    ],
)
def test_bad_input_is_one_sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("bench: ")
    assert captured.err.count("\n") == 1


def test_help_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(case in shown for case in cli.Case)
    assert all(f"--{field.name}" in shown for field in dataclasses.fields(Options))
    assert "qwen3-8b" in shown


@pytest.mark.nightly
def test_a_cluster_is_compared_with_loky_and_gives_its_records() -> None:
    pytest.importorskip("ray")
    from jackpot_sim.bench import sweeping

    times, same, ratio = [], [], []
    for finding, kept in zip(sweeping.cluster(4, 1), (times, times, same, ratio), strict=True):
        kept.append(finding)
    assert [finding.value > 0 for finding in times] == [True, True]
    assert same[0].met
    assert not ratio[0].has_target
