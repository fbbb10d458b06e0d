from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim.readers import open_dump as module
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.formats import FORMATS
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.sequence import DumpedSequence
from tests.readers.dumps import jsonl, sequence_rows, token_rows, written


class Other:
    """A format that knows records by `lengths`, each a sequence of zeros."""

    name = "other"
    expects = "lengths"

    def recognises(self, record: Record) -> bool:
        return isinstance(record.content, dict) and "lengths" in record.content

    def together(self, path: Path) -> str:
        """The name up to the rank."""
        return path.name.split("_rank")[0]

    def sequences(self, records: Iterable[Record], refuse: Refuse) -> Iterator[DumpedSequence]:
        lengths = [record.content["lengths"] for record in records]
        yield DumpedSequence(f"of {len(lengths)}", "place", actor_log_probs=np.zeros(sum(lengths)))


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [each for each in FORMATS if each.name == "plain"]
    monkeypatch.setattr(module, "FORMATS", (*plain, Other()))


def test_the_files_of_a_folder_are_one_dump(tmp_path: Path) -> None:
    written(tmp_path / "step_2.jsonl", token_rows((3, 2), step=2))
    written(tmp_path / "step_10.jsonl.gz", gzip.compress(jsonl(sequence_rows(token_rows((4,), step=10)))))
    written(tmp_path / "log.txt", b"step 2: loss 0.5\n")
    dump = open_dump([tmp_path])
    assert [path.name for path in dump.files] == ["step_2.jsonl", "step_10.jsonl.gz"]
    assert [path.name for path in dump.passed_over] == ["log.txt"]
    assert dump.format == "plain"
    assert dump.sides == {"actor_log_probs", "policy_log_probs"}
    assert [(each.name, each.step) for each in dump.sequences()] == [("a0", 2), ("a1", 2), ("a0", 10)]
    (table,) = dump.tables()
    assert table.lengths.tolist() == [3, 2, 4]
    assert dump.left_out.count == {}


def test_files_that_belong_together_are_read_as_one(tmp_path: Path) -> None:
    for name in ("1_rank1", "0_rank0", "0_rank1", "1_rank0"):
        written(tmp_path / name, [{"lengths": 2}])
    assert [each.name for each in open_dump([tmp_path]).sequences()] == ["of 2", "of 2"]


def test_the_first_record_decides_the_format_unless_it_is_given(tmp_path: Path) -> None:
    path = written(tmp_path / "x", [{"lengths": 2}])
    assert open_dump([path]).format == "other"
    assert open_dump([path], format="other").sides == {"actor_log_probs"}
    with pytest.raises(DumpError, match="line 1 has neither actor_log_prob nor policy_log_prob"):
        list(open_dump([path], format="plain").sequences())


def test_a_format_that_is_not_known_is_said_with_what_is_expected(tmp_path: Path) -> None:
    path = written(tmp_path / "x", [{"ids": 2, "scores": 1}])
    with pytest.raises(
        DumpError, match=r"x, line 1 holds the keys ids, scores, .* plain \(actor_log_prob .*, or of other: --formats"
    ):
        open_dump([path])
    written(tmp_path / "y", token_rows((2,)))
    with pytest.raises(
        DumpError, match=r"x, line 1 holds the keys ids, .*, or name the files that are dumps, if this one"
    ):
        open_dump([tmp_path])
    with pytest.raises(DumpError, match="the keys a0, a1, a2, a3, a4, a5, a6, a7 and 12 more, by which"):
        open_dump([written(tmp_path / "x", [{f"a{key}": 1 for key in range(20)}])])
    with pytest.raises(DumpError, match="x, line 1, item 1 holds no keys, by which"):
        open_dump([written(tmp_path / "x", b"[[1], 2]")])
    with pytest.raises(DumpError, match="no format is called plane: choose one of plain, other"):
        open_dump([path], format="plane")
    both = written(tmp_path / "x", [{"lengths": 2, "actor_log_prob": 1}])
    with pytest.raises(DumpError, match="could be of the formats plain and other: choose with --format"):
        open_dump([both])
    assert open_dump([both], format="other").format == "other"


def test_a_folder_of_two_formats_is_said(tmp_path: Path) -> None:
    written(tmp_path / "1.jsonl", token_rows((2,)))
    written(tmp_path / "2.jsonl", [{"lengths": 2}])
    with pytest.raises(DumpError, match=r"2\.jsonl is of the format other, and .*1\.jsonl of plain: read them one at"):
        list(open_dump([tmp_path]).sequences())
    dump = open_dump([tmp_path], skip_bad=True)
    assert len(list(dump.sequences())) == 1
    assert dump.left_out.count == {"bad-row": 1}


def test_bad_files_are_said_or_skipped(tmp_path: Path) -> None:
    written(tmp_path / "1.jsonl", b"")
    written(tmp_path / "2.jsonl.gz", gzip.compress(jsonl(token_rows((3000,))))[:-20])
    written(tmp_path / "3.jsonl", token_rows((2, 2)))
    with pytest.raises(DumpError, match=r"1\.jsonl is empty"):
        open_dump([tmp_path])
    dump = open_dump([tmp_path], skip_bad=True)
    assert sum(len(table) for table in dump.tables()) >= 4
    assert dump.left_out.count == {"bad-row": 2}
    assert ["empty" in dump.left_out.sample["bad-row"][0], "damaged" in dump.left_out.sample["bad-row"][1]] == [
        True
    ] * 2


def test_a_dump_without_a_sequence_is_said(tmp_path: Path) -> None:
    (tmp_path / "only logs").mkdir()
    written(tmp_path / "only logs" / "a.txt", b"log")
    with pytest.raises(DumpError, match=r"only logs holds no dump, only 1 other file such as a\.txt"):
        open_dump([tmp_path / "only logs"])
    with pytest.raises(DumpError, match=r"a\.txt is no dump by its first bytes"):
        open_dump([tmp_path / "only logs" / "a.txt"])
    bad = open_dump([written(tmp_path / "x", token_rows((2,), token="x"))], skip_bad=True)
    for reading in (bad.sequences, bad.tables):
        with pytest.raises(
            DumpError, match=r"x holds no sequence that can be read; the first error: .*token holds 'x'"
        ):
            list(reading())
    with pytest.raises(DumpError, match="x holds no sequence"):
        bad.sides  # noqa: B018


def test_lengths_that_differ_are_said_by_tables(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="place has no token"):
        list(open_dump([written(tmp_path / "x", [{"lengths": 0}])]).tables())
