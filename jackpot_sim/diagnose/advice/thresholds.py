"""The threshold at which a correction meets a target on a sample: its default, or the nearest that does.

A threshold that is looser than need be keeps weights that carry a batch, and one that is tighter cuts signal. So the
frameworks' default stays where it meets the target, and otherwise moves only as far as it must. The intervals are
those of `core.intervals`, from the threshold that is found without each sequence, and not percentiles of a bootstrap:
the threshold hangs on few tokens, which a bootstrap draws or misses. Their coverage is simulated in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.core.intervals import Interval
from jackpot_sim.diagnose.advice.families import Family
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.weighed import Figures, Weighed, figures, left_out
from jackpot_sim.estimators import Correction

_HALVINGS = 8
"""The halvings of the stretch in which the threshold lies: more digits than are told."""
_FINE = 9
"""The thresholds that are tried within the stretch, so that the threshold without a sequence is found in it."""


@dataclass(frozen=True, eq=False)
class Threshold:
    """A correction at the threshold that is nearest to its default and meets a target.

    Attributes:
        family: the correction along its threshold.
        value: the threshold; nan where none meets the target.
        low: the lower end of its 95 % interval; nan where there is none.
        high: the upper end.
        sums: the sums of `Weighed` at the threshold, or at the one that comes nearest to the target.
        slack: by how much the threshold that does best meets the target, in the figure that decides; negative: misses.
        interval: the interval of the slack.
    """

    family: Family
    value: float
    low: float
    high: float
    sums: Floats
    slack: float
    interval: Interval

    @property
    def correction(self) -> Correction:
        """The correction at the threshold."""
        return self.family.made(self.value)

    @property
    def figures(self) -> Figures:
        """The figures at the threshold."""
        return figures(self.sums.sum(axis=0))

    @property
    def is_met(self) -> bool:
        """True where a threshold meets the target, for sure, and has an interval."""
        return math.isfinite(self.low) and self.interval.low >= 0

    @property
    def is_missed(self) -> bool:
        """True where no threshold does, for sure."""
        return self.interval.high < 0

    @property
    def is_default(self) -> bool:
        """True where the default meets the target."""
        return self.value == self.family.default


def threshold(sample: Weighed, family: Family, target: Target) -> Threshold:
    """The threshold of a family for a target.

    Raises:
        ValueError: the correction needs what the sample lacks.
    """
    path = _Path(sample, family, target)
    place = path.place()
    path.refine(place)
    slacks = slack(figures(path.sums.sum(axis=1)), target)
    without = slack(figures(left_out(path.sums)), target).T
    best = intervals.of_left_out(float(slacks.max()), without.max(axis=1))
    value = path.threshold(place)
    at = path.sums[int(np.argmax(slacks))] if math.isnan(value) else sample.sums(family.made(value))
    # Between two places the edge is interpolated, and the threshold itself is not.
    low, high = (near(end, value) for near, end in zip((min, max), path.ends(without), strict=True))
    return Threshold(family, value, low, high, at, float(slacks.max()), best)


def slack(found: Figures, target: Target) -> Floats:
    """The margin by which figures meet a target: the smallest of those of each; one that is nan is a miss."""
    keep, ess, bias = target.limits
    spare = np.stack([found.keep - keep, found.ess - ess, bias - found.bias])
    return np.asarray(np.min(np.where(np.isnan(spare), -1.0, spare), axis=0))


class _Path:
    """Thresholds of a family, as places on its scale, and the sums at each, (places, groups, 8)."""

    def __init__(self, sample: Weighed, family: Family, target: Target) -> None:
        self._sample, self._family, self._target = sample, family, target
        self.places = family.grid
        self.sums = np.stack([self._at(place) for place in self.places])

    @property
    def _default(self) -> int:
        return int(np.argmin(np.abs(self.places - self._family.scaled(self._family.default))))

    @property
    def _met(self) -> Flags:
        return slack(figures(self.sums.sum(axis=1)), self._target) >= 0

    def place(self) -> tuple[int, int] | None:
        """The indices of the threshold's stretch, whose first meets the target and whose second does not.

        Both are the default where that meets it; None where nothing does.
        """
        met, default = self._met, self._default
        if met[default]:
            return default, default
        inside = np.flatnonzero(met)
        if not len(inside):
            return None
        nearest = int(inside[np.argmin(np.abs(self.places[inside] - self.places[default]))])
        return nearest, nearest + (1 if nearest < default else -1)

    def refine(self, place: tuple[int, int] | None) -> None:
        """Adds places around a stretch."""
        if place is None or place[0] == place[1]:
            return
        low, high = max(min(place) - 1, 0), min(max(place) + 1, len(self.places) - 1)
        extra = np.setdiff1d(np.linspace(self.places[low], self.places[high], _FINE + 2), self.places)
        places = np.append(self.places, extra)
        order = np.argsort(places)
        self.sums = np.concatenate([self.sums, np.stack([self._at(each) for each in extra])])[order]
        self.places = places[order]

    def threshold(self, place: tuple[int, int] | None) -> float:
        """The threshold in a few digits; the default itself, or nan for none."""
        if place is None:
            return math.nan
        found = self.place()
        assert found is not None
        inside, outside = (float(self.places[each]) for each in found)
        if inside == outside:
            return self._family.default
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if self._meets(self._family.at(middle)) else (inside, middle)
        return self._in_digits(float(self._family.at(inside)))

    def ends(self, without: Floats) -> tuple[float, float]:
        """The interval of the threshold, from the slacks without each group, (groups, places).

        It is that of the edge of the places that meet the target, cut off at the default, which is the threshold
        where the edge lies beyond it. Where the default meets the target there is an edge on either side of it.
        """
        met, default = self._met, self._default
        stretch = self.place()
        if stretch is None:
            return math.nan, math.nan
        stretches = [stretch]
        if met[default]:
            sides = (np.arange(default, -1, -1), np.arange(default, len(met)))
            misses = [(order, np.flatnonzero(~met[order])) for order in sides]
            stretches = [(int(order[at[0] - 1]), int(order[at[0]])) for order, at in misses if len(at)]
        at, found = float(self.places[default]), [float(self.places[default])] if met[default] else []
        for inside, outside in stretches:
            side = 1 if inside > outside else -1
            edge = float(_edge(self.places, self._slacks[None, :], inside, side)[0])
            _, *interval = intervals.of_left_out(edge, _edge(self.places, without, inside, side))
            found += [max(end * side, at * side) * side for end in interval]
        if any(map(math.isnan, found)):
            return math.nan, math.nan
        if min(found) == max(found) == at:
            return self._family.default, self._family.default
        return float(self._family.at(min(found))), float(self._family.at(max(found)))

    @property
    def _slacks(self) -> Floats:
        return slack(figures(self.sums.sum(axis=1)), self._target)

    def _at(self, place: float) -> Floats:
        """The sums at a place; at the default's those of the default itself, not of what rounding makes of it."""
        value = float(self._family.at(place))
        near = math.isclose(value, self._family.default, rel_tol=1e-12)
        return self._sample.sums(self._family.made(self._family.default if near else value))

    def _meets(self, value: Floats | float) -> bool:
        found = figures(self._sample.sums(self._family.made(float(value))).sum(axis=0))
        return bool(slack(found, self._target) >= 0)

    def _in_digits(self, value: float) -> float:
        """The threshold in three digits, away from the default, where that meets the target; else in all of its own."""
        above, default = self._family.above, self._family.default
        unit = 10.0 ** (math.floor(math.log10(value - above)) - 2)
        units = (value - above) / unit
        short = float(f"{above + unit * (math.ceil(units) if value > default else math.floor(units)):.12g}")
        return short if self._meets(short) else value


