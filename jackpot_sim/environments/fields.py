"""Checks of the numbers in a configuration: each error names the field, the range, and the value given."""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeGuard

import numpy as np

FORBID_EXTRA = {"extra": "forbid"}
"""For `__pydantic_config__`: a misspelt option of a configuration is an error, not a default."""

BY_KIND = {"discriminator": "kind"}
"""Field metadata from which pydantic learns, without being imported here, that `kind` picks the class."""


def check_count(name: str, value: object, low: int, high: int | None = None) -> None:
    """Refuses all but an integer in [low, high]."""
    if not (_whole(value) and low <= value and (high is None or value <= high)):
        allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Refuses all but a finite number above 0."""
    if not (_finite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_non_negative(name: str, value: object) -> None:
    """Refuses all but a finite number of at least 0."""
    if not (_finite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")


def check_share(name: str, value: object, *, zero: bool = True, one: bool = True) -> None:
    """Refuses all but a number between 0 and 1; `zero` and `one` say whether the ends are allowed."""
    if not (_finite(value) and 0 <= value <= 1 and (zero or value > 0) and (one or value < 1)):
        raise ValueError(f"{name} must lie in {'[' if zero else '('}0, 1{']' if one else ')'}, got {value!r}")


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
