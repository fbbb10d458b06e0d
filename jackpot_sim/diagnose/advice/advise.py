"""The verdict and the advice, from the evidence, the named causes and the effects of corrections.

A fault of plumbing is to be mended first, as no correction repairs it. A small mismatch needs no correction. Of the
corrections that meet the target the one that leaves the least bias is advised, if it leaves surely less than rejection
at random of as many tokens. A verdict or an advice is given only where the 95 % intervals, which resample sequences,
leave no other; otherwise the answer is how many times as many tokens would settle it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jackpot_sim.core.intervals import FEWEST
from jackpot_sim.diagnose.advice.choice import Choice, Tried, chosen, missing
from jackpot_sim.diagnose.advice.configuration import configuration
from jackpot_sim.diagnose.advice.judged import GAP, TAIL_LOW, Judged, judged
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.weighed import Figures, Weighed
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.results import Advice, Cause, CauseName, Effect, Figure, State, Verdict
from jackpot_sim.estimators.mismatch.lines import BAD, GOOD, STABLE

PLUMBING = frozenset(
    {
        CauseName.PLACEHOLDER,
        CauseName.MISALIGNED,
        CauseName.RAW_LOG_PROBS,
        CauseName.TEMPERATURE,
        CauseName.TRUNCATED_SAMPLING,
        CauseName.WEIGHT_SYNC,
        CauseName.TOKENIZER,
        CauseName.BYPASS,
    }
)
"""The causes that make the log-probs those of something else: weights computed from them correct nothing."""
SERIOUS = frozenset({CauseName.OTHER_MODEL, CauseName.DOMINATED})
"""The causes that are a problem even where the mean over tokens is small."""
LIKELY = 0.5
"""The confidence from which a fault of plumbing comes before a likelier cause of another kind."""
ROUNDING = 1e-12
"""A bias that is none but for rounding."""


def advise(
    evidence: Evidence, causes: Sequence[Cause], effects: Sequence[Effect], target: Target
) -> tuple[Verdict, Advice]:
    """The verdict, and what to do.

    Args:
        evidence: the findings of the pass over the dump.
        causes: the named causes, the likeliest first.
        effects: the effects of corrections, the user's own first.
        target: what a correction must reach.
    """
    size = judged(evidence.metrics)
    fault = next((each for each in causes if each.name in PLUMBING and _comes_first(each, causes)), None)
    if fault is not None:
        return _mend(fault, size, target)
    if evidence.sample is None:
        return _too_few("no token is left that counts", math.nan, target)
    causes = [each for each in causes if not _is_note(each)]
    serious = next((each for each in causes if each.name in SERIOUS and _comes_first(each, causes)), None)
    if size.state is State.HEALTHY and serious is None:
        harmful = missing(Weighed(evidence.sample), effects, target)
        verdict, advice = _healthy(size, causes, target, evidence.metrics)
        return _dropped(harmful, verdict, advice) if harmful else (verdict, advice)
    if size.state is State.UNDECIDED and serious is None:
        return _too_few(f"{_listed(size.reasons)}, and either side of it is possible", size.more, target)
    verdict = _problem(size, causes)
    if evidence.sample.sequences < FEWEST:
        advice = _unsettled(f"{evidence.sample.sequences} sequences give no interval", math.nan, target)
    else:
        choice = chosen(Weighed(evidence.sample), effects, target)
        advice = _correct(choice, choice.best, target) if choice.best else _without(choice, target)
    return verdict, advice if serious is None else _after(serious, advice)


def _comes_first(fault: Cause, causes: Sequence[Cause]) -> bool:
    return not _is_note(fault) and (fault is causes[0] or fault.confidence >= LIKELY)


def _is_note(cause: Cause) -> bool:
    """True for placeholders so few that to leave them out is all that they need."""
    return cause.name is CauseName.PLACEHOLDER and cause.confidence < LIKELY


def _after(serious: Cause, advice: Advice) -> Advice:
    """The advice until a cause is mended that a correction hides rather than mends."""
    sentence = advice.sentence[:1].lower() + advice.sentence[1:]
    return advice.model_copy(update={"sentence": f"{serious.remedy.rstrip('.')}. Until then {sentence}"})


def _mend(fault: Cause, size: Judged, target: Target) -> tuple[Verdict, Advice]:
    verdict = Verdict(state=State.PROBLEM, sentence=f"{fault.name}, a fault to mend before any correction")
    changes = ["a dump written after the mend"]
    if size.state is State.PROBLEM:
        changes.append("a mismatch that stays large after it, which would then need a correction")
    return verdict, Advice(action="fix-cause", sentence=fault.remedy, target=target.sentence, changes_mind=changes)


def _dropped(harmful: Sequence[Tried], verdict: Verdict, advice: Advice) -> tuple[Verdict, Advice]:
    """The verdict and the advice where the user's own corrections do harm that the mismatch does not."""
    told = _listed([f"{each.name} {_effect(each.figures)}" for each in harmful])
    names = _listed([each.name for each in harmful])
    sentence = f"Your own correction does the harm: {told}. {verdict.sentence}"
    remedy = f"Leave out {names}. {advice.sentence}"
    return Verdict(state=State.PROBLEM, sentence=sentence), advice.model_copy(update={"sentence": remedy})


