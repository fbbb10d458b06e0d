"""The figures of a sweep with their intervals, whichever world they come from: one row per environment and estimator.

Figures of states are exact for their states, and their intervals those of `analysis.bootstrap`. Sequences and real
models keep no states: their intervals are those of `analysis.sampled`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jackpot_sim.core import intervals
from jackpot_sim.estimators import statistics
from jackpot_sim.sweep import records, summary
from jackpot_sim.sweep.labels import labels

from .. import sampled, tables
from ..bootstrap import Options

GRID = (16, 64, 256, 1024, 4096, 16384)
"""Proposals per state at which MSEs are shown, besides those of the study."""
_INTERVALS_ALONE = Options(replicates=2)
"""Replicates serve probabilities, which a report does not show; intervals do not depend on them."""
_KLS = {"KL(policy‖actor)": "kl_policy_actor", "KL(actor‖policy)": "kl_actor_policy"}
_OF = ["environment", "estimator", "denominator"]


class Figures(NamedTuple):
    """The figures of a sweep."""

    records: pd.DataFrame
    """The records of which the figures are means: exact ones where there are any for an estimator."""
    about: pd.DataFrame
    """A row for each environment: its `label`, `family` (the label without its distance), `knob`, `distance` in words,
    `kl` in nats, and `of` which laws: where KL(policy‖actor) is infinite or unknown, in a family, it is the reverse.
    """
    values: pd.DataFrame
    """`environment`, `name` of the estimator, `figure`, `value`, `low`, `high`."""
    at_n: pd.DataFrame
    """The MSE: `environment`, `name`, `n_samples`, `value`, `low`, `high`; exact figures alone."""


def of_run(root: Path) -> Figures:
    """The figures of the finished cells of a run.

    Raises:
        StudyError: no cell is finished, or records cannot be read.
    """
    every, states = records.load(root), records.load(root, "states")
    rows = _one_method(every)
    several = rows["denominator"].nunique() > 1
    n_samples = sorted({*GRID, int(rows["n_samples"].iloc[0])})
    resampled = rows[rows["cell"].isin(set(states["cell"])) & (rows["method"] == "exact")]
    values, at_n = [], []
    if len(resampled):
        built = tables.build(resampled, states, n_samples, _INTERVALS_ALONE)
        values.append(built.figures[[*_OF, "figure", "value", "low", "high"]])
        lowest = built.lowest_mse.rename(columns={"mse": "value", "mse_low": "low", "mse_high": "high"})
        at_n.append(lowest[[*_OF, "n_samples", "value", "low", "high"]])
    others = rows.drop(resampled.index)
    if len(others):
        values.append(_of_records(others))
        at_n.append(_at_n(others[others["method"] == "exact"], n_samples))
    return Figures(
        rows,
        _about(rows),
        with_names(pd.concat(values, ignore_index=True), several),
        with_names(pd.concat(at_n, ignore_index=True), several),
    )


def _one_method(rows: pd.DataFrame) -> pd.DataFrame:
    """The records without the sampled twins of exact ones."""
    exact = rows["method"] == "exact"
    twins = pd.MultiIndex.from_frame(rows[_OF]).isin(pd.MultiIndex.from_frame(rows[exact][_OF]))
    return rows[exact | ~twins]


def _about(rows: pd.DataFrame) -> pd.DataFrame:
    by_name = labels(list(rows["environment"].unique()))
    out = []
    for environment, group in rows.groupby("environment", sort=False):
        family, knob, distance = summary.describe(group, rows)
        out.append(
            {
                "environment": environment,
                "label": by_name[str(environment)],
                "family": family,
                "knob": knob,
                "distance": distance,
                **{of: group[column].mean() for of, column in _KLS.items()},
            }
        )
    about = pd.DataFrame(out)
    forward, reverse = _KLS
    usual = np.isfinite(about[forward]).groupby(about["family"]).transform("all")
    about["kl"] = about[forward].where(usual, about[reverse])
    return about.assign(of=np.where(usual, forward, reverse))


def with_names(frame: pd.DataFrame, several: bool) -> pd.DataFrame:
    """Estimators by one name, with their denominator where a study has several."""
    names = frame["estimator"] + (" / " + frame["denominator"] if several else "")
    return frame.assign(name=names)


def _of_records(rows: pd.DataFrame) -> pd.DataFrame:
    """The figures of `analysis.sampled`; those that are not resolved, and exact ones of one seed, have no interval."""
    found = sampled.build(rows, intervals.LEVEL, {})["sampled_figures"]
    without = ~found["resolved"] | (found["low"] == found["high"])
    ends = found[["low", "high"]].mask(without)
    return found[[*_OF, "figure", "value"]].assign(low=ends["low"], high=ends["high"])


def _at_n(rows: pd.DataFrame, n_samples: Sequence[int]) -> pd.DataFrame:
    out = []
    for key, own in rows.groupby(_OF, sort=False):
        for n in n_samples:
            mse = statistics.mean_squared_error(
                own["bias"].to_numpy() ** 2, own["variance"].to_numpy(), own["noise_to_signal"].to_numpy(), n
            )
            ends = intervals.student(np.asarray(mse), intervals.LEVEL)
            out.append((*key, n, float(np.mean(mse)), ends.low, ends.high))
    return pd.DataFrame(out, columns=[*_OF, "n_samples", "value", "low", "high"])


def named(about: pd.DataFrame, frame: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    """The rows of each environment, with its label."""
    for environment, label in about[["environment", "label"]].itertuples(index=False):
        rows = frame[frame["environment"] == environment]
        if len(rows):
            yield str(label), rows
