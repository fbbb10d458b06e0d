"""A verdict on each actor of real models, in one line: the size of the mismatch, and the correction that is enough.

The rules, in order; a figure counts as beyond a line only where all of its 95 % interval is.

1. Prefixes are lost: the effective share of sequences under exact weights is below `PREFIXES`. As it is at most
   e^−KL of a sequence (E r² ≥ e^KL), the KL decides where the share itself is not resolved. Corrections of single
   tokens leave the law of prefixes as it is, so none saves this; one whose MSE is surely less than without is named.
2. The mismatch is small: the mean |p − q| is below verl's good line. No correction is needed.
3. A correction of single tokens is enough: it leaves at most `LEFT` of the KL at the actor's states, and the effective
   share of its weights is at least `HALF`; an MSE that is surely more than without any correction disqualifies it.
4. None is enough, where that is sure of all; otherwise there are too few rollouts to tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jackpot_sim.estimators.mismatch.lines import GOOD, HALF
from jackpot_sim.sweep import records
from jackpot_sim.sweep.labels import labels
from jackpot_sim.sweep.resolved import lost, thin
from jackpot_sim.sweep.rollout_summary import mean_interval
from jackpot_sim.sweep.worse import APART

PREFIXES = 0.1
"""The effective share of sequences below which the actor's prefixes are too far from the policy's."""
LEFT = 0.1
"""The largest share of the KL at the actor's states that a correction that is enough may leave."""
FIRST = ("tis", "mis", "obrs", "jackpot")
"""The corrections that are named first where several are enough; the others follow in the study's order."""

LEGEND = (
    f"Verdicts: a correction of single tokens is enough if it leaves at most {LEFT:.0%} of the KL at the actor's "
    f"states and the effective share (ESS) of its weights is at least {HALF:.0%}. None saves an actor whose sequences "
    f"have an ESS below {PREFIXES:.0%}, as it leaves the law of prefixes as it is. None is needed where the mean "
    f"|p − q| is below {GOOD:g}. A line is crossed where all of the 95 % interval lies beyond it."
)


class Side(Enum):
    """The side of a line on which a figure lies."""

    BELOW = "below"
    ABOVE = "above"
    UNTOLD = "untold"


class Ranged(NamedTuple):
    """A figure and the ends of its 95 % interval; nan where there are none."""

    value: float
    low: float
    high: float

    @classmethod
    def of_error(cls, value: float, se: float) -> Ranged:
        """The interval of a normal estimate with a standard error; an infinite value has infinite ends."""
        reach = 0.0 if math.isinf(value) else APART * se
        return cls(value, value - reach, value + reach)

    def side(self, line: float) -> Side:
        """The side on which all of the interval lies."""
        if self.high < line:
            return Side.BELOW
        return Side.ABOVE if self.low > line else Side.UNTOLD


def verdicts(root: Path) -> list[str]:
    """A line for each actor of a run of real models, in the order of the records."""
    found, diagnostics = records.load(root), records.load(root, "diagnostics")
    by_name = labels(list(diagnostics["environment"].unique()))
    return [
        f"{by_name[str(key)]}: {verdict(found[found['environment'] == key], rows)}"
        for key, rows in diagnostics.groupby("environment", sort=False)
    ]


def verdict(rows: pd.DataFrame, diagnostics: pd.DataFrame) -> str:
    """The verdict on one actor.

    Args:
        rows: the records of one environment of real models.
        diagnostics: its diagnostics.
    """
    figures = {str(name): Ranged(*mean_interval(each)) for name, each in diagnostics.groupby("figure")}
    share, told = _share(rows, figures)
    beginning = f"KL {_kl(rows, figures)}, sequence ESS {told}"
    return f"{beginning}: {_judged(rows, figures, share.side(PREFIXES))}"


def _judged(rows: pd.DataFrame, figures: Mapping[str, Ranged], prefixes: Side) -> str:
    tried = _tried(rows, figures)
    of_tokens = [each for each in tried if each.of_tokens and each.name != "none"]
    if not of_tokens:
        return "no correction of single tokens was tried"
    less = [each for each in of_tokens if each.against_none is Side.BELOW]
    if prefixes is Side.BELOW:
        best = min(less, key=lambda each: each.ratio, default=None)
        told = f", though {best.name} has {best.ratio:.2g} times the MSE of none" if best else ""
        return f"no token correction saves this{told}"
    gap = figures.get("probability_gap")
    if gap is not None and gap.side(GOOD) is Side.BELOW and prefixes is Side.ABOVE:
        return "small, no correction is needed" + _enough(of_tokens, ", and {} is enough")
    if prefixes is Side.UNTOLD:
        return "too few rollouts to tell" + _enough(of_tokens, "; {} is enough at the states visited")
    if enough := _enough(of_tokens, "{} is enough"):
        return enough
    if all(each.enough is Side.BELOW for each in of_tokens):
        return "no token correction that was tried is enough"
    return "too few rollouts to tell which correction is enough"


