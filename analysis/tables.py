"""The tables that answer a study's questions, as tidy data frames; `analysis.show` prints them.

An estimator with its denominator is one candidate. Estimators of one environment are compared on the
same resampled states, so that the probability of being the best is that of the comparison and not of
two separate errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import bootstrap
from analysis.bootstrap import Environment, Floats, Options
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep.labels import labels

ROUNDING = 1e-9
"""Relative difference up to which two figures are equal: some estimators agree but for rounding."""
_NOISE_FLOOR = 1e-12
"""Absolute difference up to which two biases or variances are equal: 1e-16 is an unbiased estimator too."""

KEYS = ("label", "env_kind", "base_kind", "knob_name", "knob", "target_kl", "seeds", "states")
"""What the tables say of an environment, beside its canonical JSON."""


@dataclasses.dataclass(frozen=True)
class Tables:
    """All tables of a study."""

    figures: pd.DataFrame
    """Every figure with its interval: one row per environment, estimator, denominator and figure."""
    acceptance_vs_kl: pd.DataFrame
    kl_before_after: pd.DataFrame
    bias_variance: pd.DataFrame
    lowest_mse: pd.DataFrame


def build(records: pd.DataFrame, states: pd.DataFrame, n_samples: Sequence[int], options: Options) -> Tables:
    """All tables, from the two tables of a run.

    Args:
        records: the table `records`.
        states: the table `states`.
        n_samples: the numbers of proposals per state at which to compare MSEs.
        options: how to bootstrap.

    Raises:
        StudyError: `n_samples` holds nothing or something below 1, or the run cannot be resampled.
    """
    if not n_samples or min(n_samples) < 1:
        raise StudyError(f"n_samples must be whole numbers of at least 1, got {list(n_samples)}")
    about = describe(records)
    measured, frontiers, lowest = [], [], []
    for environment in bootstrap.environments(records, states, options):
        measured.append(bootstrap.intervals(environment, options))
        frontiers.append(frontier(environment, options))
        lowest.append(lowest_mse(environment, n_samples, options))
    named = [about.merge(pd.concat(parts), on="environment", how="right") for parts in (measured, frontiers, lowest)]
    return Tables(named[0], acceptance_vs_kl(named[0]), kl_before_after(named[0]), named[1], named[2])


def figures(records: pd.DataFrame, states: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The table `figures` alone: every figure of `bootstrap.FIGURES` with its interval."""
    parts = [
        bootstrap.intervals(environment, options) for environment in bootstrap.environments(records, states, options)
    ]
    return describe(records).merge(pd.concat(parts), on="environment", how="right")


def describe(records: pd.DataFrame) -> pd.DataFrame:
    """A row for each environment: `KEYS`, means over seeds where seeds differ."""
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
    """KL before and after: of the accepted tokens, and of what the weighted update samples."""
    return _beside_kl(figures, ["kl_accepted", "kl_effective"])


def frontier(environment: Environment, options: Options) -> pd.DataFrame:
    """Bias and variance of each candidate, and whether another is at least as good in both and better in one.

    `probability` is the share of replicates in which the candidate is not dominated. A candidate with
    an undefined bias or variance is not on the frontier, and dominates nothing.
    """
    found = {
        figure: [candidate.centre(figure) for candidate in environment.candidates] for figure in ("bias", "variance")
    }
    draws = {
        figure: np.stack([candidate.replicates(figure) for candidate in environment.candidates])
        for figure in ("bias", "variance")
    }
    on = undominated(np.array(found["bias"]), np.array(found["variance"]))
    share = undominated(draws["bias"], draws["variance"]).mean(axis=-1)
    rows = []
    for index, candidate in enumerate(environment.candidates):
        row: dict[str, Any] = {
            "environment": environment.name,
            "estimator": candidate.estimator,
            "denominator": candidate.denominator,
        }
        for figure in ("bias", "variance"):
            known = bootstrap.interval(found[figure][index], draws[figure][index], options.level)
            row |= {figure: known.value} | {f"{figure}_{name}": getattr(known, name) for name in ("se", "low", "high")}
        rows.append(row | {"on_frontier": bool(on[index]), "probability": float(share[index])})
    return pd.DataFrame(rows)


def lowest_mse(environment: Environment, n_samples: Sequence[int], options: Options) -> pd.DataFrame:
    """The MSE of each candidate at each n, plain and rescaled, and which is the lowest of either.

    MSEs are relative to ‖g‖²: 1 is that of no update at all. `mse_rescaled` is the MSE of the best
    multiple of the update. `probability` is the share of replicates in which the candidate's MSE is the
    lowest; a tie within rounding counts for each of the tied, so that shares may add up to more than 1.
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


def _compared(suffix: str, known: list[tuple[float, Floats]], options: Options) -> list[dict[str, Any]]:
    """For each candidate its figure with the interval, whether it is the lowest, and how probably."""
    best = is_lowest(np.array([centre for centre, _ in known]))
    share = is_lowest(np.stack([replicates for _, replicates in known])).mean(axis=-1)
    rows = []
    for index, (centre, replicates) in enumerate(known):
        figure = bootstrap.interval(centre, replicates, options.level)
        rows.append(
            {
                f"mse{suffix}": figure.value,
                f"mse{suffix}_se": figure.se,
                f"mse{suffix}_low": figure.low,
                f"mse{suffix}_high": figure.high,
                f"lowest{suffix}": bool(best[index]),
                f"probability{suffix}": float(share[index]),
            }
        )
    return rows


def undominated(bias: Floats, variance: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which candidates, along the first axis, no other dominates; shape as given.

    >>> undominated(np.array([0.0, 1.0, 1.0]), np.array([2.0, 1.0, 3.0])).tolist()
    [True, True, False]
    """
    out = np.isfinite(bias) & np.isfinite(variance)
    for index in range(len(bias)):
        as_good = _at_most(bias, bias[index]) & _at_most(variance, variance[index])
        better = ~_at_most(bias[index], bias) | ~_at_most(variance[index], variance)
        out[index] &= ~(as_good & better & np.isfinite(bias) & np.isfinite(variance)).any(axis=0)
    return out


def is_lowest(values: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where `values` is within rounding of its least along the first axis; nan is never the least."""
    least = np.min(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.asarray(np.isfinite(values) & (values <= least * (1 + ROUNDING)))


def tied(first: Floats, second: Floats) -> Any:
    """Equal but for rounding."""
    return _at_most(first, second) & _at_most(second, first)


def _at_most(first: Floats, second: Floats) -> Any:
    """first ≤ second, but for rounding."""
    return first <= second + ROUNDING * np.abs(second) + _NOISE_FLOOR


def _beside_kl(figures: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    """One row per candidate: KL before, then each figure wanted with its interval."""
    keys = ["environment", "estimator", "denominator"]
    out = figures[figures["figure"] == "kl_policy_actor"][[*KEYS, *keys, "value"]]
    out = out.rename(columns={"value": "kl_before"})
    for name in wanted:
        rows = figures[figures["figure"] == name][[*keys, "value", "se", "low", "high"]]
        renamed = {"value": name} | {column: f"{name}_{column}" for column in ("se", "low", "high")}
        out = out.merge(rows.rename(columns=renamed), on=keys, how="left", validate="one_to_one")
    return out
