"""Figures of the steps before a run is lost: time-dependent concordance, and alarms at a threshold.

A run is known by the running means of its figures over `WINDOW` steps. Its figure `notice` steps before the loss is
compared with that of other runs at the same step, so that runs that are watched longer have no greater chance to look
alarming. The share of such pairs in which the lost run looks worse is the area under the incident/dynamic ROC curve
(Heagerty and Zheng, 2005). Controls are runs of the same study whose records reach the loss and that are not lost up to
`notice` steps after it: of a run lost sooner, the figure ought to tell as well.

Runs with an on-policy actor are left out: they have no mismatch, and any figure of it tells them apart. Runs of one
seed share models and draws, so intervals are of seeds: a jackknife that leaves out each seed's runs and pairs, with
Student's t. With few seeds they are wide, and their width is itself uncertain. The controls of a pair may be of any
seed, as a threshold has to hold for models that nobody has seen; `Among` has the fairer and fewer pairs of one seed, of
two corrected runs, and of one method in one setting, where a figure cannot merely tell the method.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from typing_extensions import override

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.studies.errors import StudyError

from .records import Trained
from .statistics import CONFIDENCE, ON_POLICY, lost, running_mean

WINDOW = 5
"""Steps of the running mean."""
FIRST_STEPS = 3
"""The first steps of a run, to which a rise is compared."""
FEWEST_SEEDS = 3
"""The least number of seeds of a jackknife."""


@dataclass(frozen=True)
class Signal:
    """A figure of the steps that may tell of a loss."""

    column: str
    """Its column in the steps."""
    name: str
    """Its name in the figure."""
    rises: bool = True
    """True where large values are alarming, False where small ones are."""
    to_first: bool = False
    """True for its ratio to its mean over the first steps."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @override
    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Runs:
    """The runs of one or several studies."""

    study: Ints
    """The study of each, by its place, (n,)."""
    cell: Ints
    """Its study, method and setting, by their place, (n,)."""
    seed: Ints
    """(n,)."""
    corrected: Flags
    """True where the method has a correction, (n,)."""
    lost_at: Floats
    """The step of the loss, nan where there is none, (n,)."""
    watched: Ints
    """The number of steps on record, (n,)."""
    means: Mapping[str, Floats]
    """Running means of each column by step, (n, steps); nan where there are none."""
    first: Mapping[str, Floats]
    """Means of each column over the first steps, (n,)."""

    @property
    def is_lost(self) -> Flags:
        """(n,)."""
        return np.isfinite(self.lost_at)

    def alarming(self, signal: Signal) -> Floats:
        """The signal by step, its sign such that large values are alarming, (n, steps)."""
        values = self.means[signal.column]
        if signal.to_first:
            first = self.first[signal.column]
            values = values / np.where(first > 0, first, math.nan)[:, None]
        return values if signal.rises else -values


def of_studies(studies: Sequence[Trained], columns: Sequence[str]) -> Runs:
    """The runs of these studies but for those with an on-policy actor, with these columns of the steps.

    Raises:
        StudyError: there is none, or a manifest does not say of what kind an actor or a correction is.
    """
    rows: list[dict[str, Any]] = []
    for number, trained in enumerate(studies):
        ends = {place: float(at) for place, at in lost(trained.outcomes)["lost_at"].items()}
        for place, run in trained.steps.groupby(["setting", "method", "seed"], sort=False):
            if _kind(trained, place, "actor") != ON_POLICY:
                rows.append(
                    {"study": number, "cell": (number, *place[:2]), "seed": place[2], "lost_at": ends[place]}
                    | {"corrected": _kind(trained, place, "correction") != "none", "run": run.sort_values("step")}
                )
    if not rows:
        raise StudyError("the records hold no run whose actor is not on-policy: alarms are of a mismatch")
    steps = 1 + max(int(row["run"]["step"].max()) for row in rows)
    means = {column: np.full((len(rows), steps), math.nan) for column in columns}
    first = {column: np.full(len(rows), math.nan) for column in columns}
    for at, row in enumerate(rows):
        step = row["run"]["step"].to_numpy(dtype=np.int64)
        for column in columns:
            values = row["run"][column].to_numpy(dtype=np.float64)
            of_window = pd.Series(running_mean(step, values, WINDOW))
            means[column][at, step] = of_window.ffill()  # for what is measured every so many steps
            known = values[~np.isnan(values)][:FIRST_STEPS]
            first[column][at] = known.mean() if len(known) else math.nan
    table = pd.DataFrame(rows)
    return Runs(
        study=table["study"].to_numpy(),
        cell=pd.factorize(table["cell"])[0],
        seed=table["seed"].to_numpy(),
        corrected=table["corrected"].to_numpy(dtype=np.bool_),
        lost_at=table["lost_at"].to_numpy(dtype=np.float64),
        watched=np.array([int(row["run"]["step"].max()) + 1 for row in rows]),
        means=means,
        first=first,
    )


