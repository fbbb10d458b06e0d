"""A command that simulates the coverage of every interval that the product prints.

    python -m tests.interval_coverage [--repeats N] [--seed S] [FIGURE...]

Each row is a figure in one world with a number of clusters (sequences, seeds, states or replicates). The data are
drawn N times, the product's own function makes the interval of "95 %" from them, and the row shows the share of the
intervals that hold the true value, among those that are printed; `marked` is the share that the product marks as
unresolved instead. True values follow from the laws of the worlds in closed form, or by quadrature over 400,000
points, and from no function of the product. `length` and `95 %` are the median and the 95th percentile of the lengths
of the printed intervals. A row is `ok` where its coverage lies in 0.92 to 0.98, `unresolved` where at least nine of ten
are marked, and `OUTSIDE` otherwise; where the simulation itself is too short to tell, its coverage lying outside by
less than two of its standard errors, the row is `ok?`. FIGURE is the beginning of a name.

The worlds of rollouts: the lengths of sequences are uniform from 4 to 12, and ℓ = log p − log q at a token is
Gaussian with mean −(s² + τ²)/2, a part that its whole sequence shares (standard deviation s) and one of its own (τ).
mild has s = 0.05 and τ = 0.1, strong 0.1 and 0.5, and sequence, in which whole sequences differ, 0.5 and 0.3.
The worlds of shares of tokens: the lengths of sequences are uniform from 20 to 200. In `icc ρ` the chance of a token to
count is a beta law's over sequences, with that correlation of two tokens of a sequence (1: sequences count as a whole);
in `part` a few sequences have three tokens in ten that count, and others none; in `long` whole sequences count, with a
chance that grows with their length. Beyond a half it is the tokens that do not count that are so. Such intervals may
cover more than they say where the share is nearly 0 or 1, and a row is `ok` from 0.94 on. `share of values` is the mean
of min(1, r).

A figure whose name ends in ± is printed with its standard error, which promises no coverage. Its row shows that of
Student's interval, and is `short` or `long` where this lies outside; neither counts against the product.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import softmax

from analysis import bootstrap
from jackpot_sim import estimators
from jackpot_sim.core import intervals
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.measure.figures import figures
from jackpot_sim.diagnose.measure.full_laws import FullLaws
from jackpot_sim.diagnose.measure.metrics import Metrics
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.estimators.mismatch import summaries
from jackpot_sim.estimators.mismatch.overlap_estimates import LawBlock, Way, compare
from jackpot_sim.estimators.states import sampled
from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.sweep.subjects.rollouts import _reward
from jackpot_sim.training.summary import mean_and_error
from paper_figures import fits
from paper_figures.training import statistics

Interval: TypeAlias = tuple[str, float, float, float]
"""A figure, the ends of its interval (nan: marked), and the true value."""
Study: TypeAlias = Callable[[np.random.Generator], Iterator[Interval]]

LOWEST, HIGHEST = 0.92, 0.98
MARKED = 0.9
"""The share of marked intervals from which on a row counts as unresolved."""
LEVEL = 0.95
LOWEST_OF_SHARES = 0.94


@dataclass(frozen=True)
class World:
    """The laws of log-ratios: standard deviations of the part that a sequence shares, and of each token's own."""

    shared: float
    own: float


WORLDS = {"mild": World(0.05, 0.1), "strong": World(0.1, 0.5), "sequence": World(0.5, 0.3)}
CLUSTERS = (8, 12, 16, 64, 256)
LENGTHS = np.arange(4, 13)
NORMAL = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)


# ---------------------------------------------------------------------------------------------- rollouts