def _kl(rows: pd.DataFrame, figures: Mapping[str, Ranged]) -> str:
    """The KL per token that the policy's own rollouts have; k3 of the actor's, where laws are not known."""
    kl = rows["kl_policy_actor"].mean()
    if not math.isnan(kl):
        return f"{kl:.2g}"
    return f"(k3) {figures['k3'].value:.2g}" if "k3" in figures else "unknown"


def _share(rows: pd.DataFrame, figures: Mapping[str, Ranged]) -> tuple[Ranged, str]:
    """The effective share of sequences, and in words: the bound from their KL decides where it is low."""
    unknown = Ranged(math.nan, math.nan, math.nan)
    share = figures.get("ess_fraction_sequence", unknown)
    cells = rows.drop_duplicates("cell")
    kl, error = cells["kl_sequence"].mean(), math.hypot(*cells["kl_sequence_se"]) / len(cells)
    # Where the actor never writes some tokens, Σ q·r < 1 and the inequality does not hold.
    least = Ranged.of_error(kl, error).low
    bound = math.exp(-least) if math.isfinite(least) else math.nan
    if bound < PREFIXES:
        return Ranged(bound, 0.0, bound), f"below {max(bound, 1e-4):.2g}"
    if math.isnan(share.low):
        return share, "unresolved"
    return share, f"{share.value:.0%}"


class Tried(NamedTuple):
    """A correction, judged."""

    name: str
    of_tokens: bool
    enough: Side
    """ABOVE: it is enough; BELOW: it is surely not."""
    ratio: float
    """Its MSE over that of no correction; nan where either is not resolved."""
    against_none: Side


def _tried(rows: pd.DataFrame, figures: Mapping[str, Ranged]) -> list[Tried]:
    """The corrections of a study, each with the first of its denominators."""
    first = rows.drop_duplicates(["cell", "estimator"])
    means = {str(name): _Means.of(each) for name, each in first.groupby("estimator", sort=False)}
    unresolved = {each for each, *_ in thin(first)}
    none = means.get("none") if not lost(rows) else None
    before = figures["kl_policy_actor"].value if "kl_policy_actor" in figures else math.nan
    out = []
    for name, each in means.items():
        ratio, side = math.nan, Side.UNTOLD
        if none is not None and name not in unresolved:
            ratio, side = each.mse.value / none.mse.value, _difference(each.mse, none.mse)
        left, share = each.kl_left.side(LEFT * before), each.ess.side(HALF)
        enough = Side.UNTOLD
        if left is Side.ABOVE or share is Side.BELOW or side is Side.ABOVE:
            enough = Side.BELOW
        elif left is Side.BELOW and share is Side.ABOVE:
            enough = Side.ABOVE
        out.append(Tried(each.name, each.of_tokens, enough, ratio, side))
    return out


class _Means(NamedTuple):
    """The means over seeds of what decides about a correction."""

    name: str
    of_tokens: bool
    kl_left: Ranged
    ess: Ranged
    mse: Ranged

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Means:
        def mean(figure: str) -> Ranged:
            error = math.hypot(*rows[f"{figure}_se"]) / len(rows)
            return Ranged.of_error(float(rows[figure].mean()), error)

        of_tokens = bool((rows["level"] == "token").all())
        return cls(_named(rows.iloc[0]), of_tokens, mean("kl_effective"), mean("ess_fraction"), mean("mse"))


def _difference(first: Ranged, second: Ranged) -> Side:
    """The side of 0 on which the first less the second lies for sure."""
    reach = math.hypot(first.high - first.value, second.high - second.value)
    value = first.value - second.value
    return Ranged(value, value - reach, value + reach).side(0.0)


def _named(row: pd.Series[Any]) -> str:
    """An estimator's name with its parameters, defaults too."""
    name = str(row["estimator"])
    given = [f"{each}={row[each]:g}" for each in ("clip",) if isinstance(row.get(each), float) and row[each] > 0]
    return name if "(" in name or not given else f"{name}({given[0]})"


def _enough(tried: Sequence[Tried], sentence: str) -> str:
    """The sentence with the first correction that is enough, and what its MSE says; nothing where none is."""
    found = [each for each in tried if each.enough is Side.ABOVE]
    if not found:
        return ""
    order = {kind: place for place, kind in enumerate(FIRST)}
    best = min(found, key=lambda each: order.get(each.name.partition("(")[0], len(order)))
    told = {Side.BELOW: f" (MSE {best.ratio:.2g} of that of none)", Side.UNTOLD: ""}
    measured = "" if math.isnan(best.ratio) else " (MSE as without, within the noise)"
    return sentence.format(best.name) + (told[best.against_none] or measured)
