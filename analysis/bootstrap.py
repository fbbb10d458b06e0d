"""The uncertainty of a study's figures: intervals over states or seeds, and a bootstrap for what is compared.

A cell's figures are exact for its states; the draw of the states and of the seeds is uncertain. With two seeds or more
an interval is Student's over the seeds' figures, which holds the noise of their states too. With a single seed, or
where only the states are to vary, it is that of `core.intervals` from the states left out, in up to 200 groups.

Probabilities (of the lowest MSE, or of a place on the frontier) come from a bootstrap. A replicate draws the seeds of
an environment with replacement, and for each of them the states of its cell with replacement; `statistics.combine`
turns the resampled states into figures, as it did for the records, and their mean over seeds is the replicate. All
estimators of an environment see the same draws, so that they are compared on equal states.

Limits. A knob that was solved for a target KL is not solved again. With two or three seeds Student's interval is wide;
and Student's interval takes the figures of seeds for normal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd

from jackpot_sim.core import intervals as core
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import row_blocks
from jackpot_sim.estimators import statistics
from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.errors import StudyError

FIGURES = (
    *("kl_policy_actor", "acceptance_rate", "kl_accepted", "kl_effective"),
    *("bias", "direction_bias", "gain", "variance", "mse", "mse_rescaled", "ess_fraction"),
)
"""The figures that get an interval."""

_MEASURED = (*(name for name in FIGURES if name != "kl_policy_actor"), "noise_to_signal")
_STATISTICS = tuple(field.name for field in dataclasses.fields(StateStatistics))


class Resample(StrEnum):
    """The level at which a replicate draws with replacement."""

    STATES = "states"
    SEEDS = "seeds"
    BOTH = "both"


@dataclass(frozen=True)
class Options:
    """The options of a bootstrap; the same options give the same intervals."""

    replicates: int = 1000
    level: float = 0.95
    seed: int = 0
    resample: Resample = Resample.BOTH

    def __post_init__(self) -> None:
        if self.replicates < 2:
            raise StudyError(f"replicates must be at least 2, got {self.replicates}")
        if not 0 < self.level < 1:
            raise StudyError(f"level must lie between 0 and 1, got {self.level}")
        if self.seed < 0:
            raise StudyError(f"seed must not be negative, got {self.seed}")


class Interval(NamedTuple):
    """A figure with its uncertainty, as `interval` gives it."""

    value: float
    """The mean over seeds of the cells' figures."""
    se: float
    """Its standard error; inf where the value is infinite."""
    low: float
    high: float
    """Ends of the interval; nan where there is none."""
    finite: float
    """Share of the replicates that are finite numbers."""


class Draws(NamedTuple):
    """A figure of each cell, (seeds,), resampled, (seeds, replicates), and with states left out, (seeds, groups)."""

    per_seed: Floats
    resampled: Floats
    left_out: Floats

    def combined(self, of: Callable[[Floats, Floats], Floats], other: Draws) -> Draws:
        """A function of this figure and another, elementwise."""
        return Draws(*(np.asarray(of(*pair)) for pair in zip(self, other, strict=True)))

    @property
    def centre(self) -> float:
        """The mean over seeds."""
        return float(_mean_over_seeds(self.per_seed))

    @property
    def replicates(self) -> Floats:
        """The mean over the seeds of each replicate, shape (replicates,)."""
        return _mean_over_seeds(self.resampled)


@dataclass(frozen=True)
class Candidate:
    """One estimator with its denominator, in one environment."""

    estimator: str
    denominator: str
    per_seed: dict[str, Floats]
    """The value of each figure in each cell, (seeds,)."""
    resampled: dict[str, Floats]
    """The value of each figure in each cell of each replicate, (seeds, replicates)."""

    left_out: dict[str, Floats]
    """The value of each figure in each cell without each group of its states, (seeds, groups)."""

    def draws(self, figure: str) -> Draws:
        """A figure in each of the three ways."""
        return Draws(*(part[figure] for part in self._parts()))

    def mse_at(self, n_samples: int) -> Draws:
        """The MSE at `n_samples` proposals per state."""
        return Draws(*(_mse(part, n_samples) for part in self._parts()))

    def mse_rescaled_at(self, n_samples: int) -> Draws:
        """The counterpart for the MSE of the update's best multiple."""
        return Draws(*(_rescaled(part, n_samples) for part in self._parts()))

    def _parts(self) -> tuple[dict[str, Floats], ...]:
        return self.per_seed, self.resampled, self.left_out


@dataclass(frozen=True)
class Environment:
    """The candidates of one environment, compared on the same draws."""

    name: str
    candidates: tuple[Candidate, ...]


