"""Lists of Python values as columns of numpy, each value checked for its type."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.formats.plain_schema import Kind


class WrongValueError(Exception):
    """A value of the wrong type or size.

    Attributes:
        at: its place in the list.
        found: the value, in words.
        expected: the type or size that was expected.
    """

    def __init__(self, at: int, found: str, expected: str) -> None:
        super().__init__(f"{found}, where {expected} was expected")
        self.at, self.found, self.expected = at, found, expected


_NONE = type(None)
_TYPES: dict[Kind, set[type]] = {
    Kind.INTEGER: {int, float},
    Kind.NUMBER: {int, float, _NONE},
    Kind.FLAG: {int, bool, float},
    Kind.NAME: {int, str},
}


def numbers(values: Sequence[Any]) -> Floats:
    """Numbers as float64, (n,); NaN for None.

    Raises:
        WrongValueError: a value is no number.
    """
    _check_types(values, Kind.NUMBER)
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        at = next(at for at, value in enumerate(values) if isinstance(value, int) and abs(value) > sys.float_info.max)
        raise WrongValueError(at, shown(values[at]), "a number of 64 bits") from None


def integers(values: Sequence[Any]) -> Ints:
    """Integers as int64, (n,); 3.0 is one too, as tables with gaps write it.

    Raises:
        WrongValueError: a value is no integer, or needs more than 64 bits.
    """
    _check_types(values, Kind.INTEGER)
    if float in set(map(type, values)):
        for at, value in enumerate(values):
            if value != value or value in (math.inf, -math.inf) or value != int(value):
                raise WrongValueError(at, shown(value), Kind.INTEGER)
        values = [int(value) for value in values]
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        at = next(at for at, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise WrongValueError(at, shown(values[at]), "an integer of 64 bits") from None


def flags(values: Sequence[Any]) -> Flags:
    """Flags as booleans, (n,).

    Raises:
        WrongValueError: a value is none of true, false, 1 and 0.
    """
    _check_types(values, Kind.FLAG)
    if not set(values) <= {0, 1}:
        at = next(at for at, value in enumerate(values) if value not in (0, 1))
        raise WrongValueError(at, shown(values[at]), Kind.FLAG)
    return np.array(values, dtype=np.bool_)


def top_k(ids: Sequence[Any], log_probs: Sequence[Any]) -> TopK | None:
    """The top-k of n tokens, (n, k); ids 0 and log_probs NaN at tokens that have none, None where no token has one.

    Raises:
        WrongValueError: lists of different lengths, or a value of the wrong type.
    """
    k = next((len(each) for each in ids if isinstance(each, list)), 0)
    for at, pair in enumerate(zip(ids, log_probs, strict=True)):
        if pair != (None, None):
            for each in pair:
                if not isinstance(each, list):
                    raise WrongValueError(at, shown(each), "a list, or null in both columns of the top-k,")
                if len(each) != k or not k:
                    raise WrongValueError(
                        at, f"a list of {len(each)}", f"one of {k or 'at least 1'}, as in the first row,"
                    )
    if not k:
        return None
    return TopK(
        _rows(_ids, [[0] * k if each is None else each for each in ids], k),
        _rows(numbers, [[None] * k if each is None else each for each in log_probs], k).astype(np.float32),
    )


def _ids(values: Sequence[Any]) -> NDArray[np.int32]:
    found = integers(values)
    small = found.astype(np.int32)
    if np.any(small != found):
        at = int(np.argmax(small != found))
        raise WrongValueError(at, shown(values[at]), "a token id of 32 bits")
    return small


def _rows(read: Callable[[Sequence[Any]], NDArray[Any]], rows: list[list[Any]], k: int) -> NDArray[Any]:
    try:
        return read([value for row in rows for value in row]).reshape(-1, k)
    except WrongValueError as error:
        raise WrongValueError(error.at // k, error.found, error.expected) from None


def shown(value: object) -> str:
    """A value as errors show it, cut after 40 signs."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_types(values: Sequence[Any], kind: Kind) -> None:
    allowed = _TYPES[kind]
    if not set(map(type, values)) <= allowed:
        at = next(at for at, value in enumerate(values) if type(value) not in allowed)
        raise WrongValueError(at, shown(values[at]), kind)
