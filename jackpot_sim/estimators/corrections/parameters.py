"""Parameters of corrections: their type, and the checks for `__post_init__`."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Protocol, TypeAlias, TypeVar

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import as_array, namespace, to_numpy

Parameter: TypeAlias = float | Array
"""A number; or an array that broadcasts against the log-ratio: one number for each state, shape (states, 1), or a
path of thresholds for `path.exact`."""


E = TypeVar("E", bound=StrEnum)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Band(_Named, Protocol):
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def require_positive(owner: _Named, *parameters: str, infinite: bool = True) -> None:
    """Refuses parameters that are given and not positive."""
    for parameter in parameters:
        value = getattr(owner, parameter)
        if value is None:
            continue
        valid = (value > 0) & ((value < math.inf) | infinite)
        if not bool(to_numpy(valid).all()):
            bound = "positive" if infinite else "positive and finite"
            raise ValueError(f"{owner.name}: {parameter} must be {bound}, got {value}")


def require_band(owner: _Band) -> None:
    """Refuses bounds `low` and `high` that no positive ratio satisfies."""
    if not 0 <= owner.low <= owner.high or owner.high <= 0:
        raise ValueError(f"{owner.name}: low and high must satisfy 0 <= low <= high, got {owner.low} and {owner.high}")


def one_of(owner: _Named, parameter: str, choices: type[E]) -> E:
    """The choice that a parameter names, refused if it is none of them."""
    value, known = getattr(owner, parameter), [str(choice) for choice in choices]
    if value not in known:
        raise ValueError(f"{owner.name}: {parameter} must be one of {', '.join(known)}, got {value!r}")
    return choices(value)


def log_band(low: float, high: float, inverted: bool = False) -> tuple[float, float]:
    """The bounds on log r of low ≤ r ≤ high or, inverted, of low ≤ 1/r ≤ high."""
    log_low, log_high = (math.log(low) if low > 0 else -math.inf), math.log(high)
    return (-log_high, -log_low) if inverted else (log_low, log_high)


def log_of(value: Parameter, like: Array) -> Array:
    """log of a parameter, its shape kept, in the dtype and on the device of `like`."""
    return namespace(like).log(as_array(value, like))
