"""Statistics of trained runs: figures of each run, differences paired by seed, and the claims that these decide.

Accuracies are running means over the last 20 steps, as in `jackpot_sim.training.loop.collapse`, or over a tenth of
the steps asked where that is less: in a run of ten long steps a mean over twenty would never leave the beginning.
A run is lost if it collapsed or diverged. A run that collapsed and was stopped keeps its last value, which is low, to
the last step asked. A run that diverged has left no policy: its accuracies count as 0 from there on.

Runs of one seed share the first policy, the prompts and the draws, so that only seeds are repetitions. Figures of
several settings (distances, stalenesses, pairs of sizes) are averaged within a seed, and intervals are over seeds.
Claims about counts are decided by `mostly`, from five seeds on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import optimize, stats
from typing_extensions import override

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape
from jackpot_sim.training.loop.collapse import WINDOW
from jackpot_sim.training.records import ENDS
from paper_figures.training.records import Trained

ON_POLICY = "on-policy"
CONFIDENCE = 0.95
POWER = 0.9
"""The probability with which a `detectable` difference is seen."""
ACCURACIES = ("accuracy", "mean_at_k", "pass_at_k")
"""The columns of the steps that are 0 after a run has diverged."""
_ROUNDING = 1e-9
"""The KL in nats below which two laws are the same but for rounding, with no place on a logarithmic axis."""
_HALF = 0.5


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


class Claim(NamedTuple):
    """A claim or expectation of the paper, and its decision by our runs."""

    text: str
    """The claim as a clause after "supports that"."""
    holds: bool | None
    """True where the claim holds; None where the runs do not decide it."""
    because: str
    """The numbers that decide it."""


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
    return np.array([of_known[a:b].mean() if a < b else math.nan for a, b in zip(first, last, strict=True)])


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
            values = np.log(np.where(values > _ROUNDING, values, math.nan))
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


def on_policy(runs: pd.DataFrame, setting: str, figure: str) -> pd.Series[float]:
    """A figure of the on-policy runs by seed: those of the setting, or of the only setting that has any."""
    figures = of(runs, ON_POLICY, figure)
    settings = figures.index.get_level_values("setting")
    return figures.xs(setting if setting in settings else settings[0], level="setting")


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
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(seeds.to_numpy(), ddof=1)) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def detectable(values: pd.Series[float], seeds: int | None = None, confidence: float = CONFIDENCE) -> float:
    """The difference that an `interval` over seeds would see with a probability of 90 %, with the spread of these.

    It is the mean δ at which Student's two-sided test at this confidence rejects 0 in 90 % of samples, by the
    noncentral t distribution. Infinite with fewer than two seeds.

    Args:
        values: differences by seed, or by setting and seed, which are averaged within a seed first.
        seeds: the number of seeds of the study that is planned; None: that of the values.
        confidence: that of the interval.
    """
    known = by_seed(values.dropna())
    n = len(known) if seeds is None else seeds
    if len(known) < 2 or n < 2:
        return math.inf
    error = float(np.std(known.to_numpy(), ddof=1)) / math.sqrt(n)
    critical = float(stats.t.ppf(0.5 + confidence / 2, n - 1))
    shift = optimize.brentq(lambda far: stats.nct.sf(critical, n - 1, far) - POWER, 0.0, 10 * critical)
    return float(shift) * error


def by_seed(values: pd.Series[float]) -> pd.Series[float]:
    """The mean of each seed over its settings; the values themselves without a level "setting"."""
    return values.groupby(level="seed").mean() if "setting" in values.index.names else values


def mostly(happened: pd.Series[bool] | pd.Series[float]) -> bool | None:
    """True where an event happens to more than half of all seeds, judged by a sample: the rule for all counts.

    A seed counts if the event happens in more than half of its settings. The rule says True if the lower one-sided
    Clopper–Pearson 95 % bound of the rate is above one half, False if the upper one is below one half, and None
    otherwise. Fewer than five seeds never decide; five decide if it happens to all (a rate above 0.55) or to none
    (below 0.45).

    Args:
        happened: whether the event happened, by seed, or by setting and seed.
    """
    seeds = by_seed(happened.astype(float)) > _HALF
    count, n = int(seeds.sum()), len(seeds)
    least = float(stats.beta.ppf(1 - CONFIDENCE, count, n - count + 1)) if count else 0.0
    most = float(stats.beta.ppf(CONFIDENCE, count + 1, n - count)) if count < n else 1.0
    return True if least > _HALF else False if most < _HALF else None


def stable(lost_at: pd.Series[float]) -> bool | None:
    """True where most seeds lose no run in any setting, by the rule of `mostly`."""
    return mostly(lost_at.isna().groupby(level="seed").all())


def fall(runs: pd.DataFrame, method: str) -> str:
    """The best and the last accuracy of a method's runs, in words."""
    best, last = (float(of(runs, method, figure).mean()) for figure in ("best_accuracy", "accuracy"))
    return f"accuracy {best:.2f} at best, {last:.2f} at the end"


def geometric(values: pd.Series[float]) -> float:
    """The geometric mean of the values that are not nan; nan without any, infinite if one is."""
    known = values.dropna()
    return float(np.exp(np.log(known.to_numpy(dtype=np.float64)).mean())) if len(known) else math.nan


def lost_in_words(steps: pd.Series[float]) -> str:
    """The number of lost runs among these, and their median step, in words."""
    at = steps.dropna()
    return f"{len(at)} of {len(steps)} lost" + (f", median step {at.median():.0f}" if len(at) else "")


def verdict(trained: Trained, claims: Sequence[Claim], more: str = "") -> tuple[str, bool]:
    """The decisions on the claims, a line for each, and whether none is contradicted.

    For a quick run the sentence holds only the numbers.

    Args:
        trained: the runs.
        claims: the claims that they decide.
        more: a last line.
    """
    if trained.quick:
        numbers = "".join(f"\n  {claim.because}." for claim in claims)
        seeds = f"{trained.seeds} seed{'s' if trained.seeds > 1 else ''}"
        longest = int(trained.outcomes["steps"].max())
        about = f"a quick look at {seeds} and at most {longest} steps, which decides nothing"
        return f"NO VERDICT, {about}.{numbers}{_last(more)}", True
    ways = {True: "SUPPORTS that", False: "DOES NOT SUPPORT that", None: "LEAVES OPEN whether"}
    lines = [f"\n  {ways[claim.holds]} {claim.text} ({claim.because})." for claim in claims]
    return f"VERDICT: our result{''.join(lines)}{_last(more)}", all(claim.holds is not False for claim in claims)


def _last(more: str) -> str:
    return f"\n  {more}" if more else ""