def rollouts(world: World, clusters: int, generator: np.random.Generator) -> tuple[ScoredRollouts, dict[str, Floats]]:
    """Rollouts and figures of their states: a KL x²/2 and an overlap 2Φ(−|x|/2), x Gaussian like ℓ; and min(1, r)."""
    length = generator.choice(LENGTHS, size=clusters)
    shape = (clusters, LENGTHS[-1])
    mask = np.arange(LENGTHS[-1]) < length[:, None]

    def gaussian() -> Floats:
        return world.shared * generator.normal(size=(clusters, 1)) + world.own * generator.normal(size=shape)

    actor = -0.1 - generator.exponential(size=shape)
    policy = actor + gaussian() - _variance(world) / 2
    x = gaussian()
    states = {"kl_policy_actor": x**2 / 2, "overlap": 2 * stats.norm.cdf(-np.abs(x) / 2)}
    states["overlap_sampled"] = np.exp(np.minimum(policy - actor, 0))
    return ScoredRollouts(policy, actor, mask, np.zeros(clusters), np.arange(clusters)), states


def _variance(world: World) -> float:
    return world.shared**2 + world.own**2


def truths(world: World) -> dict[str, float]:
    """The true values of the figures of `summaries`, those of the sample itself left out."""
    v = _variance(world)
    l, x = math.sqrt(v) * NORMAL - v / 2, math.sqrt(v) * NORMAL
    gap, n = np.mean(np.abs(np.expm1(l))), LENGTHS
    # log-weights of sequences: mean −nv/2 and variance n²s² + nτ²
    spread = n**2 * world.shared**2 + n * world.own**2
    first, second = np.mean(np.exp(-n * v / 2 + spread / 2)), np.mean(np.exp(-n * v + 2 * spread))
    mean_q, mean_q2 = math.exp(-0.1) / 2, math.exp(-0.2) / 3
    covariance, p_variance = mean_q2 - mean_q**2, mean_q2 * math.exp(v) - mean_q**2
    states = {"kl_policy_actor": x**2 / 2, "overlap": 2 * stats.norm.cdf(-np.abs(x) / 2)}
    states["overlap_sampled"] = np.exp(np.minimum(l, 0))
    return {
        "k1": v / 2,
        "k2": (v + v**2 / 4) / 2,
        "k3": v / 2,
        "abs_log_ratio_median": float(np.quantile(np.abs(l), 0.5)),
        "abs_log_ratio_p99": float(np.quantile(np.abs(l), 0.99)),
        "chi_square_token": math.expm1(v),
        "chi_square_token_trimmed": _trimmed(np.expm1(2 * l)),
        "chi_square_sequence": float(second) - 1,
        "chi_square_geometric": float(np.mean(np.expm1(-v + 2 * spread / n**2))),
        "ess_fraction_token": math.exp(-v),
        "ess_fraction_sequence": float(first**2 / second),
        "log_perplexity_gap": v / 2,
        "perplexity_ratio": float(np.mean(np.exp(v / 2 + spread / (2 * n**2)))),
        "probability_gap": float(mean_q * gap),
        "probability_correlation": covariance / math.sqrt(p_variance * (mean_q2 - mean_q**2)),
        **{name: float(np.mean(values)) for name, values in states.items()},
        **{f"{name}_median": float(np.quantile(values, 0.5)) for name, values in states.items()},
        **{f"{name}_trimmed": _trimmed(values) for name, values in states.items()},
    }


def _trimmed(values: Floats) -> float:
    cut = len(values) // 100
    return float(np.sort(values)[cut:-cut].mean())


def diagnostics(world: World, clusters: int) -> Study:
    """The intervals of the table of diagnostics."""
    true = truths(world)

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        scored, states = rollouts(world, clusters, generator)
        for found in summaries.summaries(scored, states):
            if found.figure in true:
                yield found.figure, found.low, found.high, true[found.figure]

    return study


# ------------------------------------------------------------------------------- other clusters and printed ±


def plus_minus(figure: str, value: float, error: float, freedom: int, true: float) -> Interval:
    """The interval of what is printed as value ± error."""
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * error
    return figure, value - half, value + half, true


