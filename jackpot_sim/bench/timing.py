"""Timing on a noisy machine: candidates run in turn, and ratios are taken within each round."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A measured figure with its target."""

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    labels: Mapping[str, str | float] = field(default_factory=dict)
    """The labels that distinguish this figure from others of its kind in a table of findings."""

    @property
    def met(self) -> bool | None:
        """True where the target is met; None without a target."""
        if self.at_most is None and self.at_least is None:
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


def in_turn(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every candidate in each of `rounds`, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median over rounds of the ratio within a round, in which the drift of the machine cancels."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


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