def _edge(places: Floats, slacks: Floats, start: int, side: int) -> Floats:
    """The place at which each row of slacks, (rows, places), turns from a miss into meeting the target, (rows,).

    It is the one nearest to the place of index `start` that has the misses on the lower side of it, for side 1, or on
    the upper, for −1; where all meet the target it is the last place on that side, and where none does the last on the
    other. Between two places the slack is taken to be linear.
    """
    rows = np.arange(len(slacks))
    inwards = np.arange(start, len(places) if side > 0 else -1, side)
    outwards = np.arange(start, -1 if side > 0 else len(places), -side)
    meets = slacks >= 0
    # A row that meets the target where all do is followed outwards, until it does not; another one inwards.
    here = meets[:, start]
    first_in = np.where(meets[:, inwards].any(axis=1), np.argmax(meets[:, inwards], axis=1), len(inwards) - 1)
    misses = ~meets[:, outwards]
    last_out = np.where(misses.any(axis=1), np.argmax(misses, axis=1) - 1, len(outwards) - 1)
    inside = np.where(here, outwards[np.maximum(last_out, 0)], inwards[first_in])
    outside = np.clip(inside - side, 0, len(places) - 1)
    spare, lacking = slacks[rows, inside], -slacks[rows, outside]
    between = (spare >= 0) & (lacking > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(between, spare / (spare + lacking), 0.0)
    return np.asarray(places[inside] + share * (places[outside] - places[inside]))
