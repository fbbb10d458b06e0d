"""The command that plants faults finds those that need no long training, and says when it does not."""

from __future__ import annotations

import functools

import pytest

from jackpot_sim.diagnose.results import Cause, CauseName
from tests import confusion
from tests.cases import each
from tests.confusion import Row, printed, rows
from tests.diagnose.faults import FAULTS, Strength
from tests.diagnose.worlds import Family

SMALL = Family(steps=120, sequences=32, tokens=32)
QUICK = ("temperature", "top-p", "raw-both", "misaligned", "placeholder", "dominated", "template", "renamed", "bypass")
"""The faults whose models take no training of their own."""


@functools.cache
def small() -> dict[str, Row]:
    return rows(SMALL, 2, 0, 1, QUICK, strengths=(Strength.FULL,))


def test_every_quick_fault_comes_first_and_clean_dumps_name_none() -> None:
    assert {name: row.right for name, row in small().items() if row.right < 1} == {}


def test_the_table_has_a_row_for_each_and_says_the_shares() -> None:
    text = printed(small())
    assert all(name in text for name in small())
    assert f"right at full strength: 100.0% of {2 * len(QUICK)}" in text
    assert "nothing named in clean dumps: 100.0% of 6" in text


@each("named, code", [(CauseName.STALE, 0), (CauseName.PRECISION, 1), (None, 1)])
def test_the_command_fails_where_a_full_fault_is_missed(named: CauseName | None, code: int) -> None:
    row = Row(CauseName.STALE)
    row.add([] if named is None else [Cause(name=named, confidence=0.9, evidence="E.", remedy="R.")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confusion, "rows", lambda *_: {"stale full": row})
        assert confusion.main([]) == code


@pytest.mark.nightly
def test_each_fault_comes_first_at_full_strength_in_nineteen_of_twenty_dumps() -> None:
    matrix = rows(Family(), 20, 100, 2, list(FAULTS), strengths=(Strength.FULL,))
    assert {name: row.right for name, row in matrix.items() if row.right < 0.95} == {}
