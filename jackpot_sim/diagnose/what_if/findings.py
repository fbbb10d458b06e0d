"""The figures of a correction on a dump, from its sums.

All are expectations over the masks that a correction draws, never draws. Over the N tokens that the actor wrote, with
accept probability a, weight w, advantage A and r = p/q:

kept               Σ a / N; and `sequences_kept` is the mean over sequences of 1 − Π (1 − a).
signal             Σ a|A| / Σ |A|; `kept_positive` is Σ awA / Σ A over A > 0, and `kept_negative` over A < 0.
ess                (Σ aw)² / (N · Σ aw²).
weight_…           the mean, 99th percentile and maximum of w over the tokens that are kept, each with its a.
effective_kl       KL(p‖q_w) of the law q_w ∝ q·aw that the weighted update samples, of visits to (prefix, token):
                   Σ r̄ log(r̄/v̄), where r̄ and v̄ are r and aw divided by their sums. It is infinite, and null in the
                   report, where a token that the policy may write is always dropped. `effective_kl_reverse` is the
                   other direction, KL(q_w‖p) = Σ v̄ log(v̄/r̄), which masks leave finite.
gradient_scale     Σ aw / (N·D), with D = 1, the share kept, or the mean of aw over the correction's units: tokens, or
                   sequences, of which each counts with its mean.
by_length          the share of tokens kept in each quarter of the sequences by length.
random_control     rejection at random with the same share kept, of tokens, or of sequences for their corrections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.intervals import LOGIT, Interval
from jackpot_sim.diagnose.results import Effect, Figure
from jackpot_sim.diagnose.what_if.candidates import Candidate
from jackpot_sim.diagnose.what_if.scales import WEIGHTS
from jackpot_sim.diagnose.what_if.tally import Tally, Totals
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.corrections.correction import Level
from jackpot_sim.estimators.mismatch import clusters
from jackpot_sim.estimators.mismatch.summaries import WIDEST_SHARE, resolved
from jackpot_sim.estimators.statistics import divisor

TAIL = 0.99
"""The level of the quantile of weights."""
QUARTERS = 4


def refusal(candidate: Candidate, reason: str) -> Effect:
    """The effect of a candidate that could not be tried."""
    return Effect(name=candidate.name, label=candidate.label, refused=reason)


def effect(candidate: Candidate, correction: Correction, tally: Tally, totals: Totals) -> Effect:
    """The effect of a correction; a dump with at least one token."""
    with np.errstate(all="ignore"):
        kept, weight = float(tally.of_groups[:, 0].sum()), float(tally.of_groups[:, 2].sum())
        share, forward, backward = kept / totals.tokens, *_effective_kl(tally, totals, weight)
        units = _mean_of_units(correction.unit, weight, tally, totals)
        has = totals.has_advantages
        positive, negative = (
            _finite(np.divide(part, whole)) if has else None
            for part, whole in ((tally.positive, totals.positive), (tally.negative, totals.negative))
        )
        largest = tally.largest
        return Effect(
            name=candidate.name,
            label=candidate.label,
            kept=_kept(correction, tally, totals),
            kept_positive=positive,
            kept_negative=negative,
            signal=_signal(correction, tally, totals),
            sequences_kept=_finite(tally.sequences_kept / totals.sequences),
            ess=_ess(tally, totals),
            weight_mean=_finite(np.divide(weight, kept)),
            weight_p99=_finite(min(WEIGHTS.quantile(tally.mass_by_weight, TAIL), largest)),
            weight_max=_finite(largest),
            effective_kl=_finite(forward),
            effective_kl_reverse=_finite(backward),
            gradient_scale=_scales(weight / totals.tokens, share, units),
            by_length=_by_length(tally, totals),
            random_control=_control(share, correction.unit, totals),
        )


def _kept(correction: Correction, tally: Tally, totals: Totals) -> Figure:
    share = _share(correction, tally.of_groups[:, 0], totals.of_groups[:, 0], totals)
    return _with(*share, "kept", "share of tokens kept, in [0, 1]")


def _signal(correction: Correction, tally: Tally, totals: Totals) -> Figure:
    if not totals.has_advantages:
        share = _kept(correction, tally, totals)
        meaning = "share of tokens kept, as advantages are lacking, in [0, 1]"
        return share.model_copy(update={"name": "signal", "meaning": meaning})
    share_of_gain = _share(correction, tally.of_groups[:, 1], totals.of_groups[:, 1], totals)
    return _with(*share_of_gain, "signal", "share of the sum of |A| that is kept, in [0, 1]")


def _share(correction: Correction, sums: Floats, sizes: Floats, totals: Totals) -> tuple[Interval, float]:
    """The interval of the share Σ sums / Σ sizes, from groups, and the share; 1 for sure if none can be rejected."""
    live = totals.of_groups[:, 0] > 0
    share = clusters.mean_of(sums[live], sizes[live]).value
    if not correction.rejects and math.isfinite(share):
        return Interval(0.0, share, share), share
    return intervals.of_share(sums[live], sizes[live], totals.sequences), share


def _ess(tally: Tally, totals: Totals) -> Figure:
    live = totals.of_groups[:, 0] > 0
    weight, square, tokens = tally.of_groups[live, 2], tally.of_groups[live, 3], totals.of_groups[live, 0]
    share = clusters.effective_share_of(weight, square, tokens)
    interval = intervals.of_left_out(*share, LOGIT)
    some = square > 0
    interval = resolved(interval, (square / tokens)[some], WIDEST_SHARE)
    return _with(interval, share.value, "ess", "effective sample size as a share of the tokens, in [0, 1]")


def _with(interval: Interval, value: float, name: str, meaning: str) -> Figure:
    low, high = _finite(interval.low), _finite(interval.high)
    return Figure(name=name, value=_finite(value), low=low, high=high, meaning=meaning)


def _effective_kl(tally: Tally, totals: Totals, weight: float) -> tuple[float, float]:
    """KL(p‖q_w) and KL(q_w‖p), nats; rounding does not leave them below 0."""
    apart = _log(np.divide(weight, totals.ratio))
    forward = math.inf if tally.lost else (totals.own - tally.cross) / totals.ratio + apart
    backward = np.divide(tally.own - tally.towards, weight) - apart
    return max(forward, 0.0), max(float(backward), 0.0)


def _mean_of_units(unit: Level, weight: float, tally: Tally, totals: Totals) -> float:
    if unit is Level.TOKEN:
        return weight / totals.tokens
    return tally.of_units / totals.sequences


def _scales(weight: float, share: float, units: float) -> dict[str, float | None]:
    rate, mean = np.asarray([share]), np.asarray([units])
    divisors = {each: float(divisor(each, rate, mean)[0]) for each in Denominator}
    return {str(each): _finite(np.divide(weight, d)) for each, d in divisors.items()}


def _by_length(tally: Tally, totals: Totals) -> list[float | None]:
    """The share kept in each quarter; a bin of lengths that two quarters share is divided among them."""
    kept, tokens = (
        np.diff(_cumulated_at(totals.sequences_by_length, each))
        for each in (tally.kept_by_length, totals.tokens_by_length)
    )
    return [_finite(np.divide(*pair)) for pair in zip(kept, tokens, strict=True)]


def _cumulated_at(sequences: Floats, values: Floats) -> Floats:
    """Σ of values, by bin of lengths, over the shortest 0, 1, … of `QUARTERS` of the sequences, (QUARTERS + 1,)."""
    upto = np.concatenate([[0.0], np.cumsum(sequences)])
    at = np.linspace(0.0, upto[-1], QUARTERS + 1)
    return np.asarray(np.interp(at, upto, np.concatenate([[0.0], np.cumsum(values)])))


def _control(share: float, unit: Level, totals: Totals) -> dict[str, float | None]:
    """The figures of rejection at random, exact but for the lengths within a bin, which take their mean."""
    some = totals.sequences_by_length > 0
    sequences = totals.sequences_by_length[some]
    lengths = totals.tokens_by_length[some] / sequences
    any_kept = float(sequences @ (1 - (1 - share) ** lengths)) / totals.sequences
    untouched = totals.own / totals.ratio + _log(totals.tokens / totals.ratio)
    figures: Mapping[str, float] = {
        "kept": share,
        "signal": share,
        **({"kept_positive": share, "kept_negative": share} if totals.has_advantages else {}),
        "sequences_kept": share if unit is Level.SEQUENCE else any_kept,
        "ess": share,
        "effective_kl": max(untouched, 0.0) if share > 0 else math.inf,
        **{f"gradient_scale_{name}": 1.0 for name in Denominator},
        f"gradient_scale_{Denominator.PROPOSED}": share,
    }
    return {name: _finite(value) for name, value in figures.items()}


def _log(value: float | np.float64) -> float:
    return float(np.log(value))


def _finite(value: float | np.float64) -> float | None:
    return float(value) if math.isfinite(value) else None
