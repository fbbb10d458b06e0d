"""A mismatch of all tokens alike, which its size tells apart: coarse numbers, other weights, or another model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import FLOOR, HARMLESS, View, slope
from jackpot_sim.diagnose.results import CauseName

_BORDER = 0.03
"""Mean k3 at which coarse numbers and another model are as likely, nats per token."""
_STALE = 0.4
"""The share of stale weights among small mismatches alike in all sequences, where no lag is known, or all have one."""
_STALE_LEARNT = 0.65
"""The same where ℓ rises with the advantage."""
_STALE_FRESH = 0.1
"""The same where every version is the step's own."""
_MOST = 1.0
"""The k3 at which a token is cut off, nats, so that a single one does not decide."""
_FAR_BELOW = 1.4
"""The logarithm of the factor, about 4, by which a sequence that agrees lies below those that do not."""
_LEAST_AGREE, _FEWEST_AGREE = 0.06, 3
"""The share, and the number, of sequences that agree from which other weights wrote the rest."""
_LONG_ENOUGH = 8
"""The fewest tokens of a sequence that is seen to agree."""
_LEAST_CONFIDENCE = 0.1
_ALIKE, _PARTS = 2.0, 4
"""The factor about the mean |ℓ|, relative to tokens as likely, within which parts of the dump are alike, and how many
there are."""
_FEW, _MOST_OF_IT = 0.03, 0.9
"""The share of the tokens that are few, and that of Σℓ² which is most of it."""
_SCATTERED = 0.5
"""The factor on a confidence where few tokens hold most of the mismatch, which no cause here makes."""


def size(view: View, unexplained: float) -> list[Finding]:
    """The causes of what nothing else explains, by its size.

    Args:
        view: the tokens.
        unexplained: the share of Σℓ² that no other cause explains.
    """
    found = chance.mean(view.units, np.minimum(view.k3, _MOST), intervals.LOG)
    if not found.low > HARMLESS or found.value * unexplained < HARMLESS:
        return []
    of_size = f"Mean k3 is {found.value:.2g} nats a token ({found.low:.2g} to {found.high:.2g})"
    figures = {"k3": found.value, "low": found.low, "high": found.high}
    agree = _agreeing(view)
    if unexplained == 1 and agree.sum() >= max(_FEWEST_AGREE, _LEAST_AGREE * len(agree)):
        figures["sequences_that_agree"] = float(agree.mean())
        candidates = _mixed(view, of_size, figures)
    else:
        candidates = _alike(view, found.value, f"{of_size}{_where_alike(view)}", figures)
        if (held := _held_by_few(view)) >= _MOST_OF_IT:
            unexplained *= _SCATTERED
            said = f"{_FEW:.0%} of the tokens hold {held:.0%} of Σℓ², so look at the worst first: "
            candidates = [
                replace(each, evidence=f"{said}{each.evidence[0].lower()}{each.evidence[1:]}") for each in candidates
            ]
    scaled = [replace(each, confidence=each.confidence * unexplained) for each in candidates]
    return [each for each in scaled if each.confidence >= _LEAST_CONFIDENCE]


def _mixed(view: View, of_size: str, figures: dict[str, float]) -> list[Finding]:
    """Causes where some sequences agree and others do not, which neither step nor version explains."""
    said = f"{of_size}, but {figures['sequences_that_agree']:.0%} of the sequences agree: other weights wrote them"
    known = view.lag is not None
    return [
        Finding(
            name=CauseName.WEIGHT_SYNC,
            confidence=0.8 if known else 0.25,
            explains=0.0,
            evidence=f"{said}, whatever their step and version.",
            remedy="Look for an engine replica that does not receive the weights: compare checksums of all replicas.",
            figures=figures,
        ),
        Finding(
            name=CauseName.STALE,
            confidence=0.1 if known else 0.7,
            explains=0.0,
            evidence=f"{said}, as with mixed lags; no weight version says which.",
            remedy="Record the version of the weights with every token, and bound the lag that is trained on.",
            figures=figures,
        ),
    ]