def _healthy(
    size: Judged, causes: Sequence[Cause], target: Target, metrics: Mapping[str, Figure]
) -> tuple[Verdict, Advice]:
    named = f"; its cause is {causes[0].name}" if causes else ""
    gap = metrics[GAP.figure].value
    between = gap is not None and gap > GOOD
    large = "between good and bad" if between else "small"
    verdict = Verdict(state=State.HEALTHY, sentence=f"The mismatch is {large}: {_listed(size.reasons)}{named}")
    # A bracket whose low end is below the line already cannot tell.
    tail = metrics.get(TAIL_LOW.figure)
    told = tail is not None and TAIL_LOW.side(tail) is State.HEALTHY
    overlap = [f"a 5th percentile of the overlap below {STABLE:g}"] if told else []
    changes = [f"a mean |p − q| above {BAD:g}", *overlap, "a named fault"]
    sentence = (
        "No correction is needed yet: diagnose later steps too, and correct where the mean |p − q| grows"
        if between
        else "No correction is needed: none would change what the update does by more than noise"
    )
    return verdict, Advice(action="none-needed", sentence=sentence, target=target.sentence, changes_mind=changes)


def _problem(size: Judged, causes: Sequence[Cause]) -> Verdict:
    reasons = _listed(size.reasons)
    if size.state is not State.PROBLEM:
        return Verdict(state=State.PROBLEM, sentence=f"{causes[0].name}, which the mean hides: {reasons}")
    named = f"; the likeliest cause is {causes[0].name}" if causes else ""
    return Verdict(state=State.PROBLEM, sentence=f"The mismatch is large: {reasons}{named}")


def _too_few(reason: str, more: float, target: Target) -> tuple[Verdict, Advice]:
    verdict = Verdict(state=State.UNDECIDED, sentence=f"Too few tokens to tell: {reason}")
    return verdict, _unsettled("the verdict is open", more, target)


def _unsettled(reason: str, more: float, target: Target) -> Advice:
    known = math.isfinite(more) and more > 1
    wanted = f"about {more:.2g} times as many tokens" if known else "a dump of more sequences"
    return Advice(
        action="too-few-tokens",
        sentence=f"No advice yet, as {reason}: {wanted} would settle it",
        target=target.sentence,
        changes_mind=[wanted],
    )


def _correct(choice: Choice, best: Tried, target: Target) -> Advice:
    found = best.figures
    whose = "Keep your own" if best.threshold is None else "Use"
    changes = [
        f"a target beyond {float(found.keep):.3g} of the signal or an effective sample size of {float(found.ess):.3g}",
        *_rivals(choice),
        *(_judgement(own, target) for own in choice.own if own is not best),
        "a mismatch of whole prefixes, which a correction of single tokens leaves as it is",
    ]
    return Advice(
        action="correct",
        sentence=f"{whose} {best.name}{_why(best, target)}: it {_effect(found)}; {_before(choice.untouched)}",
        target=target.sentence,
        correction=best.name,
        threshold=_threshold(best),
        changes_mind=changes,
        configuration=configuration(best.correction),
    )


def _why(best: Tried, target: Target) -> str:
    if best.threshold is None:
        return ""
    if best.threshold.is_default:
        return " (the frameworks' default)"
    default = best.threshold.family.default
    return f" (the frameworks' default, {default:g}, misses the target)"


def _without(choice: Choice, target: Target) -> Advice:
    if choice.undecided:
        return _unsettled("no correction surely meets the target, and none surely fails it", choice.more, target)
    changes = ["another target", "less mismatch: fresher weights, or an engine of higher precision"]
    if choice.nearest is None or math.isnan(float(choice.nearest.figures.keep)):
        told = ""
    else:
        told = f"; the nearest, {choice.nearest.family.name}, {_effect(choice.nearest.figures)}"
    return Advice(
        action="none-is-enough",
        sentence=f"No correction of single tokens is enough{told}; {_before(choice.untouched)}",
        target=target.sentence,
        changes_mind=changes,
    )


def _threshold(best: Tried) -> Figure | None:
    """The threshold with its interval; for a correction of the user's own its value alone."""
    found = best.threshold
    if found is None:
        name = best.correction.threshold_parameter
        value = None if name is None else best.correction.parameters().get(name)
        return None if not isinstance(value, float | int) else Figure(name=str(name), value=value, meaning="as given")
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    meaning = "the threshold nearest to the frameworks' default that meets the target"
    return Figure(name=found.family.parameter, value=found.value, low=low, high=high, meaning=meaning)


def _rivals(choice: Choice) -> list[str]:
    """The second best, which a dump of other tokens might put first."""
    if not choice.others:
        return []
    other = choice.others[0]
    return [f"a reason for {other.name}, which {_effect(other.figures)}"]


def _judgement(own: Tried, target: Target) -> str:
    keep, ess, bias = target.limits
    found = own.figures
    missed = [
        told
        for told, lacks in (
            (f"keeps {float(found.keep):.3g} of the signal", not found.keep >= keep),
            (f"has an effective sample size of {float(found.ess):.3g}", not found.ess >= ess),
            (f"leaves a bias of {float(found.bias):.3g}", not found.bias <= bias),
        )
        if lacks
    ]
    if missed:
        return f"a wider target for your own {own.name}, which {_listed(missed)}"
    return f"more tokens, on which your own {own.name} might do as well: it {_effect(found)}"


def _effect(found: Figures) -> str:
    left = f"a bias of {float(found.bias):.2g}" if found.bias > ROUNDING else "no bias"
    return (
        f"keeps {float(found.keep):.3g} of the signal at an effective sample size of {float(found.ess):.3g} and leaves "
        f"{left}"
    )


def _before(untouched: Figures) -> str:
    return f"without it, or with as many tokens rejected at random, the bias is {float(untouched.bias):.2g}"


def _listed(parts: Sequence[str]) -> str:
    return ", and ".join(parts)
