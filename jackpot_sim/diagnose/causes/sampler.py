"""Faults of the sampler: temperature or truncation on one side, and log-probs of a law that was not sampled from."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.diagnose.causes import chance
from jackpot_sim.diagnose.causes.finding import Finding
from jackpot_sim.diagnose.causes.view import View, slope
from jackpot_sim.diagnose.results import CauseName

_ONE_SIDED = 0.1
"""The most that the rarer sign of ℓ holds of Σℓ² where ℓ is the logarithm of a kept mass."""
_LEAST_LOST = 0.005
"""The least mean mass lost that is a fault."""
_LEAST_SLOPE = 0.05
"""The least |1 − 1/T| that is a fault."""
_MOST_SLOPE = 0.9
"""The most: a side that writes one number, however unlikely, at some tokens looks like a temperature beyond 10."""
_FITS = 0.75
"""The least share of Σℓ² that a temperature must explain, where the entropy is known."""
_FITS_ALONE = 0.68
"""The same of Var ℓ, where log p alone is."""
_FEW = 0.05
"""The share of the tokens, the most influential ones, without which a temperature must still show."""
_FITS_BULK, _BULK_SLOPE = 0.45, 0.1
"""The least R², and the least slope, of the fit without them, each as a share of that of all tokens."""
_SAME_FIRST = 0.9
"""The least share of states whose likeliest token both sides agree on: a temperature keeps the order."""
_FEWEST_TOKENS = 64
_PROCESSED = (
    "Make the engine return the log-probs of the law that it samples from, after temperature and truncation "
    "(processed, not raw)"
)


class Heat(NamedTuple):
    """The actor's temperature over the policy's with its interval; the ends are nan where there is none."""

    value: float
    low: float
    high: float

    @override
    def __str__(self) -> str:
        return f"{self.value:.3g}{f' ({self.low:.3g} to {self.high:.3g})' if math.isfinite(self.low) else ''}"


def truncated(view: View) -> Finding | None:
    """ℓ = log S at every token: of one sign, and E e^ℓ as far from 1 as E ℓ is from 0."""
    if view.total == 0:
        return None
    for sign, side in ((1.0, "actor"), (-1.0, "policy")):
        ratio = sign * view.log_ratio
        wrong = float(np.square(np.maximum(ratio, 0.0)).mean()) / view.total
        lost = chance.mean(view.units, -np.expm1(ratio))
        if wrong > _ONE_SIDED or not lost.low > 0 or lost.value < _LEAST_LOST:
            continue
        if lost.value < 0.5 * -ratio.mean():
            continue
        kept, least = 1 - lost.value, float(np.exp(np.quantile(ratio, 0.01)))
        return Finding(
            name=CauseName.TRUNCATED_SAMPLING,
            confidence=1 - 2 * wrong,
            explains=1 - 2 * wrong,
            evidence=(
                f"ℓ has one sign at every token but rounding, as log S of a kept mass S has: S is {kept:.3f} on "
                f"average and {least:.3f} at its 1st percentile."
            ),
            remedy=(
                f"Only the {side} is cut to top-p or top-k: sample without, or renormalise both sides over the same "
                "kept tokens."
            ),
            figures={"kept_mass": kept, "kept_mass_1st_percentile": least, "wrong_sign": wrong},
        )
    return None


def temperature(view: View) -> Finding | None:
    """ℓ that is a function of log p and the state's entropy, as temperature on one side makes it.

    To first order ℓ = (1 − 1/T)·(log p + H). Where no entropy is known, ℓ is fitted on log p alone.
    """
    if view.total == 0 or len(view.log_ratio) < _FEWEST_TOKENS:
        return None
    whole = np.ones(len(view.log_ratio), dtype=np.bool_)
    steep, explains = _fit(view, whole)
    moved = chance.mean(view.units, _influence(view))
    fits = _FITS if view.entropy is not None else _FITS_ALONE
    likely = explains >= fits and _LEAST_SLOPE <= abs(steep) <= _MOST_SLOPE
    if not (likely and moved.beyond_zero and _keeps_order(view) and _in_the_bulk(view, steep, explains)):
        return None
    follows = _follows_policy(view, steep)
    heat = _heat(view, follows > 0.5) if view.entropy is None else Heat(1 / (1 - steep), math.nan, math.nan)
    of = "log p alone" if view.entropy is None else "log p and the entropy"
    figures = {"temperature": heat.value, "explained": explains, "slope": 1 - 1 / heat.value}
    if math.isfinite(heat.low):
        figures |= {"low": heat.low, "high": heat.high}
    if follows > 0.5:
        return Finding(
            name=CauseName.RAW_LOG_PROBS,
            confidence=explains * follows,
            explains=explains,
            evidence=(
                f"ℓ is that of a temperature of {heat} on one side (R² {explains:.2f} on {of}), but the tokens "
                "follow the policy's log-probs, not those that the actor reports."
            ),
            remedy=f"{_PROCESSED}.",
            figures=figures,
        )
    return Finding(
        name=CauseName.TEMPERATURE,
        confidence=explains * (1 - follows),
        explains=explains,
        evidence=(
            f"ℓ changes with log p by {1 - 1 / heat.value:+.3f} a nat within a state, and {of} "
            f"explain{'s' * (view.entropy is None)} {explains:.0%} of it: the actor samples at {heat} times the "
            "policy's temperature."
        ),
        remedy="Score the policy at the temperature that the actor samples at, or sample at temperature 1.",
        figures=figures,
    )


def raw(view: View) -> Finding | None:
    """Tokens that do not follow the log-probs that the actor reports.

    A token's log-prob less its expectation has mean 0 where tokens follow the law; the mean over the variance is
    1/T − 1. Where the actor's own law is unknown, the policy's stands for it, and only what ℓ cannot explain counts.
    """
    own = view.actor_deviation
    deviation = view.deviation if own is None else own
    if deviation is None:
        return None
    found = chance.mean(view.units, deviation)
    square = float(np.mean(deviation**2))
    if not found.beyond_zero or square == 0:
        return None
    by_mismatch = 0.0 if own is not None else 3 * float(np.sqrt(view.total * square))
    sharper = found.value / square
    if abs(sharper) < _LEAST_SLOPE or abs(found.value) < by_mismatch:
        return None
    return Finding(
        name=CauseName.RAW_LOG_PROBS,
        confidence=found.certainty,
        explains=0.0,
        evidence=(
            f"The sampled tokens are {'likelier' if sharper > 0 else 'less likely'} than the reported law says, by "
            f"{abs(found.value):.3f} nats a token: they come from a {'sharper' if sharper > 0 else 'flatter'} law."
        ),
        remedy=f"{_PROCESSED}, and score the policy likewise.",
        figures={"excess_log_prob": found.value, "low": found.low, "high": found.high},
    )


def _fit(view: View, here: Flags) -> tuple[float, float]:
    """1 − 1/T to first order, and the share of Σℓ² that a temperature explains, of some tokens, (N,)."""
    ratio, policy, entropy = view.log_ratio[here], view.policy[here], view.entropy
    total = float(np.mean(ratio**2))
    if total == 0:
        return 0.0, 0.0
    if entropy is None:
        columns = np.stack([np.ones_like(ratio), policy, policy**2, np.exp(policy)], axis=1)
        left = ratio - columns @ np.linalg.lstsq(columns, ratio, rcond=None)[0]
        return slope(ratio, policy), 1 - float(np.mean(left**2)) / total
    fits = []
    for log_probs in (policy, view.actor[here]):
        deviation = log_probs + entropy[here]
        square = float(deviation @ deviation)
        steep = float(deviation @ ratio) / square if square > 0 else 0.0
        fits.append((steep, 1 - float(np.mean((ratio - steep * deviation) ** 2)) / total))
    return fits[0][0], max(fits[0][1], fits[1][1])


def _in_the_bulk(view: View, steep: float, explains: float) -> bool:
    """True if the fit holds without the most influential tokens: a temperature is in all of them."""
    influence = np.abs(_influence(view))
    bulk, fits = _fit(view, influence <= np.quantile(influence, 1 - _FEW))
    return bulk / steep >= _BULK_SLOPE and fits >= _FITS_BULK * explains


def _heat(view: View, follows: bool) -> Heat:
    """T where no entropy is known, with its 95 % interval.

    Within a state ℓ = (1 − 1/T)·log p + c, where c is the state's own. Under the actor's law E(e^ℓ − 1) = 0 in each
    state, so that c drops out of E (e^ℓ − 1)·ℓ = (1 − 1/T)·E (e^ℓ − 1)·log p. A least-squares slope is too small, as
    c falls where log p tends to be low. Where tokens follow the policy, 1 − e^−ℓ stands for e^ℓ − 1.
    """
    pull = -np.expm1(-view.log_ratio) if follows else np.expm1(view.log_ratio)
    above, below = (view.units.mean(pull * each) for each in (view.actor, view.policy))
    # 1 − (1 − 1/T) is the ratio of the same product with log q to that with log p.
    with np.errstate(divide="ignore", invalid="ignore"):
        value, without = below.value / above.value, below.without / above.without
    if not (value > 0 and math.isfinite(value)):
        return Heat(1 / (1 - slope(view.log_ratio, view.policy)), math.nan, math.nan)
    _, low, high = intervals.of_left_out(value, without, intervals.LOG)
    return Heat(value, low, high)


def _keeps_order(view: View) -> bool:
    """False where the top-k show that the sides often disagree on the likeliest token."""
    actor, policy = view.table.actor_topk, view.table.policy_topk
    if actor is None or policy is None:
        return True
    known = ~np.isnan(np.asarray(actor.log_probs)[:, 0] + np.asarray(policy.log_probs)[:, 0])
    same = np.asarray(actor.ids)[:, 0] == np.asarray(policy.ids)[:, 0]
    return not known.any() or float(same[known].mean()) >= _SAME_FIRST


def _influence(view: View) -> Floats:
    """Values of tokens whose mean is the covariance of ℓ with log p, or with its deviation."""
    entropy = view.entropy
    if entropy is not None:
        return np.asarray(view.log_ratio * (view.policy + entropy))
    centred = view.policy - view.policy.mean()
    return np.asarray(view.log_ratio * centred)


def _follows_policy(view: View, steep: float) -> float:
    """The certainty, 0 to 1, that tokens follow the policy's log-probs and not the actor's; ½ where nothing tells.

    Under the actor's law E ℓ = −½ E ℓ² to second order, under the policy's +½ E ℓ²; the deviation from the policy's
    expected log-prob has mean −steep · its mean square in the first case and 0 in the second.
    """
    half = 0.5 * view.total
    sides = [(chance.mean(view.units, view.log_ratio), -half, half)]
    deviation = view.deviation
    if deviation is not None:
        sides.append((chance.mean(view.units, deviation), -steep * float(np.mean(deviation**2)), 0.0))
    log_odds = 0.0
    for found, actor, policy in sides:
        if found.error > 0:
            log_odds += ((found.value - actor) ** 2 - (found.value - policy) ** 2) / (2 * found.error**2)
    return float(1 / (1 + np.exp(-np.clip(log_odds, -50, 50))))
