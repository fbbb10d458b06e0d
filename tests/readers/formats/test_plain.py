from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.formats import plain
from jackpot_sim.readers.formats.plain_schema import BY_NAME, SCHEMA, Kind
from jackpot_sim.readers.open_dump import open_dump
from tests.cases import each
from tests.readers.dumps import Row, jsonl, read, same, sequence_rows, token_rows, written


def test_every_column_is_read(tmp_path: Path) -> None:
    rows = token_rows((3, 2), k=2)
    sequences = read(written(tmp_path / "x", rows))
    assert [sequence.name for sequence in sequences] == ["a0", "a1"]
    assert [sequence.place[-6:] for sequence in sequences] == ["line 1", "line 4"]
    for sequence in sequences:
        own = [row for row in rows if row["sequence"] == sequence.name]
        for column in SCHEMA:
            if column.name in ("sequence", "prompt"):
                continue
            found = getattr(sequence, column.field)
            if "topk" in column.name:
                found = found.ids if column.name.endswith("ids") else found.log_probs
            expected = own[0][column.name] if column.of_sequence else [row[column.name] for row in own]
            assert np.array_equal(found, expected), column.name
            assert (
                not isinstance(found, np.ndarray)
                or found.dtype
                == {
                    Kind.FLAG: np.bool_,
                    Kind.INTEGER: np.int64,
                    Kind.NUMBER: np.float64,
                    Kind.TOP_IDS: np.int32,
                    Kind.TOP_LOG_PROBS: np.float32,
                }[column.kind]
            ), column.name


def test_rows_of_sequences_hold_the_same_as_rows_of_tokens(tmp_path: Path) -> None:
    of_tokens = read(written(tmp_path / "tokens", token_rows((3, 1, 4), k=3)))
    lists = sequence_rows(token_rows((3, 1, 4), k=3))
    plural = [{BY_NAME[name].plural or name: value for name, value in row.items()} for row in lists]
    assert plural[0].keys() != lists[0].keys()
    for name, rows in {"lists": lists, "plural": plural}.items():
        for one, other in zip(of_tokens, read(written(tmp_path / name, rows)), strict=True):
            same(one, other)


def test_a_row_of_a_sequence_may_leave_out_its_name_and_hold_one_advantage(tmp_path: Path) -> None:
    rows = [{"policy_log_probs": [-1.0, -2.0], "advantage": 0.5, "weight_version": 3, "prompt": [5, 6]} for _ in "ab"]
    first, second = read(written(tmp_path / "x", rows))
    assert (first.name, second.name) == ("1", "2")
    assert first.advantages is not None
    assert first.advantages.tolist() == [0.5, 0.5]
    assert first.weight_version is not None
    assert first.weight_version.tolist() == [3, 3]
    assert first.prompt is not None
    assert first.prompt.tolist() == [5, 6]
    assert first.actor_log_probs is None


def test_numbers_that_are_not_known_are_nan_and_columns_without_any_are_not_there(tmp_path: Path) -> None:
    """Screening counts the log-probs; nothing here calls such a row bad."""
    rows = token_rows((3,), advantage=None, step=None, reward=None, weight_version=None, token=None, mask=None)
    for row, value in zip(rows, (None, float("nan"), float("-inf")), strict=True):
        row["actor_log_prob"] = row["entropy"] = value
        row["policy_log_prob"] = None
    for kind in (rows, sequence_rows(rows)):
        (sequence,) = read(written(tmp_path / "x", kind))
        assert sequence.actor_log_probs is not None
        assert np.array_equal(sequence.actor_log_probs, [np.nan, np.nan, -np.inf], equal_nan=True)
        assert sequence.entropy is not None
        assert np.array_equal(sequence.entropy, [np.nan, np.nan, -np.inf], equal_nan=True)
        assert sequence.policy_log_probs is not None
        assert np.isnan(sequence.policy_log_probs).all()
        for name in ("advantages", "step", "reward", "weight_version", "token", "mask"):
            assert getattr(sequence, name) is None, name


