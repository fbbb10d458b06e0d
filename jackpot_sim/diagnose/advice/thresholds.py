"""The threshold at which a correction meets a target on a sample: its default, or the nearest that does.

A threshold that is looser than need be keeps weights that carry a batch, and one that is tighter cuts signal. So the
frameworks' default stays where it meets the target, and otherwise moves only as far as it must. The intervals are
percentiles over resamples of whole sequences, in each of which the threshold is looked for anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.advice.families import Family
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.weighed import Figures, Weighed, ends, figures
from jackpot_sim.estimators import Correction

SURE = 0.975
"""The share of resamples from which an answer is sure, and below one less which it is surely not."""
_HALVINGS = 12
"""The halvings of the stretch in which the threshold lies: more digits than are told."""
_FINE = 9
"""The thresholds that are tried within the stretch, for the resamples."""


@dataclass(frozen=True, eq=False)
class Threshold:
    """A correction at the threshold that is nearest to its default and meets a target.

    Attributes:
        family: the correction along its threshold.
        value: the threshold; nan where none meets the target.
        low: the lower end of its 95 % interval; nan where too few resamples have such a threshold.
        high: the upper end.
        met: the share of resamples in which some threshold meets the target.
        figures: those at the threshold, or at the threshold that comes nearest to the target.
        resampled: the same figures in each resample.
        slack: by how much the nearest threshold meets the target, in the figure that decides; negative: misses it.
        slack_error: its standard error over resamples.
    """

    family: Family
    value: float
    low: float
    high: float
    met: float
    figures: Figures
    resampled: Figures
    slack: float
    slack_error: float

    @property
    def correction(self) -> Correction:
        """The correction at the threshold."""
        return self.family.made(self.value)

    @property
    def is_met(self) -> bool:
        """True where a threshold meets the target, for sure."""
        return math.isfinite(self.value) and self.met >= SURE

    @property
    def is_missed(self) -> bool:
        """True where no threshold does, for sure."""
        return self.met <= 1 - SURE

    @property
    def is_default(self) -> bool:
        """True where the default meets the target."""
        return self.value == self.family.default


def threshold(sample: Weighed, family: Family, target: Target) -> Threshold:
    """The threshold of a family for a target.

    Raises:
        ValueError: the correction needs what the sample lacks.
    """
    grid = family.grid
    default = int(np.argmin(np.abs(grid - family.scaled(family.default))))
    sums = np.stack([sample.sums(family.made(_exact(family, x))) for x in grid])
    met = slack(figures(sums.sum(axis=1)), target)
    grid, sums = _refined(sample, family, target, grid, sums, met, default)
    default = int(np.argmin(np.abs(grid - family.scaled(family.default))))
    met = slack(figures(sums.sum(axis=1)), target)
    best = float(_nearest(grid, met[None, :], default)[0])
    value = math.nan if math.isnan(best) else _bisected(sample, family, target, grid, met, best)
    value = _in_digits(sample, family, target, value)
    resampled = np.einsum("bg,tgk->btk", sample.resamples, sums, optimize=True)
    slacks = slack(figures(resampled), target)
    places = _nearest(grid, slacks, default)
    low, high = ends(places)
    at = int(np.argmax(met)) if math.isnan(value) else int(np.argmin(np.abs(grid - family.scaled(value))))
    sums_at = sums[at] if math.isnan(value) else sample.sums(family.made(value))
    spread = np.nanmax(np.where(np.isnan(slacks), -math.inf, slacks), axis=1)
    return Threshold(
        family,
        value,
        float(family.at(low)),
        float(family.at(high)),
        float(np.mean(~np.isnan(places))),
        figures(sums_at.sum(axis=0)),
        figures(sample.resamples @ sums_at),
        float(np.nanmax(met)) if np.isfinite(met).any() else math.nan,
        float(np.std(spread[np.isfinite(spread)])) if np.isfinite(spread).any() else math.nan,
    )


def slack(found: Figures, target: Target) -> Floats:
    """By how much figures meet a target, at least: the smallest of what each has to spare; nan counts as a miss."""
    keep, ess, bias = target.limits
    spare = np.stack([found.keep - keep, found.ess - ess, bias - found.bias])
    return np.asarray(np.min(np.where(np.isnan(spare), -1.0, spare), axis=0))


def _exact(family: Family, place: float) -> float:
    """The threshold at a place; the default itself, not what rounding makes of it."""
    value = float(family.at(place))
    return family.default if math.isclose(value, family.default, rel_tol=1e-12) else value


def _in_digits(sample: Weighed, family: Family, target: Target, value: float) -> float:
    """The threshold in three digits, away from the default, where it still meets the target; else in all of its own."""
    if math.isnan(value) or value == family.default:
        return value
    rise = value - family.above
    unit = 10.0 ** (math.floor(math.log10(rise)) - 2)
    short = family.above + unit * (math.ceil(rise / unit) if value > family.default else math.floor(rise / unit))
    short = float(f"{short:.12g}")
    found = figures(sample.sums(family.made(short)).sum(axis=0))
    return short if slack(found, target) >= 0 else value


def _nearest(grid: Floats, slacks: Floats, default: int) -> Floats:
    """The place nearest to the default at which the target is met, (resamples,), from slacks (resamples, places).

    Between a place that meets it and the next one that does not, the slack is taken to be linear. nan for none.
    """
    found = np.full(len(slacks), math.nan)
    for order in (np.arange(default, len(grid)), np.arange(default, -1, -1)):
        meets = slacks[:, order] >= 0
        first = np.argmax(meets, axis=1)
        rows = np.flatnonzero(meets.any(axis=1))
        inside, outside = order[first[rows]], order[np.maximum(first[rows] - 1, 0)]
        spare, lacking = slacks[rows, inside], -slacks[rows, outside]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(inside == outside, 0.0, spare / (spare + lacking))
        place = grid[inside] + share * (grid[outside] - grid[inside])
        far, known = np.abs(place - grid[default]), np.abs(found[rows] - grid[default])
        found[rows] = np.where(np.isnan(known) | (far < known), place, found[rows])
    return found


def _refined(
    sample: Weighed, family: Family, target: Target, grid: Floats, sums: Floats, met: Floats, default: int
) -> tuple[Floats, Floats]:
    """The places and sums with more of them around the threshold."""
    place = float(_nearest(grid, met[None, :], default)[0])
    if math.isnan(place) or met[default] >= 0:
        return grid, sums
    at = int(np.clip(np.searchsorted(grid, place), 1, len(grid) - 1))
    stretch = np.linspace(grid[max(at - 2, 0)], grid[min(at + 1, len(grid) - 1)], _FINE + 2)[1:-1]
    extra = np.stack([sample.sums(family.made(_exact(family, x))) for x in stretch])
    places = np.append(grid, stretch)
    order = np.argsort(places, kind="stable")
    return places[order], np.concatenate([sums, extra])[order]


def _bisected(sample: Weighed, family: Family, target: Target, grid: Floats, met: Floats, place: float) -> float:
    """The threshold itself: the end that meets the target of the stretch into which halving shrinks it."""
    at = int(np.argmin(np.abs(grid - place)))
    if met[at] >= 0 and grid[at] == place and _exact(family, place) == family.default:
        return family.default
    right = int(np.searchsorted(grid, place))
    left = max(right - 1, 0)
    right = min(right, len(grid) - 1)
    inside, outside = (left, right) if met[left] >= 0 else (right, left)
    good, bad = float(grid[inside]), float(grid[outside])
    if met[inside] < 0 or met[outside] >= 0:
        return float(family.at(place))
    for _ in range(_HALVINGS):
        middle = (good + bad) / 2
        found = figures(sample.sums(family.made(float(family.at(middle)))).sum(axis=0))
        good, bad = (middle, bad) if slack(found, target) >= 0 else (good, middle)
    return float(family.at(good))