def _alike(view: View, k3: float, of_size: str, figures: dict[str, float]) -> list[Finding]:
    """Causes of a mismatch that all sequences share."""
    other = 1 / (1 + (_BORDER / k3) ** 2)
    old, size = _stale_share(view), np.abs(view.log_ratio)
    growth = slope(size, -view.policy) / float(size.mean())
    unsure = "" if old == 0 else "; stale weights of one and the same lag look alike"
    return [
        Finding(
            name=CauseName.PRECISION,
            confidence=(1 - other) * (1 - old),
            explains=0.0,
            evidence=(f"{of_size}, and |ℓ| grows by {growth:.2f} of its mean with each nat of −log p{unsure}."),
            remedy="Serve the actor in a finer number format, or correct for it: this mismatch stays.",
            figures=figures | {"growth": growth},
        ),
        Finding(
            name=CauseName.STALE,
            confidence=(1 - other) * old,
            explains=0.0,
            evidence=f"{of_size}, as weights of one lag make it; coarse numbers look alike.",
            remedy="Record the version of the weights with every token: then stale weights and precision differ.",
            figures=figures,
        ),
        Finding(
            name=CauseName.OTHER_MODEL,
            confidence=other,
            explains=0.0,
            evidence=f"{of_size}, which is more than rounding makes.",
            remedy="Check that actor and policy are the same checkpoint with the same configuration.",
            figures=figures,
        ),
    ]


def _where_alike(view: View) -> str:
    """The properties at which the mismatch is alike, in words: steps and positions, compared by quarters."""
    size = np.abs(view.log_ratio)
    relative = size / np.maximum(view.usual(size), FLOOR)
    step = view.table.step
    of_tokens = {"steps": None if step is None else step[view.table.owner], "positions": view.table.position}
    alike = [name for name, along in of_tokens.items() if along is not None and _is_alike(relative, along)]
    return f", alike at all {' and '.join(alike)}" if alike else ""


def _is_alike(relative: Floats, along: Ints) -> bool:
    """True if |ℓ|, relative to tokens as likely, (N,), has about the same mean in all parts along a column, (N,)."""
    edges = np.unique(np.quantile(along, np.arange(1, _PARTS) / _PARTS))
    part = np.searchsorted(edges, along)
    number = np.bincount(part)
    means = np.bincount(part, relative)[number > 0] / number[number > 0] / relative.mean()
    return len(means) > 1 and bool(means.min() > 1 / _ALIKE and means.max() < _ALIKE)


def _held_by_few(view: View) -> float:
    """The share of Σℓ² that few tokens hold."""
    few = max(1, int(_FEW * len(view.square)))
    return float(np.partition(view.square, -few)[-few:].sum() / view.square.sum())


def _agreeing(view: View) -> Flags:
    """True on the sequences, (S,), whose typical |ℓ| is far below that of those that disagree most.

    Typical is the geometric mean over tokens, relative to tokens as likely: neither a few wild tokens nor sequences of
    certain tokens count as a difference.
    """
    size = 0.5 * np.log(view.square + FLOOR)
    typical = view.table.per_sequence(size - view.usual(size)) / view.table.lengths
    return np.asarray((typical < np.quantile(typical, 0.9) - _FAR_BELOW) & (view.table.lengths >= _LONG_ENOUGH))


def _stale_share(view: View) -> float:
    """The probability of stale weights against coarse numbers, where no lag shows."""
    lag = view.lag
    if lag is not None and np.ptp(lag) > 0:
        return 0.0  # their growth would have shown
    if lag is not None and lag[0] == 0:
        return _STALE_FRESH
    advantages = view.table.advantages
    if advantages is None or not np.isfinite(advantages).all():
        return _STALE
    # The policy has learnt since: ℓ is larger where the advantage is.
    learnt = chance.mean(view.units, (view.log_ratio - view.log_ratio.mean()) * advantages)
    return _STALE_LEARNT if learnt.low > 0 else _STALE
