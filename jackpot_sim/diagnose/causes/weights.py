"""Faults of the weights that time shows: stale ones, and a sync that failed at a step."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import HARMLESS, View
from jackpot_sim.diagnose.results import CauseName

_LEAST_EXPLAINED = 0.3
_FEWEST_A_SIDE = 2
"""The fewest sequences on either side of a comparison."""
_OUTER = 0.05
"""The share of the sequences that are seen as the freshest, and as the oldest; those of the same lag come with them."""
_JUMP = 4.0
"""The factor by which mean ℓ² grows from one step to the next where a sync failed."""


def stale(view: View) -> Finding | None:
    """A mismatch that grows with the steps since the weights that wrote a sequence."""
    if view.lag is None or view.k3.mean() < HARMLESS:
        return None
    found, rank = chance.rises(view.sizes, view.lag)
    if not found:
        return None
    ordered = np.sort(view.lag)
    few = max(_FEWEST_A_SIDE, int(_OUTER * len(ordered))) - 1
    fresh, old = view.lag <= ordered[few], view.lag >= ordered[-1 - few]
    explains = 1 - _mean_square(view, fresh) / view.total
    if fresh.all() or explains < _LEAST_EXPLAINED:
        return None
    first, last = (float(view.k3[each[view.table.owner]].mean()) for each in (fresh, old))
    stuck = lag_follows_step(view)
    return Finding(
        name=CauseName.STALE,
        confidence=explains * (0.5 if stuck else 1.0),
        explains=explains,
        evidence=(
            f"The mismatch grows with the lag of the weights (rank correlation {rank:.2f}): k3 is {first:.2g} at the "
            f"least lag and {last:.2g} nats a token at {ordered[-1] - ordered[0]:.2g} versions more."
        ),
        remedy="Let the engine fetch the weights more often, or bound the lag of the rollouts that are trained on.",
        figures={"rank_correlation": rank, "k3_least_lag": first, "k3_largest_lag": last, "explained": explains},
    )


def weight_sync(view: View) -> Finding | None:
    """A mismatch that jumps at one step and stays, where the lag did not, or where the versions stopped."""
    if view.table.step is None:
        return None
    steps = np.unique(view.table.step)
    if len(steps) < 2:
        return None
    at, jump = _jump(view, steps)
    after = view.table.step >= at
    if min(after.sum(), (~after).sum()) < _FEWEST_A_SIDE or jump < _JUMP:
        return None
    k3_after, k3_before = (float(view.k3[each[view.table.owner]].mean()) for each in (after, ~after))
    if k3_after < HARMLESS or not chance.larger(view.sizes, after, tries=len(steps) - 1):
        return None
    explains = 1 - _mean_square(view, ~after) / _mean_square(view, after)
    sure = (view.actor > np.log(0.5)) & (view.log_ratio < -2)
    disagree = float(sure[after[view.table.owner]].mean())
    return Finding(
        name=CauseName.WEIGHT_SYNC,
        confidence=explains,
        explains=explains,
        evidence=(
            f"The mismatch jumps at step {at}: k3 is {k3_before:.2g} before and {k3_after:.2g} nats a token from "
            f"there on, and the actor is sure (at least 0.5) where the policy is 2 nats lower at {disagree:.2%} of "
            "tokens."
        ),
        remedy=f"Check that all weights reached the engine at step {at}: compare a checksum of every tensor.",
        figures={"step": float(at), "k3_before": k3_before, "k3_after": k3_after, "confident_disagreement": disagree},
    )


def lag_follows_step(view: View) -> bool:
    """True if the lag grows with the step, because the versions stopped."""
    if view.lag is None or view.table.step is None:
        return False
    return chance.rises(view.lag, view.table.step.astype(np.float64))[1] > 0.7


def _jump(view: View, steps: Ints) -> tuple[int, float]:
    """The step at which the sequences' typical size grows most over the step before, and the factor."""
    assert view.table.step is not None
    typical = np.array([np.median(view.sizes[view.table.step == each]) for each in steps])
    rise = np.diff(typical)
    best = int(np.argmax(rise))
    return int(steps[best + 1]), float(np.exp(rise[best]))


def _mean_square(view: View, sequences: Flags) -> float:
    return float(view.square[sequences[view.table.owner]].mean())
