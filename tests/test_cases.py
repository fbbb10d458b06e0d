"""The decorator that runs one test for many cases."""

from __future__ import annotations

import inspect

import pytest

from tests.cases import each, every, rotating


def test_every_case_runs_and_the_one_that_fails_is_named() -> None:
    seen = []

    @each("first, second", every([1, 2], "ab"))
    def test(first: int, second: str, fixture: list[tuple[int, str]]) -> None:
        fixture.append((first, second))
        assert (first, second) != (2, "a")

    assert list(inspect.signature(test).parameters) == ["fixture"]
    with pytest.raises(AssertionError) as failed:
        test(fixture=seen)
    assert seen == [(1, "a"), (1, "b"), (2, "a")]
    assert failed.value.__notes__ == ["at first = 2, second = 'a'"]


def test_no_case_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="no case of value"):
        each("value", [])


def test_any_two_values_meet_where_the_others_take_turns() -> None:
    cases = list(rotating(range(7), range(5), "ab", "xyz"))
    assert len(cases) == 7 * 5
    for first in range(4):
        for second in range(first):
            pairs = {(case[first], case[second]) for case in cases}
            assert len(pairs) == len({pair[0] for pair in pairs}) * len({pair[1] for pair in pairs})
