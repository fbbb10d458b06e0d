"""Faults that a part of the tokens shows: some sequences, the first tokens of each, or some ids."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import HARMLESS, View
from jackpot_sim.diagnose.results import CauseName

_MOST_SEQUENCES = 0.035
"""The largest share of the sequences that are few."""
_OUTLYING = 5.0
"""Robust standard deviations of log-size by which a dominating sequence lies above the median."""
_LEAST_SPREAD = 0.3
"""The least robust standard deviation of log-size, whatever the sequences."""
_LEAST_EXPLAINED = 0.6
_EARLY, _LATE = 4, 8
"""The first tokens, and where the late ones begin."""
_RATIO = 2.5
"""The factor by which mean ℓ² of the first tokens exceeds that of late ones where the prompts differ."""
_FAR = 2.0
"""|ℓ| at every occurrence of an id that means something else, nats."""
_OCCURRENCES = 5
_ALWAYS = 0.9


def dominated(view: View) -> Finding | None:
    """A mismatch that a few sequences make, without which little is left."""
    number = view.table.sequences
    if number < chance.FEWEST:
        return None
    few = max(1, int(_MOST_SEQUENCES * number))
    order = np.argsort(-view.sizes, kind="stable")
    middle = float(np.median(view.sizes))
    spread = max(1.4826 * float(np.median(np.abs(view.sizes - middle))), _LEAST_SPREAD)
    here = np.zeros(number, dtype=np.bool_)
    here[order[:few]] = view.sizes[order[:few]] > middle + _OUTLYING * spread
    if not here.any():
        return None
    of_tokens = here[view.table.owner]
    explains = float(view.square[of_tokens].sum() / view.square.sum())
    theirs, rest = float(view.k3[of_tokens].mean()), float(view.k3[~of_tokens].mean())
    if theirs < 10 * HARMLESS or explains < _LEAST_EXPLAINED or view.k3.mean() < HARMLESS / 4:
        return None
    names = ", ".join(view.table.name[each] for each in order[:few] if here[each])[:80]
    return Finding(
        name=CauseName.DOMINATED,
        confidence=explains,
        explains=explains,
        evidence=(
            f"{int(here.sum())} of {number:,} sequences hold {explains:.0%} of Σℓ² (k3 {theirs:.2g} nats a token there, "
            f"{rest:.2g} elsewhere): {names}."
        ),
        remedy="Look at these sequences and at the engine that wrote them; a sequence-level mask drops them.",
        figures={"sequences": float(here.sum()), "explained": explains, "k3_there": theirs, "k3_elsewhere": rest},
    )


def prompts_differ(view: View) -> Finding | None:
    """A mismatch of the first tokens that fades along the sequence: the sides read different prompts."""
    position = view.table.position
    early, late = position < _EARLY, position >= _LATE
    if not early.any() or not late.any() or view.k3.mean() < HARMLESS:
        return None
    change = view.log_size(early) - view.log_size(late)
    if not _above_zero(change[np.isfinite(change)]):
        return None
    first, last = float(view.square[early].mean()), float(view.square[late].mean())
    if first < _RATIO * last:
        return None
    explains = 1 - last / first
    figures = {"k3_first": float(view.k3[early].mean()), "k3_late": float(view.k3[late].mean()), "explained": explains}
    return Finding(
        name=CauseName.TOKENIZER,
        confidence=explains,
        explains=explains,
        evidence=(
            f"The mismatch fades along the completion: k3 is {figures['k3_first']:.2g} nats at the first {_EARLY} "
            f"tokens and {figures['k3_late']:.2g} from token {_LATE} on, as if the sides read different prompts."
        ),
        remedy="Compare the prompt ids of both sides: chat template, special tokens, and truncation must be the same.",
        figures=figures,
    )


def ids_differ(view: View) -> Finding | None:
    """A mismatch that some token ids make, each at every occurrence."""
    token = view.table.token
    if token is None or view.total == 0:
        return None
    ids, at = np.unique(token, return_inverse=True)
    number = np.bincount(at)
    far = np.maximum(*(np.bincount(at, each) for each in (view.log_ratio < -_FAR, view.log_ratio > _FAR)))
    bad = (number >= _OCCURRENCES) & (far >= _ALWAYS * number)
    share = float(np.bincount(at, view.square)[bad].sum() / view.square.sum())
    if share < 0.5 or number[bad].sum() > 0.7 * number.sum():
        return None
    some = ", ".join(str(each) for each in ids[bad][np.argsort(-number[bad])][:5])
    return Finding(
        name=CauseName.TOKENIZER,
        confidence=share,
        explains=share,
        evidence=(
            f"{int(bad.sum())} token ids disagree by more than {_FAR:g} nats wherever they occur and hold {share:.0%} "
            f"of Σℓ²: {some}."
        ),
        remedy="Compare the vocabularies of both sides: these ids mean different tokens.",
        figures={"ids": float(bad.sum()), "tokens": float(number[bad].sum()), "explained": share},
    )


def _above_zero(values: Floats) -> bool:
    """True if the mean of independent values is above 0 by more than chance."""
    return len(values) >= chance.FEWEST and intervals.student(values, 1 - chance.LEVEL).low > 0

