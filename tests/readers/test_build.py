from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.topk import TopK
from jackpot_sim.readers import build
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.readers.table import TokenTable
from tests.cases import each


def top(length: int, k: int) -> TopK:
    return TopK(np.zeros((length, k), dtype=np.int32), np.zeros((length, k), dtype=np.float32))


def sequence(name: str = "a", length: int = 3, **columns: Any) -> DumpedSequence:
    return DumpedSequence(name, f"dump, line {name}", actor_log_probs=np.linspace(-1.0, -2.0, length), **columns)


def test_sequences_stand_in_a_table_one_after_the_other() -> None:
    first = sequence("a", 3, reward=1.0, mask=np.array([True, False, True]), advantages=np.arange(3.0))
    second = sequence("b", 2, reward=0.5, position=np.array([4, 6]), advantages=np.arange(2.0), token=None)
    (table,) = build.tables([first, second])
    assert (table.name, table.place) == (("a", "b"), ("dump, line a", "dump, line b"))
    assert table.starts.tolist() == [0, 3, 5]
    assert table.position.tolist() == [0, 1, 2, 4, 6]
    assert table.mask.tolist() == [True, False, True, True, True]
    assert table.actor_log_probs is not None
    assert table.actor_log_probs.tolist() == [-1.0, -1.5, -2.0, -1.0, -2.0]
    assert table.advantages is not None
    assert table.advantages.tolist() == [0.0, 1.0, 2.0, 0.0, 1.0]
    assert table.reward is not None
    assert table.reward.tolist() == [1.0, 0.5]
    assert table.columns == {"position", "mask", "actor_log_probs", "advantages", "reward"}


def test_a_table_ends_with_the_sequence_that_fills_it() -> None:
    tables = list(build.tables([sequence(str(n), 3) for n in range(5)], tokens=5))
    assert [table.name for table in tables] == [("0", "1"), ("2", "3"), ("4",)]


def test_sequences_with_other_columns_do_not_break_a_table_up() -> None:
    """Nor do they share it: a column that one has and the other lacks would have to be made up."""
    tables = list(build.tables([sequence(str(n), 3, step=None if n % 2 else n) for n in range(6)]))
    assert [table.name for table in tables] == [("0", "2", "4"), ("1", "3", "5")]
    assert tables[0].step is not None
    assert tables[0].step.tolist() == [0, 2, 4]
    assert tables[1].step is None


def test_top_k_of_different_k_stand_in_different_tables() -> None:
    tables = list(build.tables([sequence(str(n), 3, actor_topk=top(3, 2 + n % 2)) for n in range(4)]))
    assert [(table.name, table.actor_topk.k if table.actor_topk else 0) for table in tables] == [
        (("0", "2"), 2),
        (("1", "3"), 3),
    ]


def test_small_tables_are_put_together() -> None:
    def parts() -> list[TokenTable]:
        return [next(build.tables([sequence(str(n), 3, step=None if n == 4 else n)])) for n in range(6)]

    assert [table.name for table in build.full(parts(), tokens=7)] == [("0", "1"), ("2", "3"), ("4",), ("5",)]
    assert [table.name for table in build.full(parts(), tokens=1)] == [(str(n),) for n in range(6)]


def test_a_wide_top_k_takes_the_room_of_more_tokens() -> None:
    wide = [sequence(str(n), 3, actor_topk=top(3, 2 * build.WIDE)) for n in range(4)]
    assert [len(table) for table in build.tables(wide, tokens=12)] == [6, 6]
    parts = [next(build.tables([each])) for each in wide]
    assert [len(table) for table in build.full(parts, tokens=12)] == [6, 6]


BAD = {
    "line a has columns of different lengths \\(actor_log_probs 3, token 2\\)": sequence(token=np.arange(2)),
    "line a has columns of different lengths \\(actor_log_probs 3, actor_topk 2\\)": sequence(actor_topk=top(2, 1)),
    "line a has columns of different lengths \\(mask 1×3, actor_log_probs 3\\)": sequence(mask=np.ones((1, 3), bool)),
    "line a has no token": sequence(length=0),
    "line a has columns of 2 axes": dataclasses.replace(sequence(), actor_log_probs=np.zeros((2, 2))),
    "line a has no log-probs": dataclasses.replace(sequence(), actor_log_probs=None),
}


@each("told", BAD)
def test_columns_that_do_not_fit_together_are_said(told: str) -> None:
    with pytest.raises(DumpError, match=told):
        list(build.tables([BAD[told]]))
    errors: list[DumpError] = []
    (table,) = build.tables([sequence("0"), BAD[told], sequence("1")], refuse=errors.append)
    assert table.name == ("0", "1")
    assert len(errors) == 1
