"""Statistics of trained runs: figures of each run, and differences paired by seed.

Accuracies are running means over the last 20 steps, as in `jackpot_sim.training.loop.collapse`, or over a tenth of
the steps asked where that is less: in a run of ten long steps a mean over twenty would never leave the beginning.
A run is lost if it collapsed or diverged. A run that collapsed and was stopped keeps its last value, which is low, to
the last step asked. A run that diverged has left no policy: its accuracies count as 0 from there on.

Runs of one seed share the first policy, the prompts and the draws, so that only seeds are repetitions. Figures of
several settings (distances, stalenesses, pairs of sizes) are averaged within a seed, and intervals are over seeds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape
from jackpot_sim.core.intervals import student
from jackpot_sim.training.loop.collapse import WINDOW
from jackpot_sim.training.records import ENDS

from .records import Trained

CONFIDENCE = 0.95
ACCURACIES = ("accuracy", "mean_at_k", "pass_at_k")
"""The columns of the steps that are 0 after a run has diverged."""
ROUNDING = 1e-9
"""The KL in nats below which two laws are the same but for rounding, with no place on a logarithmic axis."""


class Difference(NamedTuple):
    """A mean over seeds, with Student's interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def above(self) -> bool | None:
        """True where the mean is above 0; None where the interval holds 0."""
        return True if self.low > 0 else False if self.high < 0 else None

    @override
    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.3f} (one seed)" if self.pairs else "-"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def window(steps: int) -> int:
    """The width in steps of the running mean in runs of `steps` steps."""
    return max(1, min(WINDOW, steps // 10))


def running_mean(steps: Ints, values: Floats, width: int) -> Floats:
    """The mean of the values of the last `width` steps, at each step; float64, the shape of `steps`.

    Values that are nan are left out; the mean is nan where all are, and infinite where one is.

    Args:
        steps: ascending, shape (n,).
        values: shape (n,).
        width: steps.

    Raises:
        TypeError: steps are no integers, or values no real floating numbers.
        ValueError: a shape is not (n,).
    """
    check_same_shape(check_integers(steps, "steps", "n"), check_reals(values, "values"), "steps", "values")
    known = ~np.isnan(values)
    at, of_known = steps[known], values[known]
    first, last = np.searchsorted(at, steps - width, side="right"), np.searchsorted(at, steps, side="right")
    # The sums from each first to the last; every second one, from a last to the next first, is of no use.
    sums = np.add.reduceat(np.append(of_known, 0.0), np.stack([first, last], axis=-1).ravel())[::2]
    count = last - first
    return np.asarray(np.where(count > 0, sums, math.nan) / np.maximum(count, 1), dtype=np.float64)


def courses(trained: Trained, setting: str, figure: str, log: bool = False) -> pd.DataFrame:
    """Running means of a figure: a row for every step at which one was measured, a column for (method, seed).

    A run that ended early keeps its last value to the last step asked; but the accuracies of a run that diverged are 0
    after its last step.

    Args:
        trained: the records.
        setting: the setting of the runs.
        figure: a column of the steps.
        log: whether the means are of logarithms, and so geometric; values up to 1e-9 are then left out.
    """
    rows = trained.steps[trained.steps["setting"] == setting].dropna(subset=[figure])
    ends = lost(trained.outcomes).xs(setting, level="setting")
    asked = {method: trained.asked(setting, method) for method in ends.index.get_level_values("method")}
    width, columns = window(max(asked.values())), {}
    for (method, seed), run in rows.groupby(["method", "seed"], sort=False):
        ordered = run.sort_values("step")
        at, values = ordered["step"].to_numpy(), ordered[figure].to_numpy(dtype=np.float64)
        if log:
            values = np.log(np.where(values > ROUNDING, values, math.nan))
        means = running_mean(at, values, width)
        columns[(method, seed)] = pd.Series(np.exp(means) if log else means, index=at)
    if figure not in ACCURACIES:
        return pd.DataFrame(columns).sort_index().ffill()
    for method, seed in ends.index:
        columns.setdefault((method, seed), pd.Series(dtype=np.float64))  # for a policy that was never tested
    wide = pd.DataFrame(columns)
    wide = wide.reindex(wide.index.union(sorted({*asked.values()}))).ffill()
    after = wide.index.to_numpy()
    for (method, seed), steps, diverged in zip(ends.index, ends["steps"], ends["diverged"], strict=True):
        if diverged:
            wide.loc[after >= min(steps + 1, asked[method]), (method, seed)] = 0.0
        wide.loc[after > asked[method], (method, seed)] = math.nan
    return wide


def per_run(trained: Trained) -> pd.DataFrame:
    """A row for each run, by setting, method and seed.

    `accuracy`, `mean_at_k` and `pass_at_k` are the last running means, `best_…` the largest, `mean_…` the
    mean over the run; `kl` the geometric mean at the end, nan where there is none; `lost_at` the step at which
    the run collapsed or diverged, nan if it did not; `asked` the steps that were asked of it.
    """
    out = lost(trained.outcomes)
    out["asked"] = [trained.asked(setting, method) for setting, method, _ in out.index]
    for figure in ACCURACIES:
        known = _known(trained, figure)
        out[figure] = _by_run({run: course.iloc[-1] for run, course in known.items()}, out)
        out[f"best_{figure}"] = _by_run({run: course.max() for run, course in known.items()}, out)
        out[f"mean_{figure}"] = _by_run({run: course.mean() for run, course in known.items()}, out)
    kl = _known(trained, "kl_policy_actor", log=True)
    out["kl"] = _by_run({run: course.iloc[-1] for run, course in kl.items()}, out)
    return out


def _known(trained: Trained, figure: str, log: bool = False) -> dict[tuple[object, ...], pd.Series[float]]:
    """The running means of every run that has any, by setting, method and seed."""
    return {
        (setting, *run): course.dropna()
        for setting in trained.settings
        for run, course in cast("Any", courses(trained, setting, figure, log).items())
        if course.notna().any()
    }


def _by_run(values: dict[tuple[object, ...], float], runs: pd.DataFrame) -> list[float]:
    return [float(values.get(run, math.nan)) for run in runs.index]


def lost(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, by setting, method and seed: its `steps`, whether it `diverged`, and `lost_at`."""
    out = outcomes.set_index(["setting", "method", "seed"])
    diverged = ~out["ended"].isin(ENDS)
    collapsed, steps = out["collapsed_at"].astype(float), out["steps"].astype(float)
    return pd.DataFrame({"steps": steps, "diverged": diverged, "lost_at": collapsed.fillna(steps.where(diverged))})


def of(runs: pd.DataFrame, method: str, figure: str) -> pd.Series[float]:
    """A figure of a method, by setting and seed."""
    return runs.xs(method, level="method")[figure]


def group(runs: pd.DataFrame, setting: str, method: str) -> pd.DataFrame:
    """The runs of a setting and a method, by seed."""
    return cast("pd.DataFrame", runs.xs((setting, method), level=("setting", "method")))


def difference(first: pd.Series[float], second: pd.Series[float], confidence: float = CONFIDENCE) -> Difference:
    """first − second over the seeds that both have, with Student's interval of the mean, see `interval`."""
    return interval((first - second).dropna(), confidence)


def interval(values: pd.Series[float], confidence: float = CONFIDENCE) -> Difference:
    """The mean with Student's interval over seeds, of values by seed, or by setting and seed.

    Settings are averaged within a seed first. With fewer than two seeds, or an infinite value, the interval is the
    whole line.
    """
    seeds = by_seed(values)
    n, mean = len(seeds), float(seeds.mean()) if len(seeds) else math.nan
    if n < 2 or not math.isfinite(mean):
        return Difference(mean, -math.inf, math.inf, n)
    _, low, high = student(np.asarray(seeds, dtype=np.float64), confidence)
    return Difference(mean, low, high, n)


def by_seed(values: pd.Series[float]) -> pd.Series[float]:
    """The mean of each seed over its settings; the values themselves without a level "setting"."""
    return values.groupby(level="seed").mean() if "setting" in values.index.names else values


def geometric(values: pd.Series[float]) -> float:
    """The geometric mean of the values that are not nan; nan without any, infinite if one is."""
    known = values.dropna()
    return float(np.exp(np.log(known.to_numpy(dtype=np.float64)).mean())) if len(known) else math.nan


def lost_in_words(steps: pd.Series[float]) -> str:
    """The number of lost runs among these, and their median step, in words."""
    at = steps.dropna()
    return f"{len(at)} of {len(steps)} lost" + (f", median step {at.median():.0f}" if len(at) else "")