def test_tokens_without_a_top_k_have_none(tmp_path: Path) -> None:
    rows = token_rows((3,), k=2)
    rows[1]["actor_topk_ids"] = rows[1]["actor_topk_log_probs"] = None
    for row in rows:
        row["policy_topk_ids"] = row["policy_topk_log_probs"] = None
    (sequence,) = read(written(tmp_path / "x", rows))
    assert sequence.policy_topk is None
    assert sequence.actor_topk is not None
    assert np.isnan(np.asarray(sequence.actor_topk.log_probs)).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_masks_of_numbers_and_columns_of_others_are_taken(tmp_path: Path) -> None:
    rows = token_rows((3,), other={"nested": 1})
    for row, value in zip(rows, (1, 0.0, True), strict=True):
        row["mask"] = value
    (sequence,) = read(written(tmp_path / "x", rows))
    assert sequence.mask is not None
    assert sequence.mask.tolist() == [True, False, True]


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    """A table in which one value is missing holds floating numbers."""
    rows = token_rows((3, 2))
    pointed = [row | {"token": float(row["token"]), "step": 4.0, "weight_version": 3.0} for row in rows]
    for kind in (list, sequence_rows):
        whole, found = read(written(tmp_path / "x", kind(rows))), read(written(tmp_path / "y", kind(pointed)))
        assert [(each.step, each.token.dtype) for each in found if each.token is not None] == [(4, np.int64)] * 2
        for one, other in zip(whole, found, strict=True):
            same(one, other)


def test_the_schema_is_described_for_help() -> None:
    told = {name: (kind, meaning) for name, kind, meaning in plain.described()}
    assert list(told) == [column.name for column in SCHEMA]
    assert told["reward"] == ("number or null, one of the sequence", "reward of the sequence")
    assert told["advantage"][0] == "number or null, one a token or one of the sequence"


def changed(at: int, **values: Any) -> list[Row]:
    """Two sequences, a0 in the rows 1 to 3 and a1 in 4 and 5, with other values in one row."""
    rows = token_rows((3, 2), k=2)
    rows[at] |= values
    return rows


def without(column: str, at: int | None = None) -> list[Row]:
    rows = token_rows((3, 2), k=2)
    for number, row in enumerate(rows):
        if at in (None, number):
            del row[column]
    return rows


def one_number_less(column: str) -> list[Row]:
    rows = sequence_rows(token_rows((3, 2)))
    rows[1][column].pop()
    return rows


def row(**values: Any) -> list[Row]:
    return [sequence_rows(token_rows((3, 2)))[0] | values]


