"""The tables that answer a study's questions, as tidy data frames; `analysis.show` prints them.

An estimator with its denominator is one candidate. Estimators of one environment are compared on the
same resampled states, so that the probability of being the best is that of the comparison and not of
two separate errors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from jackpot_sim.core import intervals as core
from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.core.checks import check_reals, check_same_shape
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import threshold_summary
from jackpot_sim.sweep.labels import labels

from . import bootstrap
from .bootstrap import Draws, Environment, Options

ROUNDING = 1e-9
"""The relative difference up to which two figures are equal: some estimators agree but for rounding."""
_NOISE_FLOOR = 1e-12
"""The absolute difference up to which two biases or variances are equal: 1e-16 is an unbiased estimator too."""

Row: TypeAlias = dict[str, object]

KEYS = ("label", "env_kind", "base_kind", "knob_name", "knob", "target_kl", "seeds", "states")
"""The columns of every table that describe an environment, besides its canonical JSON."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables that summarise a study."""

    figures: pd.DataFrame
    """The figures with their intervals: one row per environment, estimator, denominator and figure."""
    acceptance_vs_kl: pd.DataFrame
    """See `acceptance_vs_kl`, as for the others."""
    kl_before_after: pd.DataFrame
    bias_variance: pd.DataFrame
    """See `frontier`."""
    lowest_mse: pd.DataFrame
    best_thresholds: pd.DataFrame
    """See `best_thresholds`; empty where the study did not ask for them."""


def build(
    records: pd.DataFrame,
    states: pd.DataFrame,
    n_samples: Sequence[int],
    options: Options,
    thresholds: pd.DataFrame | None = None,
) -> Tables:
    """The summary of a run, from its records and its per-state figures.

    Args:
        records: the table `records`.
        states: the table `states`.
        n_samples: the numbers of proposals per state at which to compare MSEs.
        options: those of the bootstrap.
        thresholds: the table `thresholds`, if the run has it.

    Raises:
        StudyError: `n_samples` is empty or holds a number below 1, or the run cannot be resampled.
    """
    if not n_samples or min(n_samples) < 1:
        raise StudyError(f"n_samples must be whole numbers of at least 1, got {list(n_samples)}")
    about = describe(records)
    measured, frontiers, lowest = [], [], []
    for environment in bootstrap.environments(records, states, options):
        measured.append(bootstrap.intervals(environment, options))
        frontiers.append(frontier(environment, options))
        lowest.append(lowest_mse(environment, n_samples, options))
    parts = (measured, frontiers, lowest)
    every, frontier_of, lowest_of = (about.merge(pd.concat(part), on="environment", how="right") for part in parts)
    tuned = pd.DataFrame()
    if thresholds is not None and len(thresholds):
        tuned = about.merge(best_thresholds(records, thresholds, options), on="environment", how="right")
    return Tables(every, acceptance_vs_kl(every), kl_before_after(every), frontier_of, lowest_of, tuned)


