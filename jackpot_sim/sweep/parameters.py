"""Parameters of corrections as columns of the records: the fields of every registered correction, by name."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.corrections.registry import registered

Value: TypeAlias = float | str | bool

_FIRST = (
    *("clip", "floor", "low", "high", "bound", "lam", "c1", "c2", "threshold", "delta"),
    *("aggregate", "inverted"),
)
"""The order of columns in all records so far; a parameter that is not among them comes after these."""


def _defaults() -> dict[str, dict[str, object]]:
    """The defaults of each parameter, by correction."""
    by_parameter: dict[str, dict[str, object]] = {parameter: {} for parameter in _FIRST}
    for name in estimators.names():
        for field in dataclasses.fields(registered(name)):
            by_parameter.setdefault(field.name, {})[name] = field.default
    return by_parameter


def _type_of(parameter: str, defaults: dict[str, object]) -> type[Value]:
    types = {next((kind for kind in (bool, str) if isinstance(each, kind)), float) for each in defaults.values()}
    if len(types) != 1:
        raise TypeError(f"{parameter} of {', '.join(defaults)} cannot be one column: its defaults differ in type")
    return types.pop()


OWNERS = {parameter: tuple(defaults) for parameter, defaults in _defaults().items()}
"""The corrections that have each parameter, in the order of the columns."""

TYPES: dict[str, type[Value]] = {
    parameter: _type_of(parameter, defaults) for parameter, defaults in _defaults().items()
}
"""The type of each parameter's column."""


def columns_of(correction: Correction) -> dict[str, Value]:
    """The parameters that are single values; one for each state, an array, has no place in a row of the cell."""
    parameters = correction.parameters().items()
    scalars = {name: value for name, value in parameters if value is not None and np.ndim(value) == 0}
    return {name: TYPES[name](value) for name, value in scalars.items() if name in TYPES}