def rewards(mean: float, count: int) -> Study:
    """The mean reward of rollouts of four fixed prompts, of which some are easier; a reward is 0 or 1."""
    chance = mean * np.array([0.5, 0.8, 1.2, 1.5])
    prompt = np.arange(count) % 4

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        found = _reward("actor", (generator.random(count) < chance[prompt]).astype(np.float64), prompt)
        yield "reward", found.low, found.high, mean

    return study


def analysed(seeds: int, states: int) -> Study:
    """The figures of the analysis: seeds differ by their acceptance rate; states by all, errors skewed."""
    names = [field.name for field in dataclasses.fields(StateStatistics)]
    true = {"acceptance_rate": 0.5, "kl_effective": 0.3, "variance": 2.0}
    if seeds == 1:  # the mean of a ratio over few states is not the ratio of means
        true["bias"] = 0.5

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        rows, table = [], []
        for seed in range(seeds):
            shift = 0.05 * generator.normal() if seeds > 1 else 0.0
            key = {"cell": str(seed), "estimator": "e", "denominator": "proposed"}
            columns = {name: np.ones(states) for name in names} | {
                "acceptance_rate": 0.5 + shift + 0.1 * generator.normal(size=states),
                "error_sq": generator.exponential(0.25, size=states),
                "kl_effective": generator.gamma(1, 0.3, size=states),
                "estimate_sq": np.zeros(states),
                "second_moment": generator.gamma(0.5, 4, size=states),
            }
            rows.append(key | {"environment": "e", "method": "exact", "n_samples": 10})
            table.append(pd.DataFrame(key | {"kl_policy_actor": np.ones(states)} | columns))
        options = bootstrap.Options(replicates=2)
        (found,) = bootstrap.environments(pd.DataFrame(rows), pd.concat(table), options)
        for name, value in true.items():
            interval = bootstrap.interval(found.candidates[0].draws(name), options)
            yield f"analysis {name}", interval.low, interval.high, value

    return study


def trained(seeds: int) -> Study:
    """The mean over seeds of trained runs, with its interval and as ±, and the geometric mean."""

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        values = pd.Series(generator.beta(6, 4, size=seeds), index=pd.Index(range(seeds), name="seed"))
        found = statistics.interval(values)
        yield "training difference", found.low, found.high, 0.6
        mean, error = (float(each) for each in mean_and_error(1000 * values).split(" ± "))
        yield plus_minus("training mean ±", mean, error, seeds - 1, 600)
        logs = fits.geometric(np.exp(values))
        yield plus_minus("geometric mean ×/", logs.value, logs.se, seeds - 1, 0.6)

    return study


def fitted(clusters: int) -> Study:
    """Exponents of a power law whose clusters share an error, and a ratio of sums of skewed sizes."""

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        label = np.repeat(np.arange(clusters), 3)
        length = np.repeat(generator.integers(2, 9, size=clusters), 3).astype(np.float64)
        length[:3] = 2 if length[0] != 2 else 8  # lengths that differ at all
        distance = np.tile([0.01, 0.03, 0.1], clusters)
        noise = np.repeat(0.3 * generator.normal(size=clusters), 3) + 0.1 * generator.normal(size=3 * clusters)
        found = fits.power_law(length**1.5 * distance**0.8 * np.exp(noise), {"T": length, "distance": distance}, label)
        for name, true in (("T", 1.5), ("distance", 0.8)):
            yield plus_minus(f"exponent of {name} ±", *found[name], clusters - 1, true)
        size = generator.gamma(4, size=clusters)
        share = fits.jackknifed(size * generator.beta(6, 4, size=clusters), size)
        yield plus_minus("pooled share ±", *share, clusters - 1, 0.6)

    return study


