"""Alarms: rules on figures of a step, and the first step at which each would have rung.

A figure of a step is a product of powers of sums over its tokens: a mean over tokens is Σ x / n, the effective share
(Σ r)² / (n Σ r²). Its logarithm has the variance that the sums of its sequences have to first order. A rule rings
where the whole 95 % interval lies beyond its bound, in a step with at least `FEWEST` sequences: a step that is only
noisy does not ring. Shares of tokens have the interval of `intervals.of_share`, and those of which one sequence has all
tokens do not ring. Memory grows with the number of steps, by about a kilobyte each.

A ring says that the mismatch is large, and not that the run will be lost. In the study `factorial`, 208 small runs of
sixteen seeds at addition with another model as actor, 83 of them lost (`python -m paper_figures.alarms --records
paper_figures/measured/training/factorial`), running means of k3 above 0.01 and of the 5th percentile of the overlap
below 0.86 ring at step 0 of every run, and of the effective share below 0.5 in 118 of the 125 runs that are not lost. A
k3 above 3 times that of the first steps rings 25 steps ahead in 0.74 [0.63, 0.85] of the losses, and in 0.74 [0.65,
0.82] of the other runs. No figure of a log tells half of the losses in time for sure, at thresholds that other seeds
chose for one false alarm in 1,000 steps (the gradient norm tells most, 0.59 [0.44, 0.74]), so that no rule here is one
of losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, Self

import numpy as np
from scipy import stats

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.intervals import FEWEST, LEVEL, of_share_moments
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.results import Alarm
from jackpot_sim.estimators.mismatch.lines import BAD, HALF, STABLE

PERCENTILE = 0.05
"""The level of the quantile of the overlap that `STABLE` bounds."""
FIRST_STEPS = 3
"""The first steps, to which a rise is compared."""

SUMS = ("tokens", "k3", "probability_gap", "ratio", "square", "confident", "apart", "laws")
"""The sums of a step: the last two are the tokens whose overlap is below `STABLE` for sure, and those with top-k."""


@dataclass(frozen=True)
class Rule:
    """A bound on the figure Π Σ_j^power_j of a step, or on its ratio to that of the first steps."""

    name: str
    rule: str
    powers: Mapping[str, int]
    bound: float
    above: bool = True
    to_first: bool = False
    is_share: bool = False
    """True for a share of the tokens, at the bound or above it."""
    of: str = "tokens"
    """The sum that counts the tokens with the figure."""


def _mean(name: str, of: str = "tokens") -> dict[str, int]:
    return {name: 1, of: -1}


RULES = (
    Rule("k3", "mean k3 of a step above 0.01 nats", _mean("k3"), 0.01),
    Rule(
        "k3-rise",
        f"mean k3 of a step above 3 times that of the first {FIRST_STEPS} steps",
        _mean("k3"),
        3.0,
        to_first=True,
    ),
    Rule("probability-gap", f"mean |p − q| of a step above {BAD:g} (verl: bad)", _mean("probability_gap"), BAD),
    Rule(
        "ess",
        f"effective share of the tokens of a step, under weights p/q, below {HALF:g}",
        {"ratio": 2, "tokens": -1, "square": -1},
        HALF,
        above=False,
    ),
    Rule(
        "confident-disagreement",
        "share of tokens to which the actor gave ≥ 0.5 and the policy > 2 nats less above 0.001 in a step",
        _mean("confident"),
        0.001,
        is_share=True,
    ),
    Rule(
        "overlap",
        f"5th percentile of Σ min(p, q) over tokens of a step below {STABLE:g}, even at the high end of its bracket "
        "(arXiv 2606.08446: stable from there)",
        _mean("apart", "laws"),
        PERCENTILE,
        is_share=True,
        of="laws",
    ),
)
"""The rules.

