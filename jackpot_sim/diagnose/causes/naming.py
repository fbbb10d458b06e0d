"""The causes of a mismatch, likeliest first."""

from __future__ import annotations

from jackpot_sim.diagnose.causes import columns, everywhere, parts, sampler, weights
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import View
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.results import Cause, CauseName


def named(evidence: Evidence) -> list[Cause]:
    """The causes that the evidence names, likeliest first; none where the mismatch is no more than chance, or harmless.

    Faults of the columns come first: the tokens that they spoil are left out before anything else is tried.
    A cause that explains the mismatch leaves only the rest of it to causes that would look alike.
    """
    certain = _kept(columns.bypass(evidence), columns.placeholder(evidence), columns.misaligned(evidence))
    others = [] if evidence.sample is None else _in_tokens(View(evidence.sample))
    faults = [each for each in certain if each.confidence == 1]
    notes = [each for each in certain if each.confidence < 1]
    return [each.cause() for each in [*faults, *sorted([*others, *notes], key=lambda each: -each.confidence)]]


def _in_tokens(view: View) -> list[Finding]:
    """The causes that the tokens themselves show."""
    found = _kept(parts.ends_differ(view)) or _kept(parts.ids_differ(view))
    if not found:
        found = _kept(sampler.truncated(view)) or _kept(sampler.temperature(view))
    if not found:
        found = _kept(parts.dominated(view))
    if not found:
        found = _kept(weights.weight_sync(view), weights.stale(view), parts.prompts_differ(view))
    unexplained = 1 - max((each.explains for each in found), default=0.0)
    if not any(each.name in (CauseName.RAW_LOG_PROBS, CauseName.TOKENIZER) for each in found):
        found += _kept(sampler.raw(view))
    return found + everywhere.size(view, unexplained)


def _kept(*findings: Finding | None) -> list[Finding]:
    return [each for each in findings if each is not None]