def environments(records: pd.DataFrame, states: pd.DataFrame, options: Options) -> Iterator[Environment]:
    """Resamples one environment after the other, in the order of the records.

    Args:
        records: the table `records` of a run; its rows with method `exact` are used.
        states: the table `states` of the same run.
        options: those of the bootstrap.

    Raises:
        StudyError: the run holds no exact figures, a cell lacks its states, or the cells of an environment do
            not have equally many.
    """
    exact = records[records["method"] == "exact"]
    if exact.empty:
        raise StudyError("the run holds no exact figures, and only these have the per-state table to resample")
    table = states[["kl_policy_actor", *_STATISTICS]].to_numpy(dtype=np.float64)
    rows_of = states.groupby(["cell", "estimator", "denominator"], sort=False).indices
    n_samples = int(exact["n_samples"].iloc[0])
    for name, group in exact.groupby("environment", sort=False):
        cells = list(dict.fromkeys(group["cell"]))
        draws: Ints | None = None
        candidates = []
        for (estimator, denominator), _ in group.groupby(["estimator", "denominator"], sort=False):
            by_cell = [table[rows_of.get((cell, estimator, denominator), [])] for cell in cells]
            counts = {len(rows) for rows in by_cell}
            if len(counts) > 1 or 0 in counts:
                raise StudyError(
                    f"the cells of environment {name} have {sorted(counts)} states for {estimator}: the tables "
                    "`records` and `states` are not of one run, or one of them is damaged"
                )
            stacked = np.stack(by_cell)
            if draws is None:
                draws = _draws(str(name), len(cells), stacked.shape[1], options)
            flat = stacked.reshape(-1, stacked.shape[-1])
            candidates.append(
                Candidate(
                    str(estimator),
                    str(denominator),
                    _figures(np.moveaxis(stacked, -1, 0), str(denominator), n_samples),
                    _figures(np.stack([column[draws] for column in flat.T]), str(denominator), n_samples),
                    _left_out(stacked, str(denominator), n_samples),
                )
            )
        yield Environment(str(name), tuple(candidates))


def interval(draws: Draws, options: Options) -> Interval:
    """The interval and standard error of a figure's mean over seeds, see the module."""
    value, finite = draws.centre, float(np.mean(np.isfinite(draws.replicates)))
    if not math.isfinite(value):
        return Interval(value, abs(value), value, value, finite)
    if len(draws.per_seed) > 1 and options.resample is not Resample.STATES:
        return Interval(value, *core.student(draws.per_seed, options.level), finite)
    if options.resample is Resample.SEEDS:
        return Interval(value, math.nan, math.nan, math.nan, finite)
    # The mean of several cells has the pseudo-values of all: each moves it as much as one of so many clusters would.
    groups = draws.left_out.shape[1]
    change = (draws.left_out - draws.left_out.mean(axis=1, keepdims=True)) * (groups - 1)
    left_out = value + change.ravel() / (change.size - 1)
    return Interval(value, *core.of_left_out(value, left_out, level=options.level), finite)


def intervals(environment: Environment, options: Options) -> pd.DataFrame:
    """A row for each estimator, denominator and figure of `FIGURES`."""
    rows = [
        {
            "environment": environment.name,
            "estimator": candidate.estimator,
            "denominator": candidate.denominator,
            "figure": figure,
            **interval(candidate.draws(figure), options)._asdict(),
        }
        for candidate in environment.candidates
        for figure in FIGURES
    ]
    return pd.DataFrame(rows)


_GROUPS = 200
"""The most groups in which states are left out."""


def _left_out(stacked: Floats, denominator: str, n_samples: int) -> dict[str, Floats]:
    """The figures of each cell without each group of its states, (seeds, groups), from (seeds, states, columns)."""
    states = stacked.shape[1]
    groups = min(states, _GROUPS)
    if groups < 2:
        return {name: np.full((len(stacked), 1), math.nan) for name in ("kl_policy_actor", *_MEASURED)}
    group_of, larger = np.arange(states) % groups, states % groups
    parts = []
    for begin, end in ((0, larger), (larger, groups)):  # groups of one size, several at a time
        for block in row_blocks(end - begin, stacked.size):
            kept = [np.flatnonzero(group_of != group) for group in range(begin + block.start, begin + block.stop)]
            parts.append(_figures(np.moveaxis(stacked[:, np.stack(kept)], -1, 0), denominator, n_samples))
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def _draws(environment: str, seeds: int, states: int, options: Options) -> Ints:
    """The rows, of seeds × states, of each replicate, (seeds, replicates, states)."""
    # Keyed by the environment: adding others to a study does not change its intervals.
    digest = np.frombuffer(hashlib.sha256(environment.encode()).digest(), dtype="<u4")
    generator = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=tuple(digest.tolist())))
    size = (seeds, options.replicates, states)
    if options.resample is Resample.STATES:
        seed = np.arange(seeds)[:, None, None]
    else:
        seed = generator.integers(seeds, size=(seeds, options.replicates, 1))
    state = np.arange(states) if options.resample is Resample.SEEDS else generator.integers(states, size=size)
    return np.broadcast_to(seed * states + state, size)


def _figures(columns: Floats, denominator: str, n_samples: int) -> dict[str, Floats]:
    """The figures of stacks of states, from (columns of the table, ..., states) to (...) each."""
    moments = statistics.combine(StateStatistics(*columns[1:]), denominator, n_samples)
    return {"kl_policy_actor": np.mean(columns[0], axis=-1)} | {name: getattr(moments, name) for name in _MEASURED}


def _mse(figures: Mapping[str, Floats], n_samples: int) -> Floats:
    return _mse_of(figures["bias"] ** 2, figures, n_samples)


def _rescaled(figures: Mapping[str, Floats], n_samples: int) -> Floats:
    gain = figures["gain"]
    with np.errstate(invalid="ignore"):
        size = _mse(figures, n_samples) + 2 * gain - 1
        # ‖ĝ‖² ≥ (gain·‖g‖)²: of a tiny update the difference keeps few digits, and must not end below that.
        size = np.maximum(size, _mse_of(gain**2, figures, n_samples))
        return statistics.mean_squared_error_rescaled(gain, size)


def _mse_of(bias_sq: Floats, figures: Mapping[str, Floats], n_samples: int) -> Floats:
    return np.asarray(
        statistics.mean_squared_error(bias_sq, figures["variance"], figures["noise_to_signal"], n_samples)
    )


def _mean_over_seeds(values: Floats) -> Floats:
    return np.asarray(np.mean(values, axis=0))
