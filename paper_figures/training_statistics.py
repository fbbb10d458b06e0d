"""What is said of runs that were trained: figures of each run, differences paired by seed, claims that they decide.

Accuracies are running means over the last 20 steps, as in `jackpot_sim.training.collapse`, but over a tenth of
the run where that is less: in a run of ten long steps a mean over twenty would never leave the beginning.
A run is lost where it collapsed or diverged. One that was stopped then keeps its last value to the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from jackpot_sim.training.collapse import WINDOW
from paper_figures.training_records import Trained

ON_POLICY = "on-policy"
CONFIDENCE = 0.95
_ROUNDING = 1e-9
"""Nats: a KL below this is that of one law with itself, which has no place on a logarithmic axis."""


class Difference(NamedTuple):
    """A mean over pairs, with Student's interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def above(self) -> bool | None:
        """Whether it is above 0; None where the interval does not say."""
        return True if self.low > 0 else False if self.high < 0 else None

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.3f} (one pair)" if self.pairs else "-"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Claim(NamedTuple):
    """Something that the paper says or expects, and what our runs say of it."""

    text: str
    """Goes on from "supports that"."""
    holds: bool | None
    """None: the runs do not decide it."""
    because: str
    """The numbers."""


def window(steps: int) -> int:
    """Steps of the running mean in a run of so many."""
    return max(1, min(WINDOW, steps // 10))


def running_mean(steps: NDArray[Any], values: NDArray[Any], width: int) -> NDArray[np.float64]:
    """The mean of the values of the last `width` steps, at each of them; nan where all of those are nan."""
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(each)]) for each in (np.where(known, values, 0.0), known))
    first = np.searchsorted(steps, steps - width, side="right")
    last = np.arange(1, len(steps) + 1)
    count = counts[last] - counts[first]
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), math.nan)


def courses(found: Trained, setting: str, figure: str, log: bool = False) -> pd.DataFrame:
    """Running means of a figure: a row for every step at which one was measured, a column for (method, seed).

    A run that ended before the others keeps its last value.

    Args:
        found: the records.
        setting: whose runs.
        figure: a column of the steps.
        log: whether the means are of logarithms, and so geometric; what is not above 1e-9 is left out.
    """
    rows = found.steps[found.steps["setting"] == setting].dropna(subset=[figure])
    width, columns = window(int(found.outcomes.loc[found.outcomes["setting"] == setting, "steps"].max())), {}
    for (method, seed), run in rows.groupby(["method", "seed"], sort=False):
        ordered = run.sort_values("step")
        at, values = ordered["step"].to_numpy(), ordered[figure].to_numpy(dtype=np.float64)
        if log:
            values = np.log(np.where(values > _ROUNDING, values, math.nan))
        means = running_mean(at, values, width)
        columns[(method, seed)] = pd.Series(np.exp(means) if log else means, index=at)
    return pd.DataFrame(columns).sort_index().ffill()


def per_run(found: Trained) -> pd.DataFrame:
    """A row for each run, by setting, method and seed.

    `accuracy`, `mean_at_k` and `pass_at_k` are the last running means, `best_…` the largest, `mean_…` the
    mean over the run; `kl` the geometric mean at the end, nan where there is none; `lost_at` the step at which
    the run collapsed or diverged, nan if it did not; `asked` the steps of the longest run of the setting.
    """
    out = lost(found.outcomes)
    out["asked"] = out.groupby(level="setting")["steps"].transform("max")
    for figure in ("accuracy", "mean_at_k", "pass_at_k"):
        known = _known(found, figure)
        out[figure] = _by_run({run: course.iloc[-1] for run, course in known.items()}, out)
        out[f"best_{figure}"] = _by_run({run: course.max() for run, course in known.items()}, out)
        out[f"mean_{figure}"] = _by_run({run: course.mean() for run, course in known.items()}, out)
    kl = _known(found, "kl_policy_actor", log=True)
    out["kl"] = _by_run({run: course.iloc[-1] for run, course in kl.items()}, out)
    return out


