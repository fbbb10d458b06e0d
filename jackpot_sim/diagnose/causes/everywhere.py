"""A mismatch of all tokens alike, which its size tells apart: coarse numbers, other weights, or another model."""

from __future__ import annotations

import numpy as np

from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import HARMLESS, View
from jackpot_sim.diagnose.results import CauseName

_BORDER = 0.03
"""Mean k3 at which coarse numbers and another model are as likely, nats per token."""
_STALE = 0.4
"""The share of stale weights among small mismatches without a sign of their own, where no lag is known."""


def size(view: View, unexplained: float) -> list[Finding]:
    """The causes of what nothing else explains, by its size.

    Args:
        view: the tokens.
        unexplained: the share of Σℓ² that no other cause explains.
    """
    found = chance.mean(view.units, view.k3)
    if not found.low > HARMLESS or found.value * unexplained < HARMLESS:
        return []
    other = 1 / (1 + (_BORDER / found.value) ** 2)
    old = _stale_share(view)
    of_size = f"k3 is {found.value:.2g} nats a token ({found.low:.2g} to {found.high:.2g})"
    figures = {"k3": found.value, "low": found.low, "high": found.high}
    slope = _grows(view)
    noise = f"{of_size}, of both signs, and |ℓ| grows by {slope:.2f} of its mean with each nat of −log p"
    unsure = "; without weight versions, stale weights of this size look the same" if view.lag is None else ""
    candidates = [
        Finding(
            name=CauseName.PRECISION,
            confidence=unexplained * (1 - other) * (1 - old),
            explains=0.0,
            evidence=f"{noise}, at all steps and positions alike{unsure}.",
            remedy="Serve the actor in a finer number format, or correct for it: it is a mismatch that stays.",
            figures=figures | {"growth": slope},
        ),
        Finding(
            name=CauseName.STALE,
            confidence=unexplained * (1 - other) * old,
            explains=0.0,
            evidence=f"{of_size}, and no weight version says how old the actor's weights are.",
            remedy="Record the version of the weights with every token: then stale weights and precision differ.",
            figures=figures,
        ),
        Finding(
            name=CauseName.OTHER_MODEL,
            confidence=unexplained * other,
            explains=0.0,
            evidence=f"{of_size}, at all steps and positions alike, which is more than rounding makes.",
            remedy="Check that actor and policy are the same checkpoint with the same configuration.",
            figures=figures,
        ),
    ]
    return [each for each in candidates if each.confidence >= 0.1]


def _stale_share(view: View) -> float:
    """How likely stale weights are against coarse numbers, where no lag shows."""
    lag = view.lag
    if lag is not None and np.ptp(lag) > 0:
        return 0.0  # their growth would have shown
    advantages = view.table.advantages
    if advantages is None:
        return _STALE
    # The policy has learnt since: ℓ is larger where the advantage is.
    learnt = chance.mean(view.units, (view.log_ratio - view.log_ratio.mean()) * advantages)
    error = (learnt.high - learnt.low) / (2 * 2.8)
    return 0.65 if error > 0 and learnt.value > 2 * error else _STALE


def _grows(view: View) -> float:
    """The slope of |ℓ| on −log p, over its mean."""
    size = np.abs(view.log_ratio)
    return float(np.polyfit(-view.policy, size, 1)[0] / size.mean())