BAD: dict[str, list[Any]] = {
    "line 5: token holds '7', where integer was expected": changed(4, token="7"),
    "line 5: token holds True, where integer was expected": changed(4, token=True),
    "line 5: token holds 1.5, where integer was expected": changed(4, token=1.5),
    "line 5: token holds nan, where integer was expected": changed(4, token=float("nan")),
    "line 5: token holds inf, where integer was expected": changed(4, token=float("inf")),
    "line 5: token holds null, where integer was expected": changed(4, token=None),
    "line 4: token holds 18446744073709551616, where an integer of 64 bits was expected": changed(3, token=2**64),
    "line 2: policy_log_prob holds -100000": changed(1, policy_log_prob=-(10**400)),
    "line 5: actor_log_prob holds '-1.5', where number or null was expected": changed(4, actor_log_prob="-1.5"),
    "line 5: actor_log_prob holds False, where number or null was expected": changed(4, actor_log_prob=False),
    "line 5: policy_log_prob holds {'a': 1}, where": changed(4, policy_log_prob={"a": 1}),
    "line 5: mask holds 2, where true, false, 1 or 0 was expected": changed(4, mask=2),
    "line 5: mask holds 'yes', where true, false, 1 or 0 was expected": changed(4, mask="yes"),
    "line 5: reward holds 3.0, where 1.0, as in the sequence's first row, was expected": changed(4, reward=3.0),
    "line 5: step holds 5, where 4, as": changed(4, step=5),
    "line 5: position is 0 after 0, where a larger one": changed(4, position=0),
    "line 4: position is -1, where a larger one": changed(3, position=-1),
    "line 5: sequence a0 comes back after others": changed(4, sequence="a0"),
    "line 5: sequence is null, where integer or string was expected": changed(4, sequence=None),
    "line 5: sequence is 1.5, where integer or string was expected": changed(4, sequence=1.5),
    "line 5: actor_topk holds a list of 1, where one of 2, as": changed(4, actor_topk_ids=[1]),
    "line 5: actor_topk holds null, where a list, or null in both": changed(4, actor_topk_ids=None),
    "line 5: actor_topk holds 'x', where integer was expected": changed(4, actor_topk_ids=[1, "x"]),
    "line 5: actor_topk holds 4294967296, where a token id of 32 bits": changed(4, actor_topk_ids=[1, 2**32]),
    "line 5: policy_topk holds 'None', where number": changed(4, policy_topk_log_probs=["None", 1]),
    "line 1 has no column sequence \\(columns: position, ": without("sequence"),
    "line 5 has no column sequence \\(columns: position, ": without("sequence", 4),
    "line 5 and .* line 1 differ in the columns advantage": without("advantage", 4),
    "line 1 has no actor_topk_ids: a top-k has both": without("actor_topk_ids"),
    "line 5 holds 1: expected an object": [*token_rows((3, 1)), 1],
    "line 2 has lists of different lengths \\(position 2, token 1, ": one_number_less("token"),
    "line 1 has no token": [{"policy_log_probs": [], "advantage": 1.0}],
    "line 1: token is 7, where a list was expected": row(token=7),
    "line 1: reward holds \\[1.0\\], where number": row(reward=[1.0]),
    "line 1, entry 2: token holds 'x', where integer": row(token=[1, "x", 2]),
    "line 1, entry 3: position is 1 after 1": row(position=[0, 1, 1]),
    "line 1 has both token and tokens": row(tokens=[1, 2, 3]),
    "line 1: prompt holds 'x', where list of integers": row(prompt="x"),
}


@each("told", BAD)
def test_a_bad_row_is_said(told: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x", b"".join(json.dumps(each).encode() + b"\n" for each in BAD[told]))
    with pytest.raises(DumpError, match=told) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_bad_row_that_is_skipped_takes_its_sequence_along(tmp_path: Path) -> None:
    rows = token_rows((3, 4, 2))
    rows[4]["token"] = "x"
    path = written(tmp_path / "x", jsonl(rows) + b'{"sequence": "a2", "posi')
    dump = open_dump([path], skip_bad=True)
    for _ in range(2):
        assert [sequence.name for sequence in dump.sequences()] == ["a0", "a2"]
        assert dump.left_out.count == {"bad-row": 5}
        assert dump.left_out.sample == {
            "bad-row": [
                f"{path}, line 5: token holds 'x', where integer was expected",
                f"{path} ends in the middle of line 10: the dump was cut",
            ]
        }


def test_one_kind_of_rows_stands_in_a_file(tmp_path: Path) -> None:
    tokens, lists = token_rows((2, 2)), sequence_rows(token_rows((2, 2)))
    lists[1]["sequence"] = "b"
    with pytest.raises(DumpError, match=r"line 5 is one of a sequence with lists, .* line 1 a row of a token: use one"):
        read(written(tmp_path / "x", [*tokens, lists[1]]))
    with pytest.raises(DumpError, match=r"line 3 is a row of a token, .* line 1 one of a sequence with lists: use"):
        read(written(tmp_path / "x", [*lists, tokens[0] | {"sequence": "c"}]))


def test_a_slip_in_the_name_of_a_column_is_told(tmp_path: Path) -> None:
    rows = [
        {"policy_logprob" if key == "policy_log_prob" else key: row[key] for key in row} for row in token_rows((2,))
    ]
    with pytest.raises(DumpError, match=r"line 1 has the column policy_logprob: did you mean policy_log_prob\?"):
        read(written(tmp_path / "x", rows))
