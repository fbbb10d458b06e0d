"""The correction with the least harm among those that meet a target, with its rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.advice.families import TOKENS
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.thresholds import SURE, Threshold, slack, threshold
from jackpot_sim.diagnose.advice.weighed import Figures, Weighed, ends, figures
from jackpot_sim.diagnose.results import Effect
from jackpot_sim.diagnose.what_if.candidates import parsed
from jackpot_sim.estimators import Correction
from jackpot_sim.estimators.corrections import presets

MARGIN = 0.1
"""The share of the bias without a correction by which two corrections must differ for the choice to depend on it."""


@dataclass(frozen=True, eq=False)
class Tried:
    """A correction on the sample.

    Attributes:
        name: the correction as `--correction` takes it.
        correction: the correction.
        figures: its figures.
        resampled: its figures in each resample.
        threshold: how its threshold was found; None for a correction of the user's.
    """

    name: str
    correction: Correction
    figures: Figures
    resampled: Figures
    threshold: Threshold | None


@dataclass(frozen=True, eq=False)
class Choice:
    """The outcome of a search for a correction.

    Attributes:
        best: the correction that is advised; None where there is none.
        others: the other corrections that meet the target, the least bias first.
        own: the user's own corrections.
        untouched: the figures without a correction, whose bias is also that of rejection at random.
        undecided: True where more tokens might show that a correction meets the target.
        more: the factor by which more tokens would settle it; nan where it is not known.
        nearest: the threshold that comes nearest to the target, where none meets it.
    """

    best: Tried | None
    others: tuple[Tried, ...]
    own: tuple[Tried, ...]
    untouched: Figures
    undecided: bool = False
    more: float = math.nan
    nearest: Threshold | None = None


def chosen(sample: Weighed, effects: Sequence[Effect], target: Target) -> Choice:
    """The correction that meets the target and leaves the least bias, if that is less than rejection at random leaves.

    Rejection at random with the same share kept leaves the law, and so the bias, as it is. The user's own correction
    comes first where it meets the target, and then those of `TOKENS` in their order, unless another leaves surely less
    bias, by `MARGIN` of what there is without a correction.
    """
    searched = _searched(sample, target)
    none = sample.sums(estimators.get("none"))
    untouched, resampled = figures(none.sum(axis=0)), _resampled(sample, none)
    own = tuple(_own(sample, effects))
    met = [_tried(each) for each in searched if each.is_met]
    helps = [each for each in met if _surely_less(each.resampled.bias, resampled.bias)]
    mine = [
        each
        for each in own
        if np.mean(slack(each.resampled, target) >= 0) >= SURE and _surely_less(each.resampled.bias, resampled.bias)
    ]
    ranked = sorted(helps, key=lambda each: float(each.figures.bias))
    best = _first([*mine, *helps], MARGIN * resampled.bias)
    if best is not None:
        return Choice(best, tuple(each for each in ranked if each is not best), own, untouched)
    unclear = [each for each in searched if not each.is_met and not each.is_missed]
    helpless = [each for each in met if not _surely_less(resampled.bias, each.resampled.bias)]
    nearest = max(searched, key=lambda each: each.slack if math.isfinite(each.slack) else -math.inf)
    more = _more(max(unclear, key=lambda each: each.slack)) if unclear else math.nan
    return Choice(None, (), own, untouched, bool(unclear or helpless), more, nearest)


def _first(corrections: Sequence[Tried], margin: Floats) -> Tried | None:
    """The first of the corrections than which none surely leaves less bias by a margin, (resamples,)."""
    if not corrections:
        return None
    least = min(corrections, key=lambda each: float(each.figures.bias))
    return next(each for each in corrections if not _surely_less(least.resampled.bias + margin, each.resampled.bias))


def _searched(sample: Weighed, target: Target) -> list[Threshold]:
    found = []
    for family in TOKENS:
        if family.name == "jackpot" and sample.overlap(1.0) is None:
            continue
        found.append(threshold(sample, family, target))
    return found


def _tried(found: Threshold) -> Tried:
    correction = found.correction
    return Tried(_name(found), correction, found.figures, found.resampled, found)


def _name(found: Threshold) -> str:
    """The correction as `--correction` takes it."""
    value = f"{found.family.parameter}={found.value:.12g}"
    if found.family.name == "mis":
        value = f"low={1 / found.value:.12g}, {value}"
    elif found.family.name == "binary-kl-mask":
        value = f"{value}, direction=actor-policy"
    return f"{found.family.name}({value})"


def _own(sample: Weighed, effects: Sequence[Effect]) -> list[Tried]:
    """The user's own corrections that can be tried on a sample."""
    own = []
    for effect in _users(effects):
        if effect.refused is None:
            correction = parsed(effect.name)
            if not correction.looks_at_batch:
                sums = sample.sums(correction)
                own.append(Tried(effect.name, correction, figures(sums.sum(axis=0)), _resampled(sample, sums), None))
    return own


def _users(effects: Sequence[Effect]) -> Sequence[Effect]:
    """The effects of the user's own corrections, which come before the registered ones and the presets."""
    known = [*estimators.names(), *presets.presets()]
    for count in range(len(effects)):
        first = {each.name for each in effects[:count]}
        if [each.name for each in effects[count:]] == [name for name in known if name not in first]:
            return effects[:count]
    return ()


def _resampled(sample: Weighed, sums: Floats) -> Figures:
    return figures(sample.resamples @ sums)


def _surely_less(first: Floats, second: Floats) -> bool:
    """True where the first is less in all but a few resamples, each compared with itself."""
    return ends(second - first)[0] > 0


def _more(found: Threshold) -> float:
    """The factor by which more tokens would take 0 out of the interval of the slack."""
    return (1.96 * found.slack_error / abs(found.slack)) ** 2 if found.slack else math.nan
