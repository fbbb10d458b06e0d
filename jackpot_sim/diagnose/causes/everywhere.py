"""A mismatch of all tokens alike, which its size tells apart: coarse numbers, other weights, or another model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags
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
        candidates = _alike(view, found.value, of_size, figures)
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
            evidence=(
                f"{of_size}, alike at all steps and positions, and |ℓ| grows by {growth:.2f} of its mean with each nat "
                f"of −log p{unsure}."
            ),
            remedy="Serve the actor in a finer number format, or correct for it: this mismatch stays.",
            figures=figures | {"growth": growth},
        ),
        Finding(
            name=CauseName.STALE,
            confidence=(1 - other) * old,
            explains=0.0,
            evidence=f"{of_size}, alike in all sequences, as weights of one lag make it; coarse numbers look alike.",
            remedy="Record the version of the weights with every token: then stale weights and precision differ.",
            figures=figures,
        ),
        Finding(
            name=CauseName.OTHER_MODEL,
            confidence=other,
            explains=0.0,
            evidence=f"{of_size}, alike at all steps and positions, which is more than rounding makes.",
            remedy="Check that actor and policy are the same checkpoint with the same configuration.",
            figures=figures,
        ),
    ]


def _agreeing(view: View) -> Flags:
    """True on the sequences, (S,), whose typical |ℓ| is far below that of those that disagree most.

    Typical is the geometric mean over tokens, relative to tokens as likely: neither a few wild tokens nor sequences of
    certain tokens count as a difference.
    """
    size = 0.5 * np.log(view.square + FLOOR)
    typical = view.table.per_sequence(size - view.usual(size)) / view.table.lengths
    return np.asarray((typical < np.quantile(typical, 0.9) - _FAR_BELOW) & (view.table.lengths >= _LONG_ENOUGH))


def _stale_share(view: View) -> float:
    """How likely stale weights are against coarse numbers, where no lag shows."""
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
