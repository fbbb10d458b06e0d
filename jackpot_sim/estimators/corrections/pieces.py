"""A correction as monomials of r on stretches of r, for paths and best thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators.corrections.parameters import Parameter


class Monomial(NamedTuple):
    """coefficient · r^power."""

    coefficient: float | Floats
    power: int


@dataclass(frozen=True)
class Piece:
    """A stretch of r on which accept and weight are both monomials of r."""

    upper: float | Floats
    """log r at the end of the stretch; the last piece ends at inf."""
    closed: bool
    """True where the end belongs to the stretch."""
    accept: Monomial
    weight: Monomial


ONE = Monomial(1.0, 0)
RATIO = Monomial(1.0, 1)


def number(value: Parameter) -> float | Floats:
    """A number unchanged, or an array of any shape as a numpy array."""
    return value if isinstance(value, int | float) else np.asarray(value)


def log(value: Parameter) -> float | NDArray[np.float64]:
    """log of a parameter, its shape kept."""
    return np.log(number(value))
