"""Any dump written anew in the plain schema says what it said before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.diagnose.diagnose import EXAMPLE, diagnosed
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.record.cli import main
from jackpot_sim.record.convert import appearing
from tests.cases import each
from tests.readers.dumps import jsonl, sequence_rows, token_rows

Captured = pytest.CaptureFixture[str]


def told(*paths: Path) -> dict[str, Any]:
    """Everything that a dump says, but for the places of its files."""
    out: dict[str, list[Any]] = {}
    for sequence in open_dump(paths).sequences():
        for name, value in vars(sequence).items():
            if name != "place":
                top = [value.ids, value.log_probs] if hasattr(value, "ids") else value
                out.setdefault(name, []).append(top)
    return out


def same(first: object, second: object) -> None:
    if isinstance(first, list | dict):
        assert isinstance(second, type(first))
        assert len(first) == len(second)
        keys = first if isinstance(first, dict) else range(len(first))
        for key in keys:
            same(first[key], second[key])  # type: ignore[call-overload,index]
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second, strict=True)
    else:
        assert first == second


@each("rows, k", [(token_rows, 0), (token_rows, 3), (lambda k: sequence_rows(token_rows(k=k)), 2)])
def test_a_dump_keeps_all_that_it_says(rows: Any, k: int, tmp_path: Path) -> None:
    dump, out = tmp_path / f"{k}.jsonl", tmp_path / f"out{k}"
    dump.write_bytes(jsonl(rows(k=k)))
    assert main([str(dump), "--out", str(out), "--quiet"]) == 0
    same(told(dump), told(out))


def test_numbers_that_are_not_known_stay_unknown(tmp_path: Path) -> None:
    rows = token_rows((4,), k=2)
    rows[1] |= {"actor_log_prob": None, "actor_topk_log_probs": [None, None]}
    rows[2] |= {"advantage": None}
    dump, out = tmp_path / "d.jsonl", tmp_path / "out"
    dump.write_bytes(jsonl(rows))
    assert main([str(dump), "--out", str(out), "--quiet"]) == 0
    (first,), (second,) = (open_dump([path]).sequences() for path in (dump, out))
    assert first.actor_log_probs is not None
    assert np.isnan(first.actor_log_probs[1])
    same(told(dump), told(out))
    assert second.name == first.name


def test_the_diagnosis_of_what_was_written_is_that_of_the_dump(tmp_path: Path, capsys: Captured) -> None:
    assert main([str(EXAMPLE), "--out", str(tmp_path / "new" / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("64 sequences, 1,581 tokens")
    assert said.endswith("judges them.\n")
    before, after = diagnosed([EXAMPLE]), diagnosed([tmp_path / "new" / "out"])
    for name in ("verdict", "metrics", "corrections", "causes", "advice"):
        assert getattr(before, name) == getattr(after, name), name


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"

    def breaks_off() -> None:
        with appearing(out) as folder:
            (folder / "part").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks_off()
    assert list(tmp_path.iterdir()) == []
    out.mkdir(parents=True)
    with appearing(out) as folder:
        (folder / "part").write_text("whole")
        assert list(out.iterdir()) == []
    assert [path.name for path in out.parent.rglob("*")] == ["out", "part"]
    with pytest.raises(FileExistsError, match="is there already"), appearing(out):
        raise AssertionError("it holds something")


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path, capsys: Captured) -> None:
    rows = token_rows((3, 2))
    rows[3]["actor_log_prob"] = "x"
    dump, out = tmp_path / "d.jsonl", tmp_path / "out"
    dump.write_bytes(jsonl(rows))
    assert main([str(dump), "--out", str(out), "--skip-bad"]) == 0
    assert "1 sequences, 3 tokens (without" in capsys.readouterr().out


@each(
    "line, part",
    [
        ("", "--out"),
        ("--out new", "give the files of a dump, or --server"),
        ("missing.jsonl --out new", "missing.jsonl does not exist"),
        ("d.jsonl --out full", "full is there already: give a folder that is new or empty"),
        ("d.jsonl --out d.jsonl", "d.jsonl is there already"),
        ("d.jsonl --out new --samples 3", "--samples goes with --server"),
        ("d.jsonl --out new --format nothing", "no format is called nothing"),
        ("one.jsonl --out new", "has no log-probs of the policy: give --policy"),
        ("--server http://127.0.0.1:9/v1 --out new", "--server goes with --policy CHECKPOINT and --prompts FILE"),
    ],
)
def test_a_stupid_line_is_one_sentence_and_leaves_nothing(
    line: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.jsonl").write_bytes(jsonl(token_rows()))
    Path("one.jsonl").write_bytes(jsonl([{"sequence": 0, "position": 0, "actor_log_prob": -1.0}]))
    Path("full").mkdir(exist_ok=True)
    Path("full/precious").write_text("mine")
    before = sorted(map(str, tmp_path.rglob("*")))
    assert main(line.split()) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("record: ")
    assert part in error
    assert sorted(map(str, tmp_path.rglob("*"))) == before
