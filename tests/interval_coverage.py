"""A command that simulates the coverage of every interval that the product prints.

    python -m tests.interval_coverage [--repeats N] [--seed S] [FIGURE...]

Each row is a figure in one world with a number of clusters (sequences, seeds, states or replicates). The data are
drawn N times, the product's own function makes the interval of "95 %" from them, and the row shows the share of the
intervals that hold the true value, among those that are printed; `marked` is the share that the product marks as
unresolved instead. True values follow from the laws of the worlds in closed form, or by quadrature over 400,000
points, and from no function of the product. A row is `ok` where its coverage lies in 0.92 to 0.98, `unresolved` where
at least nine of ten are marked, and `OUTSIDE` otherwise; where the simulation itself is too short to tell, its
coverage lying outside by less than two of its standard errors, the row is `ok?`. FIGURE is the beginning of a name.

The worlds of rollouts: the lengths of sequences are uniform from 4 to 12, and ℓ = log p − log q at a token is
Gaussian with mean −(s² + τ²)/2, a part that its whole sequence shares (standard deviation s) and one of its own (τ).
mild has s = 0.05 and τ = 0.1, strong 0.1 and 0.5, and sequence, in which whole sequences differ, 0.5 and 0.3.
Where a figure is printed as ± its standard error, the interval is that of Student's t.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.estimators.mismatch import summaries

Interval: TypeAlias = tuple[str, float, float, float]
"""A figure, the ends of its interval (nan: marked), and the true value."""
Study: TypeAlias = Callable[[np.random.Generator], Iterator[Interval]]

LOWEST, HIGHEST = 0.92, 0.98
MARKED = 0.9
"""The share of marked intervals from which on a row counts as unresolved."""
LEVEL = 0.95


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
    """Rollouts and two figures of their states: a KL x²/2 and an overlap 2Φ(−|x|/2), x Gaussian like ℓ."""
    length = generator.choice(LENGTHS, size=clusters)
    shape = (clusters, LENGTHS[-1])
    mask = np.arange(LENGTHS[-1]) < length[:, None]

    def gaussian() -> Floats:
        return world.shared * generator.normal(size=(clusters, 1)) + world.own * generator.normal(size=shape)

    actor = -0.1 - generator.exponential(size=shape)
    policy = actor + gaussian() - _variance(world) / 2
    x = gaussian()
    states = {"kl_policy_actor": x**2 / 2, "overlap": 2 * stats.norm.cdf(-np.abs(x) / 2)}
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


# ------------------------------------------------------------------------------------------------- the table


@dataclass
class Row:
    """The counts of one figure in one world."""

    printed: int = 0
    covered: int = 0
    marked: int = 0

    def add(self, low: float, high: float, true: float) -> None:
        """Counts one interval."""
        if math.isnan(low) or math.isnan(high):
            self.marked += 1
        else:
            self.printed += 1
            self.covered += low <= true <= high

    @property
    def coverage(self) -> float:
        """The share of the printed intervals that hold the true value."""
        return self.covered / self.printed if self.printed else math.nan

    @property
    def share_marked(self) -> float:
        """The share of all intervals that are marked as unresolved."""
        return self.marked / (self.marked + self.printed)

    @property
    def verdict(self) -> str:
        """What the table says of the row."""
        if self.share_marked >= MARKED:
            return "unresolved"
        if LOWEST <= self.coverage <= HIGHEST:
            return "ok"
        bound = LOWEST if self.coverage < LOWEST else HIGHEST
        error = math.sqrt(bound * (1 - bound) / self.printed)
        return "ok?" if abs(self.coverage - bound) < 2 * error else "OUTSIDE"


def studies() -> Iterator[tuple[str, int, Study, float]]:
    """World, clusters, study, and the share of the repeats that it takes: large ones take fewer."""
    for name, world in WORLDS.items():
        for clusters in CLUSTERS:
            yield name, clusters, diagnostics(world, clusters), 1.0


def simulate(study: Study, repeats: int, seed: int, wanted: Sequence[str] = ()) -> dict[str, Row]:
    """The rows of a study by figure."""
    rows: dict[str, Row] = {}
    for repeat in range(repeats):
        for figure, low, high, true in study(np.random.default_rng([seed, repeat])):
            if not wanted or figure.startswith(tuple(wanted)):
                rows.setdefault(figure, Row()).add(low, high, true)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a row is outside."""
    parser = argparse.ArgumentParser(prog="python -m tests.interval_coverage", description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="the beginning of a figure's name (default: all)")
    parser.add_argument("--repeats", type=int, default=1000, help="how often each is drawn (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    options = parser.parse_args(argv)
    began, verdicts = time.monotonic(), []
    print(f"{'figure':32}{'world':10}{'clusters':>8}{'coverage':>10}{'marked':>8}")
    for world, clusters, study, share in studies():
        repeats = max(1, round(options.repeats * share))
        for figure, row in simulate(study, repeats, options.seed, options.figures).items():
            verdicts.append(row.verdict)
            shown = f"{row.coverage:10.3f}{row.share_marked:8.2f}  {row.verdict}"
            print(f"{figure:32}{world:10}{clusters:8}{shown}", flush=True)
    counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))
    print(f"{len(verdicts)} rows: {counts}; {time.monotonic() - began:.0f} s")
    return int("OUTSIDE" in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
