"""Solving for the knob at which a mismatch has a given KL.

The KL is exact, so the knob is solved for, never searched by sampling. A continuous knob meets the target to 1e-9,
relatively. A discrete one takes the attainable value nearest in |log KL|, since a KL is a scale and spans decades. A
target that no knob attains is an error, which gives the attainable range.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

RELATIVE_TOLERANCE = 1e-9
"""The largest relative miss of a target KL by a continuous knob; a target that lies no further beyond the attainable
range means its end."""

_SMALLEST = math.ulp(0.0)

Knob = TypeVar("Knob", int, float)


@dataclass(frozen=True)
class Target:
    """A KL to be met, and the curve on which it is looked for.

    Attributes:
        label: the name of the KL, for errors.
        value: the KL to be met, nats, positive.
        kl_at: knob → exact mean KL in nats; 0 means no mismatch, and inf is a value like any other.
        tolerance: the largest relative miss by a continuous knob; models in float32 or less have no smoother curve.
    """

    label: str
    value: float
    kl_at: Callable[[float], float]
    tolerance: float = RELATIVE_TOLERANCE

    def on_ray(self, farthest: float, knob_at: Callable[[float], float] = float) -> float:
        """The knob at which a continuous curve meets the target, to the tolerance.

        Args:
            farthest: the end of the ray.
            knob_at: t → knob, for t in (0, farthest]: there is no mismatch at t = 0, and the KL must not
                decrease in t.

        Raises:
            ValueError: the KL at `farthest` is below the target, or the curve is too rough to meet it.
        """
        kl_at = cache(lambda log_t: self.kl_at(knob_at(math.exp(log_t))))
        low = high = math.log(min(1.0, farthest))
        while kl_at(high) < self.value:
            if high >= math.log(farthest):
                raise self._unattainable(0.0, kl_at(high))
            high = min(high + math.log(2.0), math.log(farthest))
        while kl_at(low) >= self.value:
            low -= math.log(4.0)
            if low < math.log(_SMALLEST):
                raise self._unresolved(kl_at(low))

        # Near no mismatch the KL goes as t²: in log-log it is all but a straight line.
        def excess(log_t: float) -> float:
            return math.log(max(kl_at(log_t), _SMALLEST) / self.value)

        from scipy.optimize import brentq  # half a second at the start of each process, and few look for a knob

        finest = self.tolerance <= RELATIVE_TOLERANCE
        log_t = brentq(excess, low, high, xtol=1e-15 if finest else self.tolerance / 8, rtol=8.9e-16)
        if abs(kl_at(log_t) / self.value - 1) > self.tolerance:
            raise self._unresolved(kl_at(log_t))
        return knob_at(math.exp(log_t))

    def nearest(self, candidates: Sequence[Knob]) -> Knob:
        """The candidate whose KL is nearest in |log KL|; all are tried, so the curve may have any shape.

        Raises:
            ValueError: the target lies outside the range that the candidates attain.
        """
        kls = {knob: kl for knob in candidates if 0 < (kl := self.kl_at(knob)) < math.inf}
        low, high = min(kls.values(), default=0.0), max(kls.values(), default=0.0)
        if not low * (1 - RELATIVE_TOLERANCE) <= self.value <= high * (1 + RELATIVE_TOLERANCE):
            raise self._unattainable(low, high)
        return min(kls, key=lambda knob: abs(math.log(kls[knob] / self.value)))

    def nearest_ordered(self, candidates: Sequence[Knob]) -> Knob:
        """The candidate whose KL is nearest in |log KL|, for candidates in order of their KL: by bisection.

        On a curve that is not quite monotone the answer is the nearer of two neighbours that straddle the target.

        Raises:
            ValueError: the target lies outside the range that the candidates attain.
        """
        positive = bisect_right(candidates, 0.0, key=self.kl_at)
        at = bisect_left(candidates, self.value, lo=positive, key=self.kl_at)
        around = candidates[max(at - 1, positive) : at + 1]
        if not around:
            raise self._unattainable(0.0, 0.0)
        try:
            return self.nearest(around)
        except ValueError:
            raise self._unattainable(self.kl_at(candidates[positive]), self.kl_at(candidates[-1])) from None

    def nearest_growing(self, most: int) -> int:
        """The whole number from 0 on whose KL is nearest, on a growing curve; the search doubles until it passes.

        Raises:
            ValueError: even near `most` the KL is below the target.
        """
        stop = 1
        while stop < most and self.kl_at(stop) < self.value:
            stop *= 2
        return self.nearest_ordered(range(stop + 1))

    def _unresolved(self, kl: float) -> ValueError:
        return ValueError(
            f"target_kl={self.value:g} cannot be met to {self.tolerance:g}, as finely as numbers are kept: "
            f"{self.label} came to {kl:g}"
        )

    def _unattainable(self, low: float, high: float) -> ValueError:
        return ValueError(f"target_kl={self.value:g} is unattainable: {self.label} goes from {low:.6g} to {high:.6g}")