def overlaps(clusters: int) -> Study:
    """Estimates of Z from a rollout's top-4 of 32 tokens; clusters are drawn from 400 with eight states each."""
    pool, vocab, k = np.random.default_rng(0), 32, 4
    heat = pool.uniform(0.5, 3, size=(400, 1, 1))
    logits = heat * pool.normal(size=(400, 8, vocab))
    q, p = (softmax(each, axis=-1) for each in (logits, logits + 0.3 * pool.normal(size=logits.shape)))
    z, top = np.minimum(q, p).sum(axis=-1), np.argsort(-q, axis=-1)[..., :k]
    smaller, inside = np.minimum(q, p), np.zeros(q.shape, dtype=bool)
    np.put_along_axis(inside, top, True, axis=-1)
    low = np.where(inside, smaller, 0).sum(axis=-1)
    outside = np.minimum(np.where(inside, q, 1.0).min(axis=-1, keepdims=True), p)
    high = low + np.minimum(1 - np.where(inside, q, 0).sum(axis=-1), np.where(inside, 0, outside).sum(axis=-1))
    estimates = {
        Way.SERVER_TOPK: low,
        Way.SERVER_BIAS_CORRECTED: low * z.mean() / low.mean(),
        Way.SERVER_CALIBRATED: low + (high - low) * (z - low).mean() / (high - low).mean(),
    }

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        drawn = generator.integers(400, size=clusters)
        of_p, of_q = (each[drawn].reshape(-1, vocab) for each in (p, q))
        token = np.argmax(np.cumsum(of_q, axis=-1) > generator.random((len(of_q), 1)), axis=-1)
        cluster = np.repeat(np.arange(clusters), 8)
        block = LawBlock(np.log(of_p), np.log(of_q), token, generator.random(len(token)), cluster)
        for found in compare([block], [k]):
            if found.way in estimates:
                estimate = estimates[found.way]
                kept = float(estimate.mean() / z.mean())
                yield plus_minus(f"{found.way} kept ±", found.kept, found.kept_se, clusters - 1, kept)
                error = float((np.abs(estimate - z) / z).mean())
                yield plus_minus(f"{found.way} error ±", found.error, found.error_se, clusters - 1, error)

    return study


def updates(replicates: int) -> Study:
    """The figures of simulated updates with importance weights, at three states with eight tokens."""
    pool = np.random.default_rng(0)
    logits = pool.normal(size=(3, 8))
    p, q = (softmax(each, axis=-1) for each in (logits, logits + 0.3 * pool.normal(size=logits.shape)))
    advantage = pool.normal(size=(3, 8))
    score = np.eye(8) - p[:, None, :]  # ∇ log p in logits, (states, tokens, logits)
    proposal = np.sum((advantage[..., None] * score) ** 2, axis=-1)
    signal = np.sum(np.sum((p * advantage)[..., None] * score, axis=1) ** 2)
    noise, own = (float(np.sum(law * proposal) - signal) for law in (p**2 / q, p))
    true = {"gain": 1.0, "bias_sq": 0.0, "variance": noise / own, "mse": noise / float(signal) / 16}

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        laws = (np.log(p), np.log(q), advantage)
        found = sampled.estimate(*laws, estimators.get("is"), generator, n_samples=16, replicates=replicates)
        for name, value in true.items():
            yield plus_minus(f"updates {name} ±", found.value[name], found.standard_error[name], replicates - 1, value)

    return study


def diagnosed(world: World, sequences: int) -> Study:
    """The figures of a dump with more sequences than `GROUPS`, of which intervals leave a group of sequences out."""
    true = truths(world)

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        batch = Batch(table_of(rollouts(world, sequences, generator)[0]), 0)
        metrics, sample, laws = Metrics(), Sample(), FullLaws()
        for each in (metrics, sample, laws):
            each.add(batch)
        for name, found in figures(metrics, laws, sample).items():
            if name in true:
                low, high = (math.nan if end is None else end for end in (found.low, found.high))
                yield f"dump {name}", low, high, true[name]

    return study


def table_of(scored: ScoredRollouts) -> TokenTable:
    """The same sequences as a dump holds them."""
    lengths = scored.mask.sum(axis=1)
    names = tuple(map(str, range(len(scored))))
    return TokenTable(
        names,
        names,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.nonzero(scored.mask)[1],
        np.ones(lengths.sum(), dtype=bool),
        actor_log_probs=scored.actor_log_probs[scored.mask],
        policy_log_probs=scored.policy_log_probs[scored.mask],
    )


