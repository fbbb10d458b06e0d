"""Parameters of corrections as columns of the records, by name.

Each field of each correction of ours has its column in all records. Those of another correction, which a plug-in adds,
come after them, in the records of the studies that name it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.corrections import registry

Value: TypeAlias = float | str | bool

_FIRST = (
    *("clip", "floor", "low", "high", "bound", "lam", "c1", "c2", "threshold", "delta"),
    *("aggregate", "inverted"),
)
"""The order of columns in all records so far; a parameter that is not among them comes after these."""


def owners(kinds: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """The corrections that have each parameter, in the order of the columns.

    Args:
        kinds: the corrections that a study names; of those that are not ours, no others have columns.
    """
    by_parameter: dict[str, list[str]] = {parameter: [] for parameter in _FIRST}
    for name in (*registry.ours(), *registry.plugged_in(kinds)):
        for parameter in registry.defaults(registry.registered(name)):
            by_parameter.setdefault(parameter, []).append(name)
    return {parameter: tuple(names) for parameter, names in by_parameter.items()}


def types(kinds: Iterable[str] = ()) -> dict[str, type[Value]]:
    """The type of each parameter's column, in the order of the columns; `kinds` as in `owners`."""
    known = registry.parameter_types()
    return {parameter: known[parameter] for parameter in owners(kinds)}


def columns_of(correction: Correction) -> dict[str, Value]:
    """The parameters that are single values; one for each state, an array, has no place in a row of the cell."""
    parameters = correction.parameters().items()
    scalars = {name: value for name, value in parameters if value is not None and np.ndim(value) == 0}
    known = registry.parameter_types()
    return {name: known[name](value) for name, value in scalars.items() if name in known}
