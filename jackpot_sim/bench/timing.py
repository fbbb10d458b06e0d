"""Timing on a noisy machine: candidates run in turn, and ratios are taken within each round.

Targets are of ratios, never of seconds. The range over rounds goes with each ratio, and a target is decided only where
all rounds agree: other programs on the machine then leave it open, and do not make it missed. With five rounds the
range holds the median ratio with a probability of 94 %.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A measured figure with its target."""

    what: str
    value: float
    """The figure; of several rounds the median."""
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    labels: Mapping[str, str | float] = field(default_factory=dict)
    """The labels that distinguish this figure from others of its kind in a table of findings."""
    rounds: tuple[float, ...] = ()
    """The figure in each round, of a figure that is timed; its noise."""

    @classmethod
    def over_rounds(cls, what: str, rounds: Sequence[float], unit: str = "x", **more: Any) -> Finding:
        """The median of a figure that was timed in rounds, with all of them."""
        return cls(what, statistics.median(rounds), unit, rounds=tuple(rounds), **more)

    @property
    def has_target(self) -> bool:
        """True where there is a target."""
        return self.at_most is not None or self.at_least is not None

    @property
    def met(self) -> bool | None:
        """True where the target is met; None without a target, or where the rounds lie on both sides of it."""
        if not self.has_target:
            return None
        each_round = {self._meets(value) for value in self.rounds or (self.value,)}
        return each_round.pop() if len(each_round) == 1 else None

    def _meets(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    @property
    def noise(self) -> float:
        """Half the range over rounds, relative to the median; nan of a figure that is not timed."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.value if self.rounds else math.nan


def in_turn(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """The seconds of every candidate in each of `rounds`, after one round that is not counted.

    Args:
        candidates: the pieces of work.
        rounds: the number of rounds.
        clock: gives seconds; by default those of this process, without those of other programs, so that the work must
            be done in one thread of it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            started = clock()
            run()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """The ratio within each round, in which the drift of the machine cancels."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most memory that `run` held at once beyond what was there before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
