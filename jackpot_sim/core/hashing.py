"""A hash of whole numbers that is the same in every process and on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_INCREMENT, _FIRST, _SECOND = (np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea & Flood 2014): every bit of the state affects every bit of the output.

    Args:
        state: any shape.

    Returns:
        The same shape.

    >>> int(splitmix64(np.zeros(1, dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF
    True
    """
    state = state + _INCREMENT
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
