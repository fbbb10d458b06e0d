"""Faults that a part of the tokens shows: some sequences, the first or the last tokens of each, or some ids."""

from __future__ import annotations

import numpy as np

from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import FLOOR, HARMLESS, View
from jackpot_sim.diagnose.results import CauseName

_MOST_SEQUENCES = 0.035
"""The largest share of the sequences that are few."""
_OUTLYING = 5.0
"""Robust standard deviations of log-size by which a dominating sequence lies above the median."""
_LEAST_SPREAD = 0.3
"""The least robust standard deviation of log-size, whatever the sequences."""
_LEAST_EXPLAINED = 0.6
_EARLY, _LATE = 6, 8
"""The first tokens, and where the late ones begin."""
_RATIO = 1.4
"""The factor by which mean |ℓ| of the first tokens exceeds that of late ones where the prompts differ."""
_LAST_RATIO, _LAST_EXPLAINED = 3.0, 0.5
"""The factor by which mean |ℓ| of last tokens exceeds that of tokens as likely where they are at fault, and the least
share of Σℓ² that is theirs: the last token of a sequence that was cut at a maximum length is like any other."""
_LAST_SEQUENCES = 0.2
"""The least share of the sequences whose last token is that far off."""
_FAR = 2.0
"""|ℓ| at every occurrence of an id that means something else, nats."""
_OCCURRENCES = 5
_ALWAYS = 0.75


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
            f"{int(here.sum())} of {number:,} sequences hold {explains:.0%} of Σℓ² (k3 is {theirs:.2g} nats a token "
            f"there and {rest:.2g} elsewhere): {names}."
        ),
        remedy="Look at these sequences and at the engine that wrote them; a sequence-level mask drops them.",
        figures={"sequences": float(here.sum()), "explained": explains, "k3_there": theirs, "k3_elsewhere": rest},
    )


def prompts_differ(view: View) -> Finding | None:
    """A mismatch of the first tokens that fades along the sequence: the sides read different prompts.

    Early tokens are compared with late ones that the actor found as likely, since rounding too makes more mismatch at
    unlikely tokens.
    """
    position = view.table.position
    early, late = position < _EARLY, position >= _LATE
    if not (early.any() and late.any()) or view.k3.mean() < HARMLESS:
        return None
    size = np.abs(view.log_ratio)
    expected = view.usual(size, among=late)
    early &= np.isfinite(expected)
    excess = chance.mean(view.units, np.where(early, size - expected, 0.0))
    ratio = float(size[early].mean() / max(expected[early].mean(), FLOOR)) if early.any() else 0.0
    if not excess.low > 0 or ratio < _RATIO:
        return None
    explains = 1 - 1 / ratio**2
    figures = {"k3_first": float(view.k3[early].mean()), "k3_late": float(view.k3[late].mean()), "ratio": ratio}
    return Finding(
        name=CauseName.TOKENIZER,
        confidence=explains,
        explains=explains,
        evidence=(
            f"The mismatch fades along the completion: |ℓ| of the first {_EARLY} tokens is {ratio:.2g} times that of "
            f"tokens as likely from token {_LATE} on, as if the sides read different prompts."
        ),
        remedy="Compare the prompt ids of both sides: chat template, special tokens, and truncation must be the same.",
        figures=figures,
    )


def ends_differ(view: View) -> Finding | None:
    """A mismatch that the last token of sequences makes: the sides end a completion differently."""
    last = np.zeros(len(view.log_ratio), dtype=np.bool_)
    last[view.table.starts[1:] - 1] = True
    if last.all() or view.total == 0:
        return None
    size = np.abs(view.log_ratio)
    expected = view.usual(size, among=~last)
    seen = last & np.isfinite(expected)
    if not seen.any():
        return None
    excess = chance.mean(view.units, np.where(seen, size - expected, 0.0))
    ratio = float(size[seen].mean() / max(expected[seen].mean(), FLOOR))
    wide = float(np.mean(size[seen] > _LAST_RATIO * np.maximum(expected[seen], FLOOR)))
    theirs, rest = float(view.k3[last].mean()), float(view.k3[~last].mean())
    explains = 1 - float(view.square[~last].mean()) / view.total
    if not excess.low > 0 or ratio < _LAST_RATIO or wide < _LAST_SEQUENCES or view.k3.mean() < HARMLESS:
        return None
    if explains < _LAST_EXPLAINED:
        return None
    return Finding(
        name=CauseName.TOKENIZER,
        confidence=explains,
        explains=explains,
        evidence=(
            f"{'Only' if rest < HARMLESS else 'Above all,'} the last token of the sequences disagrees: |ℓ| there is "
            f"{ratio:.2g} times that of other tokens as likely, and k3 is {theirs:.2g} nats a token there and "
            f"{rest:.2g} elsewhere."
        ),
        remedy="Compare how both sides end a completion: end-of-sequence ids, stop tokens and the chat template.",
        figures={"k3_last": theirs, "k3_elsewhere": rest, "ratio": ratio, "explained": explains},
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