def ratios(world: World, clusters: int) -> Study:
    """A mean over tokens as the tables of a sweep print it, ± its standard error by the delta method."""
    true = truths(world)

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        scored, states = rollouts(world, clusters, generator)
        for name, values in states.items():
            found = ratio_of_means(np.where(scored.mask, values, 0).sum(axis=1), scored.lengths)
            yield plus_minus(f"{name} ±", *found, clusters - 1, true[name])

    return study


# ------------------------------------------------------------------------------------------- shares of tokens


SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
TOKENS = np.arange(20, 201)
PART = 0.3


def _in_proportion(rare: float, length: Ints, generator: np.random.Generator) -> Floats:
    chance = rare * length * TOKENS.mean() / np.mean(TOKENS.astype(np.float64) ** 2)
    return (generator.random(len(length)) < chance).astype(np.float64)


def _alike(correlation: float) -> Callable[[float, Ints, np.random.Generator], Floats]:
    def chances(rare: float, length: Ints, generator: np.random.Generator) -> Floats:
        if correlation == 0:
            return np.full(len(length), rare)
        if correlation == 1:
            return (generator.random(len(length)) < rare).astype(np.float64)
        total = 1 / correlation - 1
        return generator.beta(rare * total, (1 - rare) * total, size=len(length))

    return chances


KINDS: dict[str, Callable[[float, Ints, np.random.Generator], Floats]] = {
    **{f"icc {each:g}": _alike(each) for each in (0.0, 0.02, 0.1, 0.5, 1.0)},
    "part": lambda rare, length, generator: PART * (generator.random(len(length)) < rare / PART),
    "long": _in_proportion,
}
"""The chance of the tokens of each sequence to be those that are rarer, from their share and the lengths."""


def shares(kind: str, share: float, sequences: int) -> Study:
    """A share of tokens, from the groups of sequences that a dump keeps."""

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        length = generator.choice(TOKENS, size=sequences)
        rare = generator.binomial(length, KINDS[kind](min(share, 1 - share), length, generator))
        group = np.arange(sequences) % GROUPS
        sums, sizes = (np.bincount(group, each) for each in (rare if share <= 0.5 else length - rare, length))
        found = intervals.of_share(sums, sizes, sequences)
        yield f"share {share:g}", found.low, found.high, share

    return study


def values(world: World, sequences: int) -> Study:
    """The mean acceptance of rejection at λ = 1: values in [0, 1] and not only 0 and 1."""
    v = _variance(world)
    true = float(np.mean(np.minimum(np.exp(math.sqrt(v) * NORMAL - v / 2), 1.0)))

    def study(generator: np.random.Generator) -> Iterator[Interval]:
        scored, _ = rollouts(world, sequences, generator)
        accept = np.where(scored.mask, np.minimum(np.exp(scored.log_ratio), 1.0), 0.0)
        found = intervals.of_share(accept.sum(axis=1), scored.lengths.astype(np.float64))
        yield "share of values", found.low, found.high, true

    return study


# ------------------------------------------------------------------------------------------------- the table


@dataclass
class Row:
    """The counts of one figure in one world."""

    printed: int = 0
    covered: int = 0
    marked: int = 0
    lengths: list[float] = dataclasses.field(default_factory=list)

    def add(self, low: float, high: float, true: float) -> None:
        """Counts one interval."""
        if math.isnan(low) or math.isnan(high):
            self.marked += 1
        else:
            self.printed += 1
            self.covered += low <= true <= high
            self.lengths.append(high - low)

    @property
    def coverage(self) -> float:
        """The share of the printed intervals that hold the true value."""
        return self.covered / self.printed if self.printed else math.nan

    @property
    def share_marked(self) -> float:
        """The share of all intervals that are marked as unresolved."""
        return self.marked / (self.marked + self.printed)

    def judged(self, figure: str) -> str:
        """The verdict of the table on the row of a figure; see the module on ±."""
        if figure.startswith("share "):
            return self._verdict(LOWEST_OF_SHARES, 1.0)
        if self.verdict == "OUTSIDE" and figure.endswith("±"):
            return "short" if self.coverage < LOWEST else "long"
        return self.verdict

    @property
    def verdict(self) -> str:
        """The verdict on the row of an interval."""
        return self._verdict(LOWEST, HIGHEST)

    def _verdict(self, lowest: float, highest: float) -> str:
        if self.share_marked >= MARKED:
            return "unresolved"
        if lowest <= self.coverage <= highest:
            return "ok"
        bound = lowest if self.coverage < lowest else highest
        error = math.sqrt(bound * (1 - bound) / self.printed)
        return "ok?" if abs(self.coverage - bound) < 2 * error else "OUTSIDE"


