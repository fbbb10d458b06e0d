"""Summaries of the distance between two policies on rollouts of real models, with intervals.

The tokens of a sequence are not independent: where two policies disagree once, they tend to disagree again.
So a standard error that counts tokens is too small. Here whole sequences (clusters) are resampled with
replacement, and a mean over tokens is the ratio of two sums over clusters.

Figures that square an importance ratio depend on a handful of tokens. Beside each such mean there are robust
companions, and figures of how few tokens carry it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core import log_ratios
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.core.checks import check_floats, check_integers, check_numpy, check_shape
from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.core.numerics import exp_difference
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators.mismatch.bootstrap import Correlation, Group, Largest, Means, Ordered, Weights, relative

LEVEL = 0.95
"""The coverage of the intervals."""
TRIMMED = 0.01
"""The share of the tokens that a trimmed mean leaves out at either end."""

STATES = {
    "kl_policy_actor": "KL(p‖q) at the states that the actor visits, nats",
    "kl_actor_policy": "KL(q‖p) at the states that the actor visits, nats",
    "total_variation": "total variation of p and q at the states that the actor visits, in [0, 1]",
    "chi_square": "χ²(p‖q) = Σ p²/q − 1 at the states that the actor visits",
    "overlap": "Z(λ) = Σ min(q, p/λ), the acceptance rate of OBRS, in [0, 1]",
}
"""Descriptions of the usual figures that are exact at each state, by name; other names may be given."""

SAMPLED = {
    "k1": "mean over tokens of log q − log p, nats: an unbiased estimate of KL(q‖p) (verl kl)",
    "k2": "mean over tokens of ℓ²/2, nats²: the KL where ℓ is small",
    "k3": "mean over tokens of r − 1 − ℓ, nats: unbiased like k1, with less variance (verl k3_kl)",
    "abs_log_ratio_median": "median of |ℓ| over tokens, nats",
    "abs_log_ratio_p99": "99th percentile of |ℓ| over tokens, nats",
    "abs_log_ratio_max": "largest |ℓ| of any token, nats; a maximum has no bootstrap interval",
    "chi_square_token": "mean over tokens of r², less 1 (verl chi2_token)",
    "chi_square_token_trimmed": "chi_square_token without the largest and the smallest 1 % of the ratios",
    "chi_square_largest_share": "share of Σ r² at the token with the largest ratio, in [0, 1]",
    "chi_square_half_tokens": "number of tokens, largest ratio first, that carry half of Σ r², count",
    "chi_square_sequence": "mean over sequences of e^{2S}, less 1, S = Σ ℓ (verl chi2_seq)",
    "chi_square_geometric": "mean over sequences of e^{2G}, less 1, G = mean ℓ (ms-swift's sequences)",
    "ess_fraction_token": "effective share of the tokens under weights r, in [0, 1]",
    "ess_fraction_sequence": "effective share of the sequences under weights e^S, in [0, 1]",
    "log_perplexity_gap": "mean over sequences of their mean log q − log p, nats (verl log_ppl_diff)",
    "probability_gap": "mean over tokens of |p − q| of the token drawn (verl: below 0.005 good, above 0.01 bad)",
    "probability_correlation": "Pearson correlation over tokens of p and q of the token drawn, in [−1, 1]",
}
"""Descriptions of the summaries of ℓ = log p − log q at the drawn tokens; r = e^ℓ is policy over actor."""

_OF_STATES = {
    "": "mean over tokens of ",
    "_median": "median over tokens of ",
    "_trimmed": "mean, without the largest and the smallest 1 % of the tokens, of ",
}


@dataclass(frozen=True)
class Summary:
    """A figure with its uncertainty, from a bootstrap over clusters.

    An infinite value has infinite ends and a standard error of nan, as more sequences would not make it finite. The
    interval is nan where a replicate is nan.

    Attributes:
        figure: a name that `descriptions` explains.
        value: the figure of the rollouts themselves.
        se: the standard deviation of the replicates.
        low: the lower end of the 95 % percentile interval.
        high: its upper end.
        clusters: the number of clusters.
    """

    figure: str
    value: float
    se: float
    low: float
    high: float
    clusters: int


def descriptions(states: Iterable[str] = tuple(STATES)) -> dict[str, str]:
    """A description of every figure of `summaries`, with its unit, in the same order.

    >>> descriptions(["overlap"])["overlap_median"]
    'median over tokens of Z(λ) = Σ min(q, p/λ), the acceptance rate of OBRS, in [0, 1]'
    """
    return {
        name + suffix: how + STATES.get(name, name) for name in states for suffix, how in _OF_STATES.items()
    } | SAMPLED


def summaries(
    rollouts: ScoredRollouts,
    states: Mapping[str, Floats],
    generator: np.random.Generator,
    *,
    replicates: int = 1000,
    cluster: Ints | None = None,
) -> list[Summary]:
    """The figures of `descriptions(states)`, each with its uncertainty.

    A single state at which KL(p‖q) is infinite makes the mean infinite, however rarely the actor visits it. No
    resample shows tokens that were never drawn: where a few tokens carry a figure, its interval is too short.

    Args:
        rollouts: sequences that the actor wrote.
        states: exact figures of the visited states, by name, each of shape (n, length), inf allowed; at padding
            they may hold anything.
        generator: the source of the bootstrap's draws.
        replicates: the number of resamples, at least 2.
        cluster: the cluster of each sequence, shape (n,); None: each sequence is its own. Give the prompts if they
            are themselves a sample and several sequences follow each.

    Raises:
        ValueError: a figure of states has a wrong shape, holds NaN or −inf at a token, or has the name of a sampled
            figure; there are fewer than 2 clusters or replicates.
    """
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    cluster = np.arange(len(rollouts)) if cluster is None else cluster
    check_numpy(cluster=cluster)
    check_shape(check_integers(cluster, "cluster"), (len(rollouts),), "cluster", "one number per sequence")
    place = np.unique(cluster, return_inverse=True)[1]
    count = int(place.max()) + 1
    if count < 2:
        raise ValueError("a bootstrap over clusters needs at least 2 of them: give more sequences, or other clusters")
    with overflow_to_inf(), np.errstate(invalid="ignore", divide="ignore"):
        groups = list(_groups(rollouts, states, place, count))
        value = _evaluate(groups, np.ones((1, count)))
        resamples = _resampled(generator, replicates, count, int(rollouts.mask.sum()))
        drawn = [_evaluate(groups, times) for times in resamples]
    resampled = {name: np.concatenate([each[name] for each in drawn]) for name in value}
    return [_summary(name, float(value[name][0]), resampled[name], count) for name in descriptions(states)]


def _groups(rollouts: ScoredRollouts, states: Mapping[str, Floats], place: Ints, count: int) -> Iterator[Group]:
    """Groups of figures that share sums over clusters."""
    live, sequences = rollouts.mask, place
    tokens = np.broadcast_to(place[:, None], live.shape)[live]
    log_ratio, log_p, log_q = (
        each[live] for each in (rollouts.log_ratio, rollouts.policy_log_probs, rollouts.actor_log_probs)
    )
    p, q = np.exp(log_p), np.exp(log_q)
    of_tokens = {
        "k1": log_ratios.k1(log_ratio),
        "k2": log_ratios.k2(log_ratio),
        "k3": log_ratios.k3(log_ratio),
        "chi_square_token": log_ratios.chi_square_term(log_ratio),
        "probability_gap": np.abs(np.asarray(exp_difference(log_p, log_q))),
    }
    for name, table in states.items():
        values = _checked(name, table, rollouts)
        of_tokens[name] = values
        yield Ordered(values, tokens, count, quantiles={f"{name}_median": 0.5}, trimmed={f"{name}_trimmed": TRIMMED})
    yield Means(of_tokens, tokens, count)
    total, mean = (
        np.asarray(log_ratios.aggregate(rollouts.log_ratio, live, how)[:, 0]) for how in (Aggregate.SUM, Aggregate.MEAN)
    )
    of_sequences = {
        "chi_square_sequence": log_ratios.chi_square_term(total),
        "chi_square_geometric": log_ratios.chi_square_term(mean),
        "log_perplexity_gap": np.asarray(log_ratios.k1(mean)),
    }
    yield Means(of_sequences, sequences, count)
    size = np.abs(log_ratio)
    yield Ordered(size, tokens, count, quantiles={"abs_log_ratio_median": 0.5, "abs_log_ratio_p99": 0.99})
    yield Largest("abs_log_ratio_max", size, tokens, count)
    yield Ordered(log_ratios.chi_square_term(log_ratio), tokens, count, trimmed={"chi_square_token_trimmed": TRIMMED})
    peak = relative(log_ratio)
    yield Ordered(-peak, tokens, count, measure=np.exp(2 * peak), counted={"chi_square_half_tokens": 0.5})
    yield Weights(log_ratio, tokens, count, ess="ess_fraction_token", largest="chi_square_largest_share")
    yield Weights(total, sequences, count, ess="ess_fraction_sequence")
    yield Correlation("probability_correlation", p, q, tokens, count)


def _checked(name: str, table: Floats, rollouts: ScoredRollouts) -> Floats:
    """A figure of states at the tokens, shape (tokens,)."""
    if name in SAMPLED:
        raise ValueError(f"states: {name!r} is the name of a sampled figure: give it another")
    check_floats(table, rollouts.mask.shape, f"states[{name!r}]", "one number per token")
    values = table[rollouts.mask].astype(np.float64)
    if not np.all(values > -math.inf):
        raise ValueError(f"states[{name!r}] holds NaN or -inf at a token")
    return values


_BLOCK = 1 << 22
"""The number of elements of the largest array of a block of replicates."""


def _resampled(generator: np.random.Generator, replicates: int, count: int, tokens: int) -> Iterator[Floats]:
    """The multiplicity of each cluster, a block of replicates at a time: (k, clusters)."""
    step = max(1, _BLOCK // max(count, Ordered.width(tokens, count), Ordered.BINS))
    even = np.full(count, 1 / count)
    for start in range(0, replicates, step):
        yield generator.multinomial(count, even, size=min(step, replicates - start)).astype(np.float64)


def _evaluate(groups: Iterable[Group], times: Floats) -> dict[str, Floats]:
    return {name: values for group in groups for name, values in group(times).items()}


def _summary(name: str, value: float, replicates: Floats, count: int) -> Summary:
    if name == "abs_log_ratio_max":
        return Summary(name, value, math.nan, math.nan, math.nan, count)
    if math.isinf(value):
        return Summary(name, value, math.nan, value, value, count)
    finite = bool(np.isfinite(replicates).all())
    tail = (1 - LEVEL) / 2
    low, high = (math.nan, math.nan) if np.isnan(replicates).any() else _ends(replicates, tail)
    with overflow_to_inf():  # squares of finite figures may overflow
        error = float(np.std(replicates, ddof=1)) if finite else math.nan
    return Summary(name, value, error, low, high, count)


def _ends(replicates: Floats, tail: float) -> tuple[float, float]:
    # Without interpolation, which fails between a number and inf.
    low, high = np.quantile(replicates, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
