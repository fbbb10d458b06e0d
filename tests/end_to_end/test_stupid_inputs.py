"""Stupid inputs are answered in one sentence, and nothing is lost or left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cases import each
from tests.end_to_end.stupid_inputs import MAINS, Answer, Input, answer, inputs, things
from tests.end_to_end.stupid_lines import HF

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    with things():
        yield


def test_there_are_three_hundred_over_all_commands() -> None:
    asked = inputs()
    assert len({(command, line) for command, line, _ in asked}) == len(asked) >= 300
    assert {*MAINS} == {command for command, *_ in asked}
    assert min(Counter(command for command, *_ in asked).values()) >= 2


@each("asked", inputs()[::3])  # `python -m tests.end_to_end.stupid_inputs` asks all
def test_it_is_answered_in_one_sentence_and_nothing_changes(asked: Input) -> None:
    given = answer(asked)
    assert given.faults(asked) == [], given


@each(
    "command, line, part",
    [
        ("sweep", "--config study.yaml --executor serial --seeds 1 --out ascii", "KL(policy||.)"),
        ("sweep", f"{HF} --env.length 2 --executor serial --out ascii-real", "KL(p||q)"),
        ("sweep", "--columns", "lambda"),
        ("analysis", "ascii --replicates 5", "KL(policy||.) before"),
        ("training", "--config train.yaml --dry-run", "Records would go"),
        ("training", "--columns", "||"),
        *((command, "--help", "Usage") for command in ("sweep", "training", "analysis", "bench", "diagnose")),
        *((command, "--help all", "Usage") for command in ("sweep", "training", "diagnose")),
        *((command, "--help", "Usage") for command in ("record", "report", "doctor", "completion")),
        ("doctor", "--quick", "tested"),
        ("report", "run", "KL(policy||.)"),
        ("diagnose", "--example --workers 1 --wide", "HEALTHY"),
        ("diagnose", "--example --workers 1 --json -", "healthy"),
        ("diagnose", "--schema", "schema"),
        ("figure1", "", "+-"),
        ("overhead", "", "k"),
        ("jackpot_sim", "", "sweep"),
    ],
)
def test_what_can_be_done_is_done_in_ascii_too(command: str, line: str, part: str) -> None:
    given = answer(Input(command, line, ""))
    assert given.code in (0, 1), given  # 1: drawn, and the paper's numbers are others
    assert given.said == ""
    assert part in given.out


def test_what_is_wrong_with_an_answer_is_seen() -> None:
    asked = Input("sweep", "--seeds x", "--seeds")
    good = Answer(2, "", "sweep: --seeds is no number\n", ())
    assert good.faults(asked) == []
    for bad in (
        Answer(0, "", good.err, ()),
        Answer("ValueError: x", "", good.err, ()),
        Answer(2, "a table", good.err, ()),
        Answer(2, "", good.err * 2, ()),
        Answer(2, "", "training: --seeds is no number\n", ()),
        Answer(2, "", "sweep: something else\n", ()),
        Answer(2, "", "sweep: --seeds: delete it\n", ()),
        Answer(2, "", "sweep: --seeds" + " is no number" * 50 + "\n", ()),
        Answer(2, "", good.err, ("runs",)),
    ):
        assert len(bad.faults(asked)) == 1


def test_a_folder_that_is_left_and_a_file_that_is_lost_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    def spoils(_: list[str]) -> int:
        Path("left").mkdir()
        Path("study.json").write_text("changed")
        raise UnicodeError("λ")

    monkeypatch.setattr("jackpot_sim.sweep.cli.main", spoils)
    before = Path("study.json").read_text()
    try:
        given = answer(Input("sweep", "", ""))
    finally:
        Path("left").rmdir()
        Path("study.json").write_text(before)
    assert given == Answer("UnicodeError: λ", "", "", ("left", "study.json"))
