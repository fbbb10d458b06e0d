"""Fields of dumps: numbers out of whatever holds them, and one plain sentence where they are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.fields import Fields


def fields(**content: Any) -> Fields:
    return Fields(content, "dump.jsonl, line 3")


def test_none_is_nan_wherever_it_stands() -> None:
    found = fields(x=[[0.5, None], [None, 2]]).floats("x")
    assert found is not None
    np.testing.assert_array_equal(found, [[0.5, np.nan], [np.nan, 2.0]])
    assert found.dtype == np.float64


def test_the_first_name_that_is_there_is_taken() -> None:
    given = fields(old=[1], new=None)
    np.testing.assert_array_equal(given.ints("new", "old"), [1])
    assert given.ints("new") is None
    assert given.get("none", "old") == [1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32", "bool"])
def test_tensors_of_any_dtype_are_numbers(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([1, 0, 1]).to(getattr(torch, dtype))
    for given in (tensor, [tensor, tensor], tensor.numpy() if dtype != "bfloat16" else tensor):
        found = fields(x=given).floats("x")
        assert found is not None
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found.reshape(-1)[:3], [1, 0, 1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("text", "x cannot be read: it holds text"),
        (["0.5", 1.0], "x cannot be read: it holds text"),
        ([0.5, {"a": 1}], "x cannot be read: it holds dict"),
        ([[1.0], [1.0, 2.0]], "x cannot be read: its rows have different lengths"),
        ({"a": 1}, "x cannot be read: it holds dict"),
        ([1.0, 2.0], r"x has shape \(2,\) where the tokens have \(3,\)"),
    ],
)
def test_what_is_no_array_of_numbers_is_told(values: Any, says: str) -> None:
    with pytest.raises(DumpError, match=rf"^dump.jsonl, line 3: {says}"):
        fields(x=values).floats("x", shape=(3,))


@pytest.mark.parametrize("values", [[1.5], [None], [float("nan")], [float("inf")]])
def test_ids_are_whole(values: Any) -> None:
    with pytest.raises(DumpError, match="x cannot be read: it must hold whole numbers"):
        fields(x=values).ints("x")


def test_flags_are_numbers_other_than_zero_and_none_is_no_flag() -> None:
    np.testing.assert_array_equal(fields(x=[1.0, 0, True, 0.25]).flags("x"), [True, False, True, True])
    with pytest.raises(DumpError, match="x cannot be read: it must hold a flag for each token"):
        fields(x=[1, None]).flags("x")


def test_one_number_stands_for_all_tokens() -> None:
    for value in (0.5, [0.5], np.float32(0.5)):
        np.testing.assert_array_equal(fields(x=value).per_token(3, "x"), [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(fields(x=[1, 2, 3]).per_token(3, "x"), [1, 2, 3])
    assert fields().per_token(3, "x") is None
    with pytest.raises(DumpError, match="where the tokens have"):
        fields(x=[1, 2]).per_token(3, "x")


def test_a_number_is_one_number() -> None:
    assert fields(x=[3]).number("x") == 3.0
    assert fields(x=3).whole("x") == 3
    assert fields(x=2.5).whole("x") is None
    for value in ("7", {"a": 1}, [1, 2], None):
        assert fields(x=value).number("x") is None