def _kind(trained: Trained, place: tuple[Any, ...], part: str) -> str:
    """The kind of a run's actor or correction."""
    asked = trained.grid[place[0]][place[1]].get(part)
    if not isinstance(asked, Mapping) or "kind" not in asked:
        raise StudyError(f"the manifest of {trained.root} does not say of what kind the {part} of {place[1]} is")
    return str(asked["kind"])


class Pairs(NamedTuple):
    """Pairs of a lost run and a run that lives on, at the same step."""

    lost: Ints
    """The places of the lost runs, (pairs,)."""
    control: Ints
    """Those of the others, (pairs,)."""
    worse: Floats
    """1 where the lost run looks more alarming, 1/2 where both look alike, 0 otherwise, (pairs,)."""


class Among(Enum):
    """The pairs that an area is of."""

    ALL = "all"
    SAME_SEED = "same seed"
    CORRECTED = "both corrected"
    SAME_CELL = "same method and setting"


def pairs(runs: Runs, alarming: Floats, notice: int, among: Among = Among.ALL) -> Pairs:
    """Each lost run, `notice` steps before its loss, with every control at that step."""
    cases, controls, worse = [], [], []
    for case in np.flatnonzero(runs.is_lost & (runs.lost_at >= notice)):
        end = runs.lost_at[case]
        alive = ~(runs.lost_at <= end + notice) & (runs.watched >= end) & (runs.study == runs.study[case])
        if among is Among.SAME_SEED:
            alive &= runs.seed == runs.seed[case]
        elif among is Among.CORRECTED:
            alive &= runs.corrected & runs.corrected[case]
        elif among is Among.SAME_CELL:
            alive &= runs.cell == runs.cell[case]
        values = alarming[:, int(end) - notice]
        beside = np.flatnonzero(alive & ~np.isnan(values) & ~np.isnan(values[case]))
        cases.append(np.full(len(beside), case))
        controls.append(beside)
        worse.append((values[case] > values[beside]) + 0.5 * (values[case] == values[beside]))
    if not cases:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Pairs(*map(np.concatenate, (cases, controls, worse)))


def area(runs: Runs, found: Pairs) -> Estimate:
    """The share of pairs in which the lost run looks worse, with a jackknife over seeds."""
    low, high = jackknife(lambda seed: share_without(runs, found, seed), runs.seed[found.lost])
    return Estimate(share_without(runs, found), max(low, 0.0), min(high, 1.0))


def gain(runs: Runs, first: Pairs, second: Pairs) -> Estimate:
    """The area of the first less that of the second, with a jackknife over seeds of the difference."""

    def without(seed: int | None) -> float:
        return share_without(runs, first, seed) - share_without(runs, second, seed)

    return Estimate(without(None), *jackknife(without, runs.seed[first.lost]))


def share_without(runs: Runs, found: Pairs, seed: int | None = None) -> float:
    """The share of the pairs, of those without a run of this seed, in which the lost run looks worse; nan if none."""
    kept = (runs.seed[found.lost] != seed) & (runs.seed[found.control] != seed)
    worse = found.worse if seed is None else found.worse[kept]
    return float(worse.mean()) if len(worse) else math.nan


def jackknife(without: Callable[[int], float], seeds: Ints) -> tuple[float, float]:
    """The ends of Student's interval by the jackknife over seeds.

    They are infinite with fewer than three seeds, and where the values without each seed are all alike: then the
    jackknife sees no spread, which is not to say that there is none.

    Args:
        without: the figure without a seed.
        seeds: those of the data, with repetitions.
    """
    names = np.unique(seeds)
    values = np.array([without(int(seed)) for seed in names])
    n = len(names)
    if n < FEWEST_SEEDS or not np.isfinite(values).all() or np.ptp(values) == 0:
        return -math.inf, math.inf
    mean = float(values.mean())
    error = math.sqrt((n - 1) / n * float(np.sum((values - mean) ** 2)))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    return mean - half, mean + half


def first_rings(runs: Runs, alarming: Floats, threshold: Floats | float) -> Floats:
    """The first step at which each run's signal is beyond the threshold, before any loss; nan without one, (n,).

    Args:
        runs: the runs.
        alarming: the signal by step, (n, steps).
        threshold: one, or one for each run, (n,).
    """
    levels = np.broadcast_to(threshold, (len(alarming),))
    steps = np.arange(alarming.shape[1])
    beyond = (alarming > levels[:, None]) & ~(steps >= runs.lost_at[:, None])
    return np.where(beyond.any(axis=1), beyond.argmax(axis=1), math.nan)


