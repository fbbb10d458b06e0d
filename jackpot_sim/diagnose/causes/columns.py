"""Faults of the columns themselves: placeholders, a side moved by one token, and a side that is a copy of the other."""

from __future__ import annotations

from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.results import CauseName
from jackpot_sim.readers.left_out import Reason

PLACEHOLDERS = {
    Reason.MISSING: "no number",
    Reason.ZERO: "exactly 0.0",
    Reason.ONE: "exactly +1.0",
    Reason.ALL_ZERO: "a whole column of 0.0",
    Reason.INFINITE: "−inf, or what stands for it,",
    Reason.POSITIVE: "above 0",
}
"""The reasons for leaving a token out that are placeholders, as the sentence says them."""
SMALL_SHARE = 0.005
"""The share of the tokens that count below which placeholders are but a note: an engine that now and then has no
log-prob spoils nothing, since these tokens are left out."""
NOTED = 0.1
"""The confidence of such a note."""
_IMPOSSIBLE = 0.7
"""The confidence where most are −inf, which truncated sampling makes too: its own rule knows it better."""
_ROUNDED_SHARE = 0.1
"""The share up to which half precision explains log-probs above 0, of tokens that both sides are certain of."""
_FEWEST_SHARE = 1e-4
_NOT_TRAINED = (Reason.MASKED, Reason.PADDING, Reason.DUPLICATE)


def placeholder(evidence: Evidence) -> Finding | None:
    """Placeholders among the log-probs, at more than one token in 10,000; a note where they are few."""
    left_out = evidence.left_out.count
    tokens = evidence.read - sum(left_out.get(reason, 0) for reason in _NOT_TRAINED)
    found = {reason: left_out.get(reason, 0) for reason in PLACEHOLDERS}
    if found[Reason.POSITIVE] <= _ROUNDED_SHARE * tokens:
        del found[Reason.POSITIVE]
    total = sum(found.values())
    if not total or total < _FEWEST_SHARE * tokens:
        return None
    share = total / tokens
    kinds = ", ".join(f"{PLACEHOLDERS[reason]} at {count:,}" for reason, count in found.items() if count)
    confidence = 1.0
    remedy = f"Make {_writer(evidence)} give the log-prob of every sampled token, and mask the tokens that have none."
    if found[Reason.INFINITE] * 2 > total:
        confidence = _IMPOSSIBLE
        remedy = "Score every token that was sampled without top-p, top-k or a mask of the logits: none is impossible."
    elif found.get(Reason.POSITIVE, 0) * 2 > total:
        remedy = "Write log-probs, which are at most 0: these are probabilities, or losses, −log p."
    return Finding(
        name=CauseName.PLACEHOLDER,
        confidence=confidence if share >= SMALL_SHARE else NOTED,
        explains=0.0,
        evidence=f"{share:.2%} of the {tokens:,} tokens to train on hold a placeholder instead of a log-prob: {kinds}.",
        remedy=remedy,
        figures={"share": share, "tokens": float(total)},
    )


def _writer(evidence: Evidence) -> str:
    """The program that writes the placeholders, where the sample of their places names one side alone."""
    places = [place for reason in PLACEHOLDERS for place in evidence.left_out.sample.get(reason, [])]
    for side, writer in (("(actor)", "the engine"), ("(policy)", "the trainer")):
        if places and all(place.endswith(side) for place in places):
            return writer
    return "engine and trainer"


def bypass(evidence: Evidence) -> Finding | None:
    """Both columns equal bit for bit."""
    if not evidence.bypass:
        return None
    return Finding(
        name=CauseName.BYPASS,
        confidence=1.0,
        explains=1.0,
        evidence="Both log-probs are equal bit for bit at every token, which two computations never are.",
        remedy="Recompute the policy's log-probs with the trainer (turn bypass mode off) to see the mismatch at all.",
        figures={"share": 1.0},
    )


def misaligned(evidence: Evidence) -> Finding | None:
    """Sequences of which one side stands a token too early or too late."""
    moved = {by: tokens for by, tokens in evidence.shifted.items() if tokens}
    total = sum(moved.values())
    if not evidence.read or not total or total < _FEWEST_SHARE * evidence.read:
        return None
    by = max(moved, key=lambda each: moved[each])
    share = total / evidence.read
    return Finding(
        name=CauseName.MISALIGNED,
        confidence=1.0,
        explains=0.0,
        evidence=(
            f"{total:,} tokens ({share:.1%}) lie in sequences that agree at least four times better when one side is "
            f"moved by {by:+d}."
        ),
        remedy="Score token t with the logits at t − 1: one side is off by one token.",
        figures={"share": share, "tokens": float(total), "move": float(by)},
    )
