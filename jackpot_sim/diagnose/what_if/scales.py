"""Bins of fixed width on a logarithmic scale, for quantiles of what streams past."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints

_MANTISSA = 52
_BIAS = 1023


@dataclass(frozen=True)
class LogScale:
    """Bins of positive numbers, 2**fine in each octave from 2**low to 2**high, with one below and one above.

    A bin is the exponent and the first `fine` binary digits of a float64, so that it is 2**−fine of its lower end wide
    at most.

    Attributes:
        low: the exponent of 2 at which the bins begin.
        high: the exponent at which they end.
        fine: the binary digits.
    """

    low: int
    high: int
    fine: int

    @property
    def size(self) -> int:
        """The number of bins."""
        return ((self.high - self.low) << self.fine) + 2

    def zeros(self) -> Floats:
        """A histogram without any mass, (size,)."""
        return np.zeros(self.size)

    def bins(self, values: Floats) -> Ints:
        """The bin of each value ≥ 0, (n,)."""
        digits = np.ascontiguousarray(values, dtype=np.float64).view(np.int64) >> (_MANTISSA - self.fine)
        digits -= ((_BIAS + self.low) << self.fine) - 1
        return np.clip(digits, 0, self.size - 1, out=digits)

    def counts(self, bins: Ints, mass: Floats | None = None) -> Floats:
        """The mass in each bin, (size,); None: 1 for each value."""
        return np.bincount(bins, weights=mass, minlength=self.size).astype(np.float64, copy=False)

    @cached_property
    def _edges(self) -> Floats:
        digits = np.arange(self.size - 1, dtype=np.int64) + ((_BIAS + self.low) << self.fine)
        return (digits << (_MANTISSA - self.fine)).view(np.float64)

    @cached_property
    def middles(self) -> Floats:
        """The middle of each bin, (size,): 0 and inf at the ends."""
        return np.concatenate([[0.0], (self._edges[1:] + self._edges[:-1]) / 2, [np.inf]])

    def quantile(self, mass: Floats, level: float) -> float:
        """The middle of the bin in which `level` of the mass, (size,), is reached; nan without mass."""
        total = np.cumsum(mass)
        if not total[-1] > 0:
            return float("nan")
        return float(self.middles[int(np.searchsorted(total, level * total[-1]))])


WEIGHTS = LogScale(-32, 32, 7)
"""Weights: the middle of a bin is within 0.4 % of all that is in it."""
LENGTHS = LogScale(0, 26, 5)
"""Lengths: up to 64 tokens exact, then within 1.6 %."""
