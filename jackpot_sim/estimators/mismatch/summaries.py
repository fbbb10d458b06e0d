"""Summaries of the distance between two policies on rollouts of real models, with intervals.

The tokens of a sequence are not independent: where two policies disagree once, they tend to disagree again.
So a standard error that counts tokens is too small. Here whole sequences (clusters) are left out one at a time, and
a mean over tokens is the ratio of two sums over clusters.

Figures that square an importance ratio depend on a handful of tokens. Beside each such mean there are robust
companions, and figures of how few tokens carry it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.checks import check_floats, check_integers, check_numpy, check_shape
from jackpot_sim.core.intervals import Interval, Scale
from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.core.numerics import exp_difference
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators.mismatch.clusters import Units, relative

TRIMMED = 0.01
"""The share of the tokens that a trimmed mean leaves out at either end."""
WIDEST_MEAN = 1.6
"""The largest standard deviation over clusters of log mean r² for which the mean of r² has an interval."""
WIDEST_SHARE = 1.2
"""The same for effective shares, whose own variance is smaller and whose tail is the same."""
FEWEST_WEIGHTS = 12
"""The fewest clusters for which either has an interval."""

STATES = {
    "kl_policy_actor": "KL(p‖q) at the states that the actor visits, nats",
    "kl_actor_policy": "KL(q‖p) at the states that the actor visits, nats",
    "total_variation": "total variation of p and q at the states that the actor visits, in [0, 1]",
    "chi_square": "χ²(p‖q) = Σ p²/q − 1 at the states that the actor visits",
    "overlap": "Z(λ) = Σ min(q, p/λ), the acceptance rate of OBRS, in [0, 1]",
    "overlap_low": "lower end of the bracket of Z(λ), exact from the actor's top-k and the policy's law, in [0, 1]",
    "overlap_high": "upper end of that bracket, in [0, 1]",
    "overlap_sampled": "min(1, r/λ) of the token drawn: a sample of Z(λ), in [0, 1]",
}
"""Descriptions of the usual figures of each state, by name; other names may be given."""

SAMPLED = {
    "k1": "mean over tokens of log q − log p, nats: an unbiased estimate of KL(q‖p) (verl kl)",
    "k2": "mean over tokens of ℓ²/2, nats²: the KL where ℓ is small",
    "k3": "mean over tokens of r − 1 − ℓ, nats: unbiased like k1, with less variance (verl k3_kl)",
    "abs_log_ratio_median": "median of |ℓ| over tokens, nats",
    "abs_log_ratio_p99": "99th percentile of |ℓ| over tokens, nats",
    "abs_log_ratio_max": "largest |ℓ| of any token, nats; a maximum has no interval",
    "chi_square_token": "mean over tokens of r², less 1 (verl chi2_token)",
    "chi_square_token_trimmed": "chi_square_token without the largest and the smallest 1 % of the ratios",
    "chi_square_largest_share": "share of Σ r² at the token with the largest ratio, in [0, 1]",
    "chi_square_half_tokens": "number of tokens, largest ratio first, that carry half of Σ r², count",
    "chi_square_sequence": "mean over sequences of e^{2S}, less 1, S = Σ ℓ (verl chi2_seq)",
    "chi_square_geometric": "mean over sequences of e^{2G}, less 1, G = mean ℓ (ms-swift's sequences)",
    "ess_fraction_token": "effective share of the tokens under weights r, in [0, 1]",
    "ess_fraction_sequence": "effective share of the sequences under weights e^S, in [0, 1]",
    "log_perplexity_gap": "mean over sequences of their mean log q − log p, nats (verl log_ppl_diff)",
    "perplexity_ratio": "mean over sequences of e^−G, the policy's perplexity over the actor's (verl ppl_ratio)",
    "probability_gap": "mean over tokens of |p − q| of the token drawn (verl: below 0.005 good, above 0.01 bad)",
    "probability_correlation": "Pearson correlation over tokens of p and q of the token drawn, in [−1, 1]",
}
"""Descriptions of the summaries of ℓ = log p − log q at the drawn tokens; r = e^ℓ is policy over actor."""

OF_THE_SAMPLE = ("abs_log_ratio_max", "chi_square_largest_share", "chi_square_half_tokens")
"""The figures that describe the tokens drawn and estimate nothing: more of them would change what they measure."""

_OF_STATES = {
    "": "mean over tokens of ",
    "_median": "median over tokens of ",
    "_trimmed": "mean, without the largest and the smallest 1 % of the tokens, of ",
}


@dataclass(frozen=True)
class Summary:
    """A figure with its uncertainty over clusters.

    An infinite value has infinite ends and a standard error of nan, as more sequences would not make it finite.
    Figures `OF_THE_SAMPLE` have neither a standard error nor an interval.

    Attributes:
        figure: a name that `descriptions` explains.
        value: the figure of the rollouts themselves.
        se: its standard error, by the jackknife over clusters.
        low: the lower end of the 95 % interval; nan where the figure is unresolved.
        high: its upper end.
        clusters: the number of clusters.
    """

    figure: str
    value: float
    se: float
    low: float
    high: float
    clusters: int

    @property
    def unresolved(self) -> bool:
        """True where the clusters are too few, or their weights too heavy-tailed, for any interval that covers."""
        return math.isnan(self.low) and self.figure not in OF_THE_SAMPLE


def descriptions(states: Iterable[str] = tuple(STATES)) -> dict[str, str]:
    """A description of every figure of `summaries`, with its unit, in the same order.

    >>> descriptions(["overlap"])["overlap_median"]
    'median over tokens of Z(λ) = Σ min(q, p/λ), the acceptance rate of OBRS, in [0, 1]'
    """
    return {
        name + suffix: how + STATES.get(name, name) for name in states for suffix, how in _OF_STATES.items()
    } | SAMPLED


def summaries(rollouts: ScoredRollouts, states: Mapping[str, Floats], *, cluster: Ints | None = None) -> list[Summary]:
    """The figures of `descriptions(states)`, each with its uncertainty.

    A single state at which KL(p‖q) is infinite makes the mean infinite, however rarely the actor visits it. Tokens
    that were never drawn leave no trace: where rare tokens carry a figure, its interval is too short.

    Args:
        rollouts: sequences that the actor wrote.
        states: exact figures of the visited states, by name, each of shape (n, length), inf allowed; at padding
            they may hold anything.
        cluster: the cluster of each sequence, shape (n,); None: each sequence is its own. Give the prompts if they
            are themselves a sample and several sequences follow each.

    Raises:
        ValueError: a figure of states has a wrong shape, holds NaN or −inf at a token, or has the name of a sampled
            figure; or there are fewer than 2 clusters.
    """
    cluster = np.arange(len(rollouts)) if cluster is None else cluster
    check_numpy(cluster=cluster)
    check_shape(check_integers(cluster, "cluster"), (len(rollouts),), "cluster", "one number per sequence")
    place = np.unique(cluster, return_inverse=True)[1]
    count = int(place.max()) + 1
    if count < 2:
        raise ValueError("errors over clusters need at least 2 of them: give more sequences, or other clusters")
    with overflow_to_inf(), np.errstate(invalid="ignore", divide="ignore"):
        found = dict(_figures(rollouts, states, place, count))
    return [_summary(name, *found[name], count) for name in descriptions(states)]


def _figures(
    rollouts: ScoredRollouts, states: Mapping[str, Floats], place: Ints, count: int
) -> Iterator[tuple[str, tuple[float, Interval | None]]]:
    """The figures by name, each with its interval, or None where it describes the sample itself."""
    live = rollouts.mask
    tokens = Units(np.broadcast_to(place[:, None], live.shape)[live], count)
    sequences = Units(place, count)
    log_ratio, log_p, log_q = (
        each[live] for each in (rollouts.log_ratio, rollouts.policy_log_probs, rollouts.actor_log_probs)
    )
    p, q = np.exp(log_p), np.exp(log_q)
    for name, table in states.items():
        values = _checked(name, table, rollouts)
        scale = intervals.LOG if np.all(values >= 0) else intervals.LINEAR
        yield name, _mean(tokens, values, scale)
        yield f"{name}_median", tokens.quantile(values, 0.5)
        yield f"{name}_trimmed", _trimmed(tokens, values, scale)
    yield "k1", _mean(tokens, log_ratios.k1(log_ratio), intervals.LINEAR)
    yield "k2", _mean(tokens, log_ratios.k2(log_ratio), intervals.LOG)
    yield "k3", _mean(tokens, log_ratios.k3(log_ratio), intervals.LOG)
    yield "probability_gap", _mean(tokens, np.abs(np.asarray(exp_difference(log_p, log_q))), intervals.LOG)
    correlation = tokens.correlation(p, q)
    yield "probability_correlation", (correlation.value, intervals.of_left_out(*correlation, intervals.FISHER))
    size = np.abs(log_ratio)
    yield "abs_log_ratio_median", tokens.quantile(size, 0.5)
    yield "abs_log_ratio_p99", tokens.quantile(size, 0.99)
    yield "abs_log_ratio_max", (float(size.max()), None)
    total, mean = (
        np.asarray(log_ratios.aggregate(rollouts.log_ratio, live, how)[:, 0]) for how in (Aggregate.SUM, Aggregate.MEAN)
    )
    yield "log_perplexity_gap", _mean(sequences, log_ratios.k1(mean), intervals.LINEAR)
    yield "perplexity_ratio", _mean(sequences, np.exp(-mean), intervals.LOG)
    yield "chi_square_token", _chi_square(tokens, log_ratio)
    yield "chi_square_token_trimmed", _trimmed(tokens, log_ratios.chi_square_term(log_ratio), intervals.LOG1P)
    yield "chi_square_sequence", _chi_square(sequences, total)
    yield "chi_square_geometric", _chi_square(sequences, mean)
    yield "ess_fraction_token", _effective_share(tokens, log_ratio)
    yield "ess_fraction_sequence", _effective_share(sequences, total)
    yield from _concentration(log_ratio)


def _concentration(log_ratio: Floats) -> Iterator[tuple[str, tuple[float, None]]]:
    """The share of Σ r² in the largest token, and the number of tokens that carry half of it."""
    square = np.exp(2 * relative(log_ratio))
    total = square.sum()
    yield "chi_square_largest_share", (float(square.max() / total) if total > 0 else math.nan, None)
    yield "chi_square_half_tokens", (half_tokens(log_ratio), None)


def half_tokens(log_ratio: Floats) -> float:
    """The number of tokens, largest ratio first, that carry half of Σ r² over ℓ, (n,); nan where all r are 0."""
    upto = np.cumsum(np.sort(np.exp(2 * relative(log_ratio)))[::-1])
    # Rounding must not add a token to the count.
    return 1 + float(np.searchsorted(upto, upto[-1] / 2 * (1 - 1e-9))) if upto[-1] > 0 else math.nan


def _mean(units: Units, values: Array, scale: Scale) -> tuple[float, Interval]:
    mean = units.mean(np.asarray(values))
    return mean.value, intervals.of_left_out(*mean, scale)


def _trimmed(units: Units, values: Floats, scale: Scale) -> tuple[float, Interval]:
    trimmed = units.trimmed_mean(values, TRIMMED)
    return trimmed.value, intervals.of_left_out(*trimmed, scale)


def _chi_square(units: Units, log_ratio: Floats) -> tuple[float, Interval]:
    value, interval = _mean(units, log_ratios.chi_square_term(log_ratio), intervals.LOG1P)
    return value, resolved(interval, _mean_square(units, log_ratio), WIDEST_MEAN)


def _effective_share(units: Units, log_weight: Floats) -> tuple[float, Interval]:
    share = units.effective_share(relative(log_weight))
    interval = intervals.of_left_out(*share, intervals.LOGIT)
    return share.value, resolved(interval, _mean_square(units, log_weight), WIDEST_SHARE)


def _mean_square(units: Units, log_weight: Floats) -> Floats:
    """The mean of w² of each cluster, (clusters,), relative to the largest w."""
    return units.summed(np.exp(2 * relative(log_weight))) / units.summed(None)


def resolved(interval: Interval, means: Floats, widest: float) -> Interval:
    """The interval; ends of nan for few clusters, or where the logs of their means spread more than `widest`.

    The draws cannot show how heavy the tail of exponentials is, but the spread of their exponents can.

    Args:
        interval: the interval of a figure of the mean of exponentials.
        means: that mean in each cluster, (clusters,), in any unit.
        widest: the largest standard deviation of the logs.
    """
    if len(means) >= FEWEST_WEIGHTS and np.std(np.log(means), ddof=1) <= widest:
        return interval
    return Interval(interval.se, math.nan, math.nan)


def _checked(name: str, table: Floats, rollouts: ScoredRollouts) -> Floats:
    """A figure of states at the tokens, shape (tokens,)."""
    if name in SAMPLED:
        raise ValueError(f"states: {name!r} is the name of a sampled figure: give it another")
    check_floats(table, rollouts.mask.shape, f"states[{name!r}]", "one number per token")
    values = table[rollouts.mask].astype(np.float64)
    if not np.all(values > -math.inf):
        raise ValueError(f"states[{name!r}] holds NaN or -inf at a token")
    return values


def _summary(name: str, value: float, interval: Interval | None, count: int) -> Summary:
    if interval is None:
        return Summary(name, value, math.nan, math.nan, math.nan, count)
    if math.isinf(value):
        return Summary(name, value, math.nan, value, value, count)
    return Summary(name, value, *interval, count)
