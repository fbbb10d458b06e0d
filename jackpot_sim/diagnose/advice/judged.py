"""The verdict on the size of a mismatch: figures with their intervals against thresholds that others reported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jackpot_sim.diagnose.results import Figure, State
from jackpot_sim.estimators.mismatch.lines import BAD, GOOD, HALF, STABLE

OVERLAP = ("overlap_p5_low", "overlap_p5_high")
"""The 5th percentile of the overlap, at the low and at the high end of its bracket."""


@dataclass(frozen=True)
class _Line:
    """A figure, the number that divides small from large, and the words of either side."""

    figure: str
    at: float
    large_is_bad: bool
    name: str
    source: str

    def side(self, figure: Figure) -> State:
        """The side on which all of the figure's interval lies; undecided where it has none or it lies across."""
        if figure.value is None:
            return State.UNDECIDED
        if figure.low is None or figure.high is None:
            return State.UNDECIDED
        if figure.low > self.at:
            return State.PROBLEM if self.large_is_bad else State.HEALTHY
        if figure.high < self.at:
            return State.HEALTHY if self.large_is_bad else State.PROBLEM
        return State.UNDECIDED

    def said(self, figure: Figure) -> str:
        """The figure, its interval and the line."""
        value = "no number" if figure.value is None else f"{figure.value:.3g}"
        known = figure.low is not None and figure.high is not None
        between = f" ({figure.low:.3g} to {figure.high:.3g})" if known else ", without an interval"
        return f"{self.name} is {value}{between}, the line {self.at:g} ({self.source})"


GAP = _Line("probability_gap", BAD, True, "the mean |p − q|", f"verl: good below {GOOD:g}, bad above {BAD:g}")
SHARE = _Line("ess_fraction_token", HALF, False, "the effective share of the tokens under weights p/q", "half of them")
TAIL_LOW = _Line(OVERLAP[0], STABLE, False, "the 5th percentile of the overlap", "stable from there on")
TAIL_HIGH = _Line(OVERLAP[1], STABLE, False, "the 5th percentile of the overlap", "stable from there on")


@dataclass(frozen=True)
class Judged:
    """The verdict on the size of the mismatch.

    Attributes:
        state: healthy or a problem where the intervals leave no other answer.
        reasons: the figures that decide, or that do not, in words.
        more: the factor by which more tokens would settle it; nan where it is settled, or no factor is known.
    """

    state: State
    reasons: tuple[str, ...]
    more: float = math.nan


def judged(metrics: Mapping[str, Figure]) -> Judged:
    """The verdict: a problem if any figure is surely on the bad side, healthy if |p − q| surely is not and none is.

    The overlap, where the dump has both top-k, decides for either side only with the end of its bracket that is worse
    for the answer; it need not be known for a verdict, nor the effective share where its interval is too wide.
    """
    lines = [line for line in (GAP, SHARE, TAIL_HIGH) if line.figure in metrics]
    sides = {line: line.side(metrics[line.figure]) for line in lines}
    bad = [line for line, side in sides.items() if side is State.PROBLEM]
    if bad:
        return Judged(State.PROBLEM, tuple(line.said(metrics[line.figure]) for line in bad))
    if sides.get(GAP) is State.HEALTHY:
        good = [line for line in (GAP, TAIL_LOW) if line.figure in metrics and _is_good(line, metrics)]
        return Judged(State.HEALTHY, tuple(line.said(metrics[line.figure]) for line in good))
    if GAP.figure not in metrics:
        return Judged(State.UNDECIDED, ("there is no token to judge by",))
    return Judged(State.UNDECIDED, (GAP.said(metrics[GAP.figure]),), _more(metrics[GAP.figure]))


def _is_good(line: _Line, metrics: Mapping[str, Figure]) -> bool:
    return line.side(metrics[line.figure]) is State.HEALTHY


def _more(figure: Figure) -> float:
    """The factor by which more tokens would take the line out of the interval; nan where there is no interval."""
    if figure.value is None or figure.low is None or figure.high is None or figure.value == GAP.at:
        return math.nan
    return ((figure.high - figure.low) / 2 / abs(figure.value - GAP.at)) ** 2