def studies() -> Iterator[tuple[str, int, Study, float]]:
    """World, clusters, study, and the share of the repeats that it takes: large ones take fewer."""
    for name, world in WORLDS.items():
        for clusters in CLUSTERS:
            yield name, clusters, diagnostics(world, clusters), 1.0
            yield name, clusters, ratios(world, clusters), 1.0
        for sequences, share in ((600, 0.3), (2048, 0.3), (16384, 0.1)):
            yield name, sequences, diagnosed(world, sequences), share
        for clusters in CLUSTERS:
            yield name, clusters, values(world, clusters), 1.0
    for kind, share in itertools.product(KINDS, SHARES):
        if kind != "part" or min(share, 1 - share) < PART:
            for sequences in (16, 64, 256, 600):
                yield kind, sequences, shares(kind, share, sequences), 1.0
    for count in (8, 16, 64, 256):
        yield "half right", count, rewards(0.5, count), 1.0
        yield "rare", count, rewards(0.1, count), 1.0
    for states in (8, 16, 64, 256):
        yield "one seed", states, analysed(1, states), 0.3
    for seeds in (2, 3, 5, 12):
        yield "seeds", seeds, analysed(seeds, 30), 0.3
        yield "seeds", seeds, trained(seeds), 1.0
    for clusters in (8, 16, 64):
        yield "models", clusters, fitted(clusters), 1.0
        yield "top-k", clusters, overlaps(clusters), 0.5
        yield "updates", clusters, updates(clusters), 0.5


def simulate(study: Study, repeats: int, seed: int, wanted: Sequence[str] = ()) -> dict[str, Row]:
    """The rows of a study by figure."""
    rows: dict[str, Row] = {}
    for repeat in range(repeats):
        for figure, low, high, true in study(np.random.default_rng([seed, repeat])):
            if not wanted or figure.startswith(tuple(wanted)):
                rows.setdefault(figure, Row()).add(low, high, true)
        if not rows:  # a study draws the same figures each time
            break
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a row is outside."""
    parser = argparse.ArgumentParser(prog="python -m tests.interval_coverage", description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="the beginning of a figure's name (default: all)")
    parser.add_argument("--repeats", type=int, default=1000, help="how often each is drawn (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    options = parser.parse_args(argv)
    began, verdicts = time.monotonic(), []
    print(f"{'figure':32}{'world':10}{'clusters':>8}{'coverage':>10}{'marked':>8}{'length':>9}{'95 %':>9}")
    for world, clusters, study, share in studies():
        repeats = max(1, round(options.repeats * share))
        for figure, row in simulate(study, repeats, options.seed, options.figures).items():
            verdicts.append(row.judged(figure))
            middle, long = np.quantile(row.lengths or [math.nan], [0.5, 0.95])
            shown = f"{row.coverage:10.3f}{row.share_marked:8.2f}{middle:9.2g}{long:9.2g}  {verdicts[-1]}"
            print(f"{figure:32}{world:10}{clusters:8}{shown}", flush=True)
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))
    print(f"{len(verdicts)} rows: {counts}; {time.monotonic() - began:.0f} s")
    return int("OUTSIDE" in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