def _known(found: Trained, figure: str, log: bool = False) -> dict[tuple[Any, ...], pd.Series[Any]]:
    """The running means of every run that has any."""
    return {
        (setting, *run): course.dropna()
        for setting in found.settings
        for run, course in cast("Any", courses(found, setting, figure, log).items())
        if course.notna().any()
    }


def _by_run(values: dict[tuple[Any, ...], Any], runs: pd.DataFrame) -> list[float]:
    return [float(values.get(run, math.nan)) for run in runs.index]


def lost(outcomes: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, by setting, method and seed: its `steps`, whether it `diverged`, and `lost_at`."""
    out = outcomes.set_index(["setting", "method", "seed"])
    diverged = ~out["ended"].isin(["finished", "collapsed"])
    collapsed, steps = out["collapsed_at"].astype(float), out["steps"].astype(float)
    return pd.DataFrame({"steps": steps, "diverged": diverged, "lost_at": collapsed.fillna(steps.where(diverged))})


def of(runs: pd.DataFrame, method: str, figure: str) -> pd.Series[Any]:
    """A figure of a method, by setting and seed."""
    return runs.xs(method, level="method")[figure]


def group(runs: pd.DataFrame, setting: str, method: str) -> pd.DataFrame:
    """The runs of a setting and a method, by seed."""
    return cast("pd.DataFrame", runs.xs((setting, method), level=("setting", "method")))


def on_policy(runs: pd.DataFrame, setting: str, figure: str) -> pd.Series[Any]:
    """A figure on-policy by seed: in the setting itself, or in the one that has it for all."""
    there = of(runs, ON_POLICY, figure)
    settings = there.index.get_level_values("setting")
    return there.xs(setting if setting in settings else settings[0], level="setting")


def difference(first: pd.Series[Any], second: pd.Series[Any], confidence: float = CONFIDENCE) -> Difference:
    """first − second over what both have, seeds as a rule, with Student's interval of the mean."""
    return interval((first - second).dropna(), confidence)


def interval(values: pd.Series[Any], confidence: float = CONFIDENCE) -> Difference:
    """The mean with Student's interval; of fewer than two values the interval says nothing."""
    n = len(values)
    if n < 2:
        return Difference(float(values.mean()) if n else math.nan, -math.inf, math.inf, n)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(values.to_numpy(), ddof=1)) / math.sqrt(n)
    mean = float(values.mean())
    return Difference(mean, mean - half, mean + half, n)


def geometric(values: pd.Series[Any]) -> float:
    """The geometric mean of what is known; nan where nothing is."""
    known = values.dropna()
    return float(np.exp(np.log(known.to_numpy(dtype=np.float64)).mean())) if len(known) else math.nan


def told_lost(steps: pd.Series[Any]) -> str:
    """How many of these runs were lost, and when, in words."""
    at = steps.dropna()
    return f"{len(at)} of {len(steps)} lost" + (f", median step {at.median():.0f}" if len(at) else "")


def verdict(found: Trained, claims: Sequence[Claim], more: str = "") -> tuple[str, bool]:
    """What our runs say of the claims, and that none of them is contradicted; of a quick run only the numbers."""
    if found.quick:
        numbers = "; ".join(claim.because for claim in claims)
        seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
        longest = int(found.outcomes["steps"].max())
        about = f"a quick look at {seeds} and at most {longest} steps, which decides nothing"
        return f"NO VERDICT, {about}. {numbers}.{more}", True
    ways = {True: "SUPPORTS that", False: "DOES NOT SUPPORT that", None: "LEAVES OPEN whether"}
    parts = [f"{ways[claim.holds]} {claim.text} ({claim.because})" for claim in claims]
    return f"VERDICT: our result {'; '.join(parts)}.{more}", all(claim.holds is not False for claim in claims)