The bounds are verl's of |p − q|, and that of the overlap reported for stable training (arXiv 2606.08446). The others
are our choice: an effective share of a half; a k3 some hundred times that of bf16 rounding; and one token in a thousand
that disagrees as martingale's alarm has it.
"""


class _Step(NamedTuple):
    """The sequences of a step: their number, Σ of their sums, (m,), and Σ of the products of two, (m, m)."""

    sequences: int
    sums: Floats
    products: Floats


def _together(first: _Step, second: _Step) -> _Step:
    sequences, sums, products = first
    return _Step(sequences + second.sequences, sums + second.sums, products + second.products)


class Trends:
    """An accumulator of the sums of each step; it holds nothing of a dump without steps."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        if batch.table.step is None:
            return
        with overflow_to_inf(), np.errstate(invalid="ignore"):
            sums = _per_sequence(batch)
            for step in np.unique(batch.table.step):
                rows = sums[batch.table.step == step]
                # Without BLAS, whose last bits depend on its threads.
                self._collect(int(step), _Step(len(rows), rows.sum(axis=0), np.einsum("si,sj->ij", rows, rows)))

    def merge(self, later: Self) -> None:
        """Takes in the sums of the batches that come next."""
        with np.errstate(over="ignore", invalid="ignore"):
            for step, sums in later._steps.items():
                self._collect(step, sums)

    def alarms(self) -> list[Alarm]:
        """The rules whose figure some step has, each with the first step at which it would have rung."""
        found = []
        for rule in RULES:
            steps, base = sorted(self._steps), None
            if rule.to_first:
                base = reduce(_together, [self._steps[step] for step in steps[:FIRST_STEPS]]) if steps else None
                steps = steps[FIRST_STEPS:]
            steps = [step for step in steps if self._steps[step].sums[SUMS.index(rule.of)] > 0]
            if steps:
                rung = next((step for step in steps if rings(rule, self._steps[step], base)), None)
                unsure = rung is None and _unsure(rule, [self._steps[step] for step in steps], base)
                found.append(Alarm(name=rule.name, rule=rule.rule, step=rung, unsure=unsure))
        return found

    def _collect(self, step: int, sums: _Step) -> None:
        self._steps[step] = _together(self._steps[step], sums) if step in self._steps else sums


def _per_sequence(batch: Batch) -> Floats:
    """`SUMS` of each sequence, (S, m)."""
    ratio = np.exp(batch.log_ratio)
    apart = known = np.zeros(len(ratio))
    if batch.laws is not None:
        known = batch.laws.known.astype(np.float64)
        apart = (batch.laws.overlap_high < STABLE).astype(np.float64)
    of_ratios = (np.ones(len(ratio)), batch.k3, batch.probability_gap, ratio, ratio * ratio)
    columns = (*of_ratios, batch.confident, apart, known)
    return np.stack([batch.table.per_sequence(each) for each in columns], axis=-1)


def rings(rule: Rule, step: _Step, base: _Step | None = None) -> bool:
    """True where the 95 % interval of the step's figure lies beyond the bound.

    A figure that is infinite, or whose error is, is beyond floats itself and is taken as it is.
    """
    if rule.is_share:
        return _share_rings(rule, step)
    beyond, variance = _beyond(rule, step, base)
    sequences = _sequences(step, base)
    if sequences < FEWEST or math.isnan(beyond):
        return False
    margin = float(stats.t.ppf(0.5 + LEVEL / 2, sequences - 1)) * math.sqrt(variance) if variance < math.inf else 0.0
    return beyond > margin


def _unsure(rule: Rule, steps: Sequence[_Step], base: _Step | None) -> bool:
    """True for a rule that cannot ring for want of sequences: in all steps, or in those beyond the bound."""
    small = [step for step in steps if _sequences(step, base) < FEWEST]
    return len(small) == len(steps) or any(_beyond(rule, step, base)[0] > 0 for step in small)


def _sequences(step: _Step, base: _Step | None) -> int:
    return min(each.sequences for each in (step, base) if each is not None)


def _beyond(rule: Rule, step: _Step, base: _Step | None) -> tuple[float, float]:
    """The distance of the logarithm of the step's figure beyond the bound, and its variance."""
    with np.errstate(all="ignore"):
        value, variance = _log_figure(rule, step)
        if base is not None:
            first, noise = _log_figure(rule, base)
            value, variance = value - first, variance + noise
    beyond = value - math.log(rule.bound)
    return beyond if rule.above else -beyond, variance


def _share_rings(rule: Rule, step: _Step) -> bool:
    used = [SUMS.index(name) for name in rule.powers]
    # From the tokens that count, and all, to those that count, and the others.
    sides = np.array([[1.0, 0.0], [-1.0, 1.0]])
    totals = sides @ step.sums[used]
    products = sides @ step.products[np.ix_(used, used)] @ sides.T
    alone = totals[0] ** 2 <= products[0, 0]
    return not alone and of_share_moments(totals, products, step.sequences).low > rule.bound


def _log_figure(rule: Rule, step: _Step) -> tuple[float, float]:
    """The logarithm of the figure, and its variance to first order."""
    power = np.array([rule.powers.get(name, 0) for name in SUMS], dtype=np.float64)
    used = power != 0
    sums = step.sums[used]
    value = float(np.sum(power[used] * np.log(sums)))
    if np.isinf(sums).any():
        value = math.inf if rule.above else -math.inf
    slope = power[used] / sums
    products = step.products[np.ix_(used, used)]
    number = step.sequences
    # The powers add up to 0, so that the mean of the sequences' deviations is 0 too. Rounding may leave no variance.
    variance = max(float(slope @ products @ slope), 0.0)
    return value, variance * number / (number - 1) if number > 1 else math.inf
