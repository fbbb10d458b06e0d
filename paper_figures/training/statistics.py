"""Decisions on the claims of the paper from records of training, by the statistics of `analysis.training.statistics`.

Claims about counts are decided by `mostly`, from five seeds on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from .. import analysed
from .records import Trained

CONFIDENCE = analysed.statistics.CONFIDENCE
Difference = analysed.statistics.Difference
by_seed = analysed.statistics.by_seed
courses = analysed.statistics.courses
difference = analysed.statistics.difference
geometric = analysed.statistics.geometric
group = analysed.statistics.group
interval = analysed.statistics.interval
lost = analysed.statistics.lost
lost_in_words = analysed.statistics.lost_in_words
of = analysed.statistics.of
per_run = analysed.statistics.per_run
running_mean = analysed.statistics.running_mean
window = analysed.statistics.window

ON_POLICY = "on-policy"
POWER = 0.9
"""The probability with which a `detectable` difference is seen."""
_HALF = 0.5


class Claim(NamedTuple):
    """A claim or expectation of the paper, and its decision by our runs."""

    text: str
    """The claim as a clause after "supports that"."""
    holds: bool | None
    """True where the claim holds; None where the runs do not decide it."""
    because: str
    """The numbers that decide it."""


def on_policy(runs: pd.DataFrame, setting: str, figure: str) -> pd.Series[float]:
    """A figure of the on-policy runs by seed: those of the setting, or of the only setting that has any."""
    figures = of(runs, ON_POLICY, figure)
    settings = figures.index.get_level_values("setting")
    return figures.xs(setting if setting in settings else settings[0], level="setting")


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
