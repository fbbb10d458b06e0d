"""Faults of the sampler: temperature or truncation on one side, and log-probs of a law that was not sampled from."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Floats
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
_SAME_FIRST = 0.9
"""The least share of states whose likeliest token both sides agree on: a temperature keeps the order."""
_FEWEST_TOKENS = 64
_PROCESSED = (
    "Make the engine return the log-probs of the law that it samples from, after temperature and truncation "
    "(processed, not raw)"
)


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
    steep, explains = _fit(view)
    moved = chance.mean(view.units, _influence(view))
    fits = _FITS if view.entropy is not None else _FITS_ALONE
    if (
        explains < fits
        or not _LEAST_SLOPE <= abs(steep) <= _MOST_SLOPE
        or not moved.beyond_zero
        or not _keeps_order(view)
    ):
        return None
    heat, follows = 1 / (1 - steep), _follows_policy(view, steep)
    about = "log p alone" if view.entropy is None else "log p and the entropy"
    figures = {"temperature": heat, "explained": explains, "slope": steep}
    if follows > 0.5:
        return Finding(
            name=CauseName.RAW_LOG_PROBS,
            confidence=explains * follows,
            explains=explains,
            evidence=(
                f"ℓ is that of a temperature of {heat:.3g} on one side (R² {explains:.2f} on {about}), but the tokens "
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
            f"ℓ changes with log p by {steep:+.3f} a nat, and {about} explain {explains:.0%} of it: the actor samples "
            f"at {heat:.3g} times the policy's temperature."
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


def _fit(view: View) -> tuple[float, float]:
    """1 − 1/T, and the share of Σℓ² that a temperature explains."""
    ratio, entropy = view.log_ratio, view.entropy
    if entropy is None:
        columns = np.stack([np.ones_like(ratio), view.policy, view.policy**2, np.exp(view.policy)], axis=1)
        left = ratio - columns @ np.linalg.lstsq(columns, ratio, rcond=None)[0]
        return slope(ratio, view.policy), 1 - float(np.mean(left**2)) / view.total
    fits = []
    for log_probs in (view.policy, view.actor):
        deviation = log_probs + entropy
        square = float(deviation @ deviation)
        steep = float(deviation @ ratio) / square if square > 0 else 0.0
        fits.append((steep, 1 - float(np.mean((ratio - steep * deviation) ** 2)) / view.total))
    return fits[0][0], max(fits[0][1], fits[1][1])


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
