"""The figures of the mismatch over all tokens, each with an interval over sequences.

Sums are held by group of sequences, of which intervals leave one out at a time; up to `GROUPS` sequences each is a
group, and the figures and intervals are those of `summaries`, but that heavy-tailed weights of groups with many units
lose their interval sooner (`exponentials.STRICTER`). Quantiles are those of the sample, and shares of tokens have the
interval of `intervals.of_share`.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.intervals import Interval, Scale
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.measure.exponentials import Exponentials
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch import clusters
from jackpot_sim.estimators.mismatch.summaries import SAMPLED

FAR = 1.0
"""The |ℓ|, nats, from which on a token disagrees strongly: its ratio is above 2.7 or below 0.37."""

OWN = {
    "abs_log_ratio_mean": "mean over tokens of |ℓ|, nats",
    "far_share": "share of tokens with |ℓ| > 1 nat, in [0, 1]",
    "confident_disagreement": "share of tokens to which the actor gave ≥ 0.5 and the policy > 2 nats less, in [0, 1]",
    "ratio_mean": "mean over tokens of r: 1 but for chance where all that the policy writes can be drawn",
    "ratio_mean_sequence": "mean over sequences of e^S: 1 but for chance, if few sequences do not carry it",
    "ratio_error": "mean over tokens of e^|ℓ| (NeMo-RL token_mult_prob_error)",
}
"""Descriptions of the figures that a diagnosis adds to those of `summaries`."""

MEANINGS = SAMPLED | OWN
"""Descriptions of the figures of `Metrics`, in their order."""

_OF_TOKENS: dict[str, Scale | None] = {
    "k1": intervals.LINEAR,
    "k2": intervals.LOG,
    "k3": intervals.LOG,
    "probability_gap": intervals.LOG,
    "abs_log_ratio_mean": intervals.LOG,
    "ratio_error": intervals.LOG,
    "far_share": None,
    "confident_disagreement": None,
}
"""The figures that are means over tokens, with the scale of their intervals; None for shares."""
_OF_SEQUENCES: dict[str, Scale | None] = {"log_perplexity_gap": intervals.LINEAR, "perplexity_ratio": intervals.LOG}


class Metrics:
    """An accumulator of the figures that sums give; memory does not grow with the dump."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.tokens, self.sequences = Exponentials(), Exponentials()
        self._geometric = Exponentials()
        self._of_tokens = np.zeros((GROUPS, len(_OF_TOKENS)))
        self._of_sequences = np.zeros((GROUPS, len(_OF_SEQUENCES)))
        self._moments = np.zeros((GROUPS, 5))

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        log_ratio, size, mean = batch.log_ratio, batch.size, batch.total / batch.table.lengths
        self.largest = max(self.largest, float(size.max()))
        self.tokens.add(log_ratio, batch.token_sums)
        for exponentials, values in ((self.sequences, batch.total), (self._geometric, mean)):
            exponentials.add(values, lambda *columns: batch.by_group(np.stack(columns, axis=-1)))
        with overflow_to_inf(), np.errstate(over="ignore"):
            k1, k2 = (np.asarray(of(log_ratio)) for of in (log_ratios.k1, log_ratios.k2))
            rest = (size, np.exp(size), (size > FAR).astype(np.float64), batch.confident)
            self._of_tokens += batch.token_sums(k1, k2, batch.k3, batch.probability_gap, *rest)
            self._of_sequences += batch.by_group(np.stack([-mean, np.exp(-mean)], axis=-1))
        # Less 1, p and q keep their digits where most are near 1.
        p, q = np.expm1(batch.policy_log_probs), np.expm1(batch.actor_log_probs)
        self._moments += batch.token_sums(p, q, p * p, q * q, p * q)

    def merge(self, later: Self) -> None:
        """Takes in the sums of the batches that come next."""
        self.largest = max(self.largest, later.largest)
        self.tokens.merge(later.tokens)
        self.sequences.merge(later.sequences)
        self._geometric.merge(later._geometric)
        self._of_tokens += later._of_tokens
        self._of_sequences += later._of_sequences
        self._moments += later._moments

    def figures(self) -> dict[str, Figure]:
        """The figures by name: those of `MEANINGS` that need no sample; empty where there is no token."""
        if not self.tokens.units.any():
            return {}
        with overflow_to_inf(), np.errstate(all="ignore"):
            found = self._found()
        return {name: figure(name, *found[name], MEANINGS[name]) for name in MEANINGS if name in found}

    def _found(self) -> dict[str, tuple[float, Interval | None]]:
        live = self.tokens.units > 0
        sequences = float(self.sequences.units.sum())
        found: dict[str, tuple[float, Interval | None]] = {"abs_log_ratio_max": (self.largest, None)}
        for names, sums, units in (
            (_OF_TOKENS, self._of_tokens, self.tokens.units),
            (_OF_SEQUENCES, self._of_sequences, self.sequences.units),
        ):
            found |= {
                name: _mean(sums[live, column], units[live], scale, sequences)
                for column, (name, scale) in enumerate(names.items())
            }
        correlation = clusters.correlation_of(self.tokens.units[live], *self._moments[live].T)
        found["probability_correlation"] = (
            correlation.value,
            intervals.of_left_out(*correlation, intervals.FISHER),
        )
        found["chi_square_token"] = self.tokens.mean_excess(2)
        found["chi_square_sequence"] = self.sequences.mean_excess(2)
        found["chi_square_geometric"] = self._geometric.mean_excess(2)
        found["chi_square_largest_share"] = (self.tokens.largest_share(), None)
        found["ess_fraction_token"] = self.tokens.effective_share()
        found["ess_fraction_sequence"] = self.sequences.effective_share()
        found["ratio_mean"] = _more_by_one(*self.tokens.mean_excess(1))
        found["ratio_mean_sequence"] = _more_by_one(*self.sequences.mean_excess(1))
        return found


def figure(name: str, value: float, interval: Interval | None, meaning: str) -> Figure:
    """A figure of the report, without what is not finite."""
    _, low, high = interval or (math.nan, math.nan, math.nan)
    if not math.isfinite(value):
        return Figure(name=name, value=None, meaning=meaning)
    ends = {name: end if math.isfinite(end) else None for name, end in (("low", low), ("high", high))}
    return Figure(name=name, value=value, **ends, meaning=meaning)


def mean_figure(name: str, sums: Floats, sizes: Floats, scale: Scale | None, meaning: str) -> Figure:
    """A mean over tokens, from their sum and number in each group, as a figure of the report; no scale: a share."""
    return figure(name, *_mean(sums, sizes, scale), meaning)


def _mean(sums: Floats, sizes: Floats, scale: Scale | None, sequences: float | None = None) -> tuple[float, Interval]:
    mean = clusters.mean_of(sums, sizes)
    if scale is None:
        return mean.value, intervals.of_share(sums, sizes, sequences)
    return mean.value, intervals.of_left_out(*mean, scale)


def _more_by_one(value: float, interval: Interval) -> tuple[float, Interval]:
    return value + 1, Interval(interval.se, interval.low + 1, interval.high + 1)
