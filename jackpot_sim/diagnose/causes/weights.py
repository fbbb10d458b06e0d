"""Faults of the weights that time shows: stale ones, and a sync that failed at a step."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.diagnose.batch import disagrees_confidently
from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import HARMLESS, View
from jackpot_sim.diagnose.results import CauseName

_LEAST_EXPLAINED = 0.3
_FEWEST_A_SIDE = 2
"""The fewest sequences on either side of a comparison."""
_OUTER = 0.05
"""The share of the sequences that are seen as the freshest, and as the oldest; those of the same lag come with them."""
_BACK = 1 / 3
"""The part of the jump, in log mean ℓ², below which a later step is back where the mismatch was before."""
_SHOWN = 8
"""The most steps that a sentence lists."""
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
    """A mismatch that jumps at one step, where the lag did not, or where the versions stopped.

    It stays from there on, or is back some steps later; it may also come and go.
    """
    if view.table.step is None:
        return None
    steps = np.unique(view.table.step)
    if len(steps) < 2:
        return None
    at, jump, bad = _jump(view, steps)
    after = np.isin(view.table.step, bad)
    if min(after.sum(), (~after).sum()) < _FEWEST_A_SIDE or jump < _JUMP:
        return None
    when, tries = _when(steps, bad)
    k3_after, k3_before = (float(view.k3[each[view.table.owner]].mean()) for each in (after, ~after))
    if k3_after < HARMLESS or not chance.larger(view.sizes, after, tries):
        return None
    explains = 1 - _mean_square(view, ~after) / _mean_square(view, after)
    sure = disagrees_confidently(view.actor, view.log_ratio)
    disagree = float(sure[after[view.table.owner]].mean())
    return Finding(
        name=CauseName.WEIGHT_SYNC,
        confidence=explains,
        explains=explains,
        evidence=(
            f"The mismatch jumps at step {at}{when.format(k3_before, k3_after)}, and the actor is sure (at least 0.5) "
            f"where the policy is 2 nats lower at {disagree:.2%} of tokens."
        ),
        remedy=f"Check that all weights reached the engine at step {at}: compare a checksum of every tensor.",
        figures={
            "step": float(at),
            "steps": float(len(bad)),
            "k3_before": k3_before,
            "k3_after": k3_after,
            "confident_disagreement": disagree,
        },
    )


def lag_follows_step(view: View) -> bool:
    """True if the lag grows with the step, because the versions stopped."""
    if view.lag is None or view.table.step is None:
        return False
    return chance.rises(view.lag, view.table.step.astype(np.float64))[1] > 0.7


def _jump(view: View, steps: Ints) -> tuple[int, float, Ints]:
    """The step at which the sequences' typical size grows most over the step before, the factor, and the bad steps."""
    assert view.table.step is not None
    typical = np.array([np.median(view.sizes[view.table.step == each]) for each in steps])
    rise = np.diff(typical)
    best = int(np.argmax(rise))
    back = typical < typical[best] + _BACK * rise[best]
    bad = ~back if back[best + 2 :].any() else np.arange(len(steps)) > best
    return int(steps[best + 1]), float(np.exp(rise[best])), steps[bad]


def _when(steps: Ints, bad: Ints) -> tuple[str, float]:
    """The bad steps in words, with room for k3 elsewhere and there, and the number of sets they were chosen from."""
    number, first, last = len(steps), *(int(np.searchsorted(steps, bad[at])) for at in (0, -1))
    if last - first + 1 > len(bad):
        some = ", ".join(map(str, bad[:_SHOWN])) + (", …" if len(bad) > _SHOWN else "")
        return f" and comes and goes: k3 is {{1:.2g}} nats a token at steps {some} and {{0:.2g}} elsewhere", 2.0**number
    if last == number - 1:
        return ": k3 is {0:.2g} before and {1:.2g} nats a token from there on", number - 1
    until = " alone" if len(bad) == 1 else f" and stays to step {bad[-1]}"
    told = f"{until}: k3 is {{1:.2g}} nats a token there and {{0:.2g}} elsewhere; back at step {steps[last + 1]}"
    return told, number * (number - 1) / 2


def _mean_square(view: View, sequences: Flags) -> float:
    return float(view.square[sequences[view.table.owner]].mean())
