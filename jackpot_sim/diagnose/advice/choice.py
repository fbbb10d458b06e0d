"""The correction with the least harm among those that meet a target, with its rivals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim import estimators
from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.intervals import Interval
from jackpot_sim.diagnose.advice.families import TOKENS, band
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.thresholds import Threshold, slack, threshold
from jackpot_sim.diagnose.advice.weighed import Figures, Weighed, figures, left_out
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
        sums: its sums of `Weighed`, by group.
        threshold: how its threshold was found; None for a correction of the user's.
    """

    name: str
    correction: Correction
    sums: Floats
    threshold: Threshold | None

    @property
    def figures(self) -> Figures:
        """Its figures."""
        return figures(self.sums.sum(axis=0))


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
    own = tuple(_own(sample, effects))
    met = [_tried(each) for each in searched if each.is_met]
    mine = [each for each in own if _meets(each.sums, target)]
    helps = [each for each in (*mine, *met) if _surely_less(each.sums, none)]
    untouched = figures(none.sum(axis=0))
    best = _first(helps, none)
    if best is not None:
        others = sorted((each for each in helps if each is not best), key=lambda each: float(each.figures.bias))
        return Choice(best, tuple(others), own, untouched)
    unclear = [each for each in searched if not each.is_met and not each.is_missed]
    helpless = [each for each in met if _less(each.sums, none).low <= 0 < _less(each.sums, none).high]
    nearest = max(searched, key=lambda each: each.slack)
    more = _more(max(unclear, key=lambda each: each.slack)) if unclear else math.nan
    return Choice(None, (), own, untouched, bool(unclear or helpless), more, nearest)


def missing(sample: Weighed, effects: Sequence[Effect], target: Target) -> list[Tried]:
    """The user's own corrections that surely miss a target, where no correction at all surely meets it."""
    if not _meets(sample.sums(estimators.get("none")), target):
        return []
    return [each for each in _own(sample, effects) if _slack(each.sums, target).high < 0]


def _first(corrections: Sequence[Tried], none: Floats) -> Tried | None:
    """The first of the corrections than which none surely leaves less bias, by `MARGIN` of that of none."""
    if not corrections:
        return None
    least = min(corrections, key=lambda each: float(each.figures.bias))
    return next(each for each in corrections if not _surely_less(least.sums, each.sums, none))


def _searched(sample: Weighed, target: Target) -> list[Threshold]:
    found = []
    for family in TOKENS:
        if family.name == "jackpot" and sample.overlap(1.0) is None:
            continue
        found.append(threshold(sample, family, target))
    return found


def _tried(found: Threshold) -> Tried:
    correction = found.correction
    return Tried(_name(found), correction, found.sums, found)


def _name(found: Threshold) -> str:
    """The correction as `--correction` takes it."""
    value = f"{found.family.parameter}={found.value:.12g}"
    if found.family.name == "mis":
        value = f"low={band(found.value)[0]:.12g}, {value}"
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
                own.append(Tried(effect.name, correction, sample.sums(correction), None))
    return own


def _users(effects: Sequence[Effect]) -> Sequence[Effect]:
    """The effects of the user's own corrections, which come before the registered ones and the presets."""
    known = [*estimators.names(), *presets.presets()]
    for count in range(len(effects)):
        first = {each.name for each in effects[:count]}
        if [each.name for each in effects[count:]] == [name for name in known if name not in first]:
            return effects[:count]
    return ()


def _meets(sums: Floats, target: Target) -> bool:
    """True where a correction meets a target, for sure."""
    return _slack(sums, target).low >= 0


def _slack(sums: Floats, target: Target) -> Interval:
    """The interval of the margin by which a correction meets a target."""
    there, without = slack(figures(sums.sum(axis=0)), target), slack(figures(left_out(sums)), target)
    return intervals.of_left_out(float(there), without)


def _surely_less(first: Floats, second: Floats, none: Floats | None = None) -> bool:
    """True where the first leaves surely less bias than the second, by `MARGIN` of that of none where it is given."""
    return _less(first, second, none).low > 0


def _less(first: Floats, second: Floats, none: Floats | None = None) -> Interval:
    """The interval of the bias of the second less that of the first, and less the margin."""

    def of(taken: Callable[[Floats], Floats]) -> Floats:
        margin = np.zeros(()) if none is None else MARGIN * figures(taken(none)).bias
        return np.asarray(figures(taken(second)).bias - figures(taken(first)).bias - margin)

    return intervals.of_left_out(float(of(lambda sums: sums.sum(axis=0))), of(left_out))


def _more(found: Threshold) -> float:
    """The factor by which more tokens would take 0 out of the interval of the slack."""
    _, low, high = found.interval
    return ((high - low) / 2 / abs(found.slack)) ** 2 if found.slack else math.nan
