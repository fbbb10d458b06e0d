"""The effects of corrections with the figures of the target beside them, and that of the advised one among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jackpot_sim import estimators
from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.advice.weighed import Weighed, figures
from jackpot_sim.diagnose.results import Effect
from jackpot_sim.diagnose.what_if.candidates import Candidate, label, parsed
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.estimators import Level
from jackpot_sim.readers.table import TokenTable


def aimed(effects: Sequence[Effect], advised: str | None, sample: TokenTable | None, own: int) -> list[Effect]:
    """The effects with `keep`, `bias` and the bias of the control, and the advised one after the user's own.

    Args:
        effects: the effects, the user's own first.
        advised: the advised correction as `parsed` reads it; None for none.
        sample: the tokens that stand for the dump: the figures are of them, as all those of the advised correction are
            where it is none of the others; None for none.
        own: the number of the user's own.
    """
    if sample is None:
        return list(effects)
    weighed = Weighed(sample)
    untouched = {each: float(figures(weighed.sums(_NONE, each).sum(axis=0)).bias) for each in Level}
    found = [_aimed(each, weighed, untouched) for each in effects]
    if advised is not None and advised not in (each.name for each in effects):
        found.insert(own, _advised(advised, found, weighed, untouched))
    return found


def _advised(name: str, effects: Sequence[Effect], weighed: Weighed, untouched: Mapping[Level, float]) -> Effect:
    correction = parsed(name)
    same = (each for each in effects if each.label == label(correction) and each.refused is None)
    known = next(same, None)
    if known is not None:
        return known.model_copy(update={"name": name})
    tried = Effects([Candidate(name, label(correction), correction)])
    tried.add(weighed.batch)
    return _aimed(tried.results()[0], weighed, untouched)


def _aimed(effect: Effect, weighed: Weighed, untouched: Mapping[Level, float]) -> Effect:
    """The effect with the figures; as it is where the correction looks at a batch, which a sample is not."""
    if effect.refused is not None:
        return effect
    correction = parsed(effect.name)
    if correction.looks_at_batch:
        return effect
    try:
        found = figures(weighed.sums(correction).sum(axis=0))
    except ValueError:  # the sample lacks what it needs
        return effect
    bias = _finite(found.bias) if math.isfinite(found.ess) else None  # no law is left where every weight is 0
    control = effect.random_control | {"bias": _finite(untouched[correction.level])}
    return effect.model_copy(update={"keep": _finite(found.keep), "bias": bias, "random_control": control})


def _finite(value: Floats | float) -> float | None:
    return float(value) if math.isfinite(value) else None


_NONE = estimators.get("none")