def figures(records: pd.DataFrame, states: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The table `figures` alone: every figure of `bootstrap.FIGURES` with its interval."""
    parts = [
        bootstrap.intervals(environment, options) for environment in bootstrap.environments(records, states, options)
    ]
    return describe(records).merge(pd.concat(parts), on="environment", how="right")


def describe(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each environment with the columns `KEYS`; the knob is a mean over seeds."""
    grouped = records.groupby("environment", sort=False)
    first = grouped[["env_kind", "base_kind", "knob_name", "target_kl", "states"]].first()
    first["knob"] = grouped["knob"].mean()
    first["seeds"] = grouped["seed"].nunique()
    first["label"] = pd.Series(labels(list(first.index)))
    return first[list(KEYS)].reset_index()


def acceptance_vs_kl(figures: pd.DataFrame) -> pd.DataFrame:
    """The share of tokens that each estimator accepts, beside KL(policy‖actor)."""
    return _beside_kl(figures, ["acceptance_rate"])


def kl_before_after(figures: pd.DataFrame) -> pd.DataFrame:
    """KL(policy‖·) before, of the accepted tokens' law, and of the law that the weighted update samples."""
    return _beside_kl(figures, ["kl_accepted", "kl_effective"])


def frontier(environment: Environment, options: Options) -> pd.DataFrame:
    """Bias and variance of each candidate, and whether it is on the frontier of the two: no other dominates it.

    A candidate dominates another if it is at least as good in both and better in one. `probability` is the share of
    replicates in which the candidate is not dominated. A candidate with an undefined bias or variance is not on the
    frontier, and dominates nothing.
    """
    candidates = environment.candidates
    draws = {figure: [each.draws(figure) for each in candidates] for figure in ("bias", "variance")}
    on = undominated(*(np.array([each.centre for each in of]) for of in draws.values()))
    share = undominated(*(np.stack([each.replicates for each in of]) for of in draws.values())).mean(axis=-1)
    rows = []
    for index, candidate in enumerate(candidates):
        row: Row = {
            "environment": environment.name,
            "estimator": candidate.estimator,
            "denominator": candidate.denominator,
        }
        for figure in ("bias", "variance"):
            interval = bootstrap.interval(draws[figure][index], options)
            row[figure] = interval.value
            row |= {f"{figure}_{name}": getattr(interval, name) for name in ("se", "low", "high")}
        rows.append(row | {"on_frontier": bool(on[index]), "probability": float(share[index])})
    return pd.DataFrame(rows)


def lowest_mse(environment: Environment, n_samples: Sequence[int], options: Options) -> pd.DataFrame:
    """The MSE of each candidate at each n, plain and rescaled, with flags for the lowest of either.

    MSEs are relative to ‖g‖²: 1 is that of no update at all. `mse_rescaled` is the MSE of the best
    multiple of the update. `probability` is the share of replicates in which the candidate's MSE is the
    lowest; a tie within rounding counts for each of the tied, so that shares may add up to more than 1.

    `worse` is the MSE over the least of the environment: the geometric mean over seeds of the ratios, with the interval
    of these pairs. `tied` is True where the interval does not exclude 1. The least is the single best with the level's
    confidence if no other is tied with it, as each comparison has that level.
    """
    rows = []
    for n in n_samples:
        plain = _compared("", [candidate.mse_at(n) for candidate in environment.candidates], options)
        rescaled = _compared(
            "_rescaled", [candidate.mse_rescaled_at(n) for candidate in environment.candidates], options
        )
        rows += [
            {
                "environment": environment.name,
                "n_samples": n,
                "estimator": candidate.estimator,
                "denominator": candidate.denominator,
                **plain[index],
                **rescaled[index],
            }
            for index, candidate in enumerate(environment.candidates)
        ]
    return pd.DataFrame(rows)


def _compared(suffix: str, mses: list[Draws], options: Options) -> list[Row]:
    """For each candidate its MSE with the interval, a flag for the lowest, and the probability of that."""
    best = is_lowest(np.array([mse.centre for mse in mses]))
    share = is_lowest(np.stack([mse.replicates for mse in mses])).mean(axis=-1)
    worse = _worse(mses, options)
    rows: list[Row] = []
    for index, mse in enumerate(mses):
        figure = bootstrap.interval(mse, options)
        rows.append(
            {
                f"mse{suffix}": figure.value,
                f"mse{suffix}_se": figure.se,
                f"mse{suffix}_low": figure.low,
                f"mse{suffix}_high": figure.high,
                f"lowest{suffix}": bool(best[index]),
                f"probability{suffix}": float(share[index]),
                **{f"{name}{suffix}": value for name, value in worse[index].items()},
            }
        )
    return rows


def _worse(mses: list[Draws], options: Options) -> list[Row]:
    """The MSE of each candidate over the least, from their log ratios on the same draws."""
    least = mses[_least([mse.centre for mse in mses])]
    return [_over(*bootstrap.interval(mse.combined(_log_ratio, least), options)[:4]) for mse in mses]


def _least(values: Sequence[float]) -> int:
    return int(np.argmin(np.where(np.isnan(values), math.inf, values)))


def _log_ratio(value: Floats, least: Floats) -> Floats:
    """log(value/least), 0 where the two are equal but for rounding: a nan or inf stays."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(value - least) <= ROUNDING * least, 0.0, np.log(value) - np.log(least))


def _over(log_ratio: float, se: float, low: float, high: float) -> Row:
    """The ratio to the least with its ends, and if the two are tied."""
    ratio, *ends = np.exp([log_ratio, low, high]).tolist()
    return {
        "worse": ratio,
        "worse_low": ends[0],
        "worse_high": ends[1],
        "tied": not math.isnan(ratio) and not low > 0,
    }


def best_thresholds(records: pd.DataFrame, thresholds: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The best threshold of each candidate that has one, and all candidates compared at the best and as given.

    Columns of thresholds are those of `threshold_summary.summarised`. `mse_best` of a candidate without a threshold is
    its MSE. `worse` and `tied` compare the MSEs as given, `worse_best` and `tied_best` those at the best thresholds, as
    in `lowest_mse`, by Student's interval over the seeds; a single seed tells none apart.
    """
    exact = records[records["method"] == "exact"][["cell", *threshold_summary.KEYS, "mse"]]
    both = exact.merge(thresholds[["cell", *threshold_summary.KEYS[1:], "mse_best"]], how="left")
    both["mse_best"] = both["mse_best"].fillna(both["mse"])
    rows = []
    for environment, group in both.groupby("environment", sort=False):
        found: dict[tuple[str, str], Row] = {}
        for figure, suffix in (("mse", ""), ("mse_best", "_best")):
            wide = group.pivot_table(
                index=["estimator", "denominator"], columns="cell", values=figure, sort=False, dropna=False
            )
            for key, row in zip(wide.index, against_least(wide.to_numpy(), options.level), strict=True):
                named = {f"{name}{suffix}": value for name, value in row.items()}
                found.setdefault(key, {}).update({figure: float(wide.loc[key].mean()), **named})
        rows += [
            {"environment": environment, "estimator": estimator, "denominator": denominator, **row}
            for (estimator, denominator), row in found.items()
        ]
    tuned = threshold_summary.summarised(thresholds, options.level).drop(columns=["mse", "mse_best", "seeds"])
    return pd.DataFrame(rows).merge(tuned, on=threshold_summary.KEYS, how="left", validate="one_to_one")


def against_least(values: Floats, level: float) -> list[Row]:
    """The figure of each candidate over that of the one with the least mean, paired by seeds, as in `lowest_mse`.

    Args:
        values: an MSE of each candidate with each seed, shape (candidates, seeds).
        level: the coverage of each interval.

    Raises:
        TypeError: the values are no real floating numbers.
    """
    check_reals(values, "values")
    least = values[_least(values.mean(axis=-1).tolist())]
    rows = []
    for own in values:
        ratio = _log_ratio(own, least)
        value = float(ratio.mean())
        ends = core.student(ratio, level) if math.isfinite(value) else (abs(value), value, value)
        rows.append(_over(value, *ends))
    return rows


def undominated(bias: Floats, variance: Floats) -> Flags:
    """True where no other candidate dominates; candidates along the first axis, shape as given.

    >>> undominated(np.array([0.0, 1.0, 1.0]), np.array([2.0, 1.0, 3.0])).tolist()
    [True, True, False]

    Raises:
        TypeError: an array holds no real floating numbers.
        ValueError: the shapes differ.
    """
    check_same_shape(check_reals(bias, "bias"), check_reals(variance, "variance"), "bias", "variance")
    out = np.isfinite(bias) & np.isfinite(variance)
    for index in range(len(bias)):
        as_good = _at_most(bias, bias[index]) & _at_most(variance, variance[index])
        better = ~_at_most(bias[index], bias) | ~_at_most(variance[index], variance)
        out[index] &= ~(as_good & better & np.isfinite(bias) & np.isfinite(variance)).any(axis=0)
    return out


def is_lowest(values: Floats) -> Flags:
    """True where `values` is within rounding of its least along the first axis, shape as given; nan is never least."""
    check_reals(values, "values")
    least = np.min(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.asarray(np.isfinite(values) & (values <= least * (1 + ROUNDING)))


def tied(first: Floats, second: Floats) -> Flags:
    """True where the two are equal but for rounding; they broadcast."""
    return _at_most(first, second) & _at_most(second, first)


def _at_most(first: Floats, second: Floats) -> Flags:
    """first ≤ second, but for rounding."""
    return np.asarray(first <= second + ROUNDING * np.abs(second) + _NOISE_FLOOR)


def _beside_kl(figures: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """One row per candidate: KL before, then each of the figures with its interval."""
    keys = ["environment", "estimator", "denominator"]
    out = figures[figures["figure"] == "kl_policy_actor"][[*KEYS, *keys, "value"]]
    out = out.rename(columns={"value": "kl_before"})
    for name in names:
        rows = figures[figures["figure"] == name][[*keys, "value", "se", "low", "high"]]
        renamed = {"value": name} | {column: f"{name}_{column}" for column in ("se", "low", "high")}
        out = out.merge(rows.rename(columns=renamed), on=keys, how="left", validate="one_to_one")
    return out