class Alarm(NamedTuple):
    """The record of an alarm: its rings in time, and its false ones."""

    in_time: Estimate
    """The share of the lost runs in which it rings at least `notice` steps before the loss."""
    chance: float
    """The share that an alarm would reach that rings at random as often as this one does falsely."""
    false_rate: Estimate
    """False alarms per 100 steps of runs that are not lost, up to the first of each run."""
    false_runs: Estimate
    """The share of those runs with a false alarm."""
    counts: tuple[int, int, int, int]
    """The lost runs in time, all that last as long as the notice, the others that rang, and all others."""
    ahead: float
    """The median of the steps from an alarm in time to the loss."""


def judged(runs: Runs, alarming: Floats, rung: Floats, notice: int) -> Alarm:
    """The record of an alarm that first rings at these steps, (n,)."""
    tellable = runs.is_lost & (runs.lost_at >= notice)
    kept = ~runs.is_lost
    ahead = runs.lost_at - rung
    in_time, is_false = tellable & (ahead >= notice), kept & ~np.isnan(rung)
    exposure = exposures(alarming, rung)
    rate = is_false[kept].sum() / exposure[kept].sum() if kept.any() else math.nan
    by_chance = -np.expm1(-rate * (runs.lost_at[tellable] - notice + 1))
    return Alarm(
        in_time=share(in_time[tellable], runs.seed[tellable]),
        chance=float(by_chance.mean()) if tellable.any() else math.nan,
        false_rate=rate_of(is_false[kept], exposure[kept], runs.seed[kept]),
        false_runs=share(is_false[kept], runs.seed[kept]),
        counts=(int(in_time.sum()), int(tellable.sum()), int(is_false.sum()), int(kept.sum())),
        ahead=float(np.median(ahead[in_time])) if in_time.any() else math.nan,
    )


def exposures(alarming: Floats, rung: Floats) -> Floats:
    """The steps with the signal in which each run could have rung for the first time, the ring's included, (n,)."""
    steps = np.arange(alarming.shape[1])
    silent = ~(steps > rung[:, None])
    return np.asarray((silent & ~np.isnan(alarming)).sum(axis=1), dtype=np.float64)


def share(happened: Flags, seeds: Ints) -> Estimate:
    """A share of runs: the wider ends of Clopper and Pearson's interval and of the jackknife over seeds."""
    count, n = int(happened.sum()), len(happened)
    if not n:
        return Estimate(math.nan, 0.0, 1.0)
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    jack_low, jack_high = _of_ratio(happened.astype(np.float64), np.ones(n), seeds)
    return Estimate(count / n, max(min(low, jack_low), 0.0), min(max(high, jack_high), 1.0))


def rate_of(happened: Flags, exposure: Floats, seeds: Ints) -> Estimate:
    """Events per 100 steps: the wider ends of Garwood's interval of a Poisson rate and of the jackknife over seeds."""
    count, steps = int(happened.sum()), float(exposure.sum()) / 100
    if not steps:
        return Estimate(math.nan, 0.0, math.inf)
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.chi2.ppf(tail, 2 * count)) / 2 / steps if count else 0.0
    high = float(stats.chi2.ppf(1 - tail, 2 * count + 2)) / 2 / steps
    jack_low, jack_high = _of_ratio(happened.astype(np.float64), exposure / 100, seeds)
    return Estimate(count / steps, max(min(low, jack_low), 0.0), max(high, jack_high))


def _of_ratio(numerator: Floats, denominator: Floats, seeds: Ints) -> tuple[float, float]:
    """The jackknife's ends of Σ numerator / Σ denominator; those that bound nothing for ends that are infinite."""

    def without(seed: int) -> float:
        kept = seeds != seed
        return float(numerator[kept].sum() / denominator[kept].sum()) if denominator[kept].sum() else math.nan

    low, high = jackknife(without, seeds)
    return (low, high) if math.isfinite(low) else (math.inf, -math.inf)


def threshold_of(runs: Runs, alarming: Floats, by: Flags, limit: float) -> float:
    """The least threshold with at most `limit` false alarms per 100 steps among the runs `by`, (n,).

    Infinite where none of these runs is kept.
    """
    kept = by & ~runs.is_lost & ~np.isnan(alarming).all(axis=1)
    if not kept.any():
        return math.inf

    def holds(level: float) -> bool:
        rung = first_rings(runs, alarming, level)[kept]
        return bool(100 * np.isfinite(rung).sum() <= limit * exposures(alarming[kept], rung).sum())

    levels = np.unique(np.nanmax(alarming[kept], axis=1)).tolist()
    # A higher threshold rings in fewer runs, and later: where one holds, so do all above it.
    least = bisect_left(levels, True, key=holds)
    return levels[least] if least < len(levels) else math.inf


def held_out(runs: Runs, alarming: Floats, limit: float) -> Floats:
    """The threshold of each run, chosen on the runs of all other seeds, (n,)."""
    thresholds = np.full(len(alarming), math.inf)
    for seed in np.unique(runs.seed):
        own = runs.seed == seed
        thresholds[own] = threshold_of(runs, alarming, ~own, limit)
    return thresholds
