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
}
"""The reasons for leaving a token out that are placeholders, as the sentence says them."""
_FEWEST_SHARE = 1e-4


def placeholder(evidence: Evidence) -> Finding | None:
    """Placeholders among the log-probs, at more than one token in 10,000."""
    counts = {name: evidence.left_out.count.get(reason, 0) for reason, name in PLACEHOLDERS.items()}
    total = sum(counts.values())
    if not evidence.read or total < _FEWEST_SHARE * evidence.read or not total:
        return None
    share = total / evidence.read
    kinds = ", ".join(f"{name} at {count:,}" for name, count in counts.items() if count)
    return Finding(
        name=CauseName.PLACEHOLDER,
        confidence=1.0,
        explains=0.0,
        evidence=f"{share:.2%} of the {evidence.read:,} tokens hold a placeholder instead of a log-prob: {kinds}.",
        remedy="Make the engine return the log-prob of every sampled token, and mask the tokens that have none.",
        figures={"share": share, "tokens": float(total)},
    )


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
