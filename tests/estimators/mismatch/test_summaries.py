"""Figures of scored rollouts: against plain formulas, and intervals that cover what they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jackpot_sim.core import intervals, log_ratios
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.sequence_divergences import ratio_of_means
from jackpot_sim.estimators import Aggregate
from jackpot_sim.estimators.mismatch import summaries

INF = math.inf


def rollouts(policy: Any, actor: Any, mask: Any = None) -> ScoredRollouts:
    policy, actor = np.asarray(policy, dtype=float), np.asarray(actor, dtype=float)
    mask = np.ones(policy.shape, dtype=bool) if mask is None else np.asarray(mask)
    return ScoredRollouts(policy, actor, mask, np.zeros(len(mask)), np.zeros(len(mask), dtype=np.int64))


def random_rollouts(n: int, length: int, seed: int = 0, scale: float = 0.3) -> ScoredRollouts:
    """With NaN at padding, which must not matter."""
    generator = np.random.default_rng(seed)
    actor = -generator.exponential(size=(n, length)) - 0.1
    policy = actor + scale * (generator.normal(size=(n, 1)) + generator.normal(size=(n, length)))
    mask = np.arange(length) < generator.integers(1, length + 1, size=n)[:, None]
    return rollouts(np.where(mask, policy, np.nan), np.where(mask, actor, np.nan), mask)


def found(each: ScoredRollouts, states: Any = None, **options: Any) -> dict[str, summaries.Summary]:
    return {s.figure: s for s in summaries.summaries(each, states or {}, **options)}


def plain(each: ScoredRollouts, states: dict[str, Any]) -> dict[str, float]:
    """The same figures as one would write them down."""
    mask, l = each.mask, each.log_ratio[each.mask]
    p, q = (np.exp(table[mask]) for table in (each.policy_log_probs, each.actor_log_probs))
    square = np.sort(np.exp(2 * l))[::-1]
    sums = [log_ratios.aggregate(each.log_ratio, mask, how)[:, 0] for how in (Aggregate.SUM, Aggregate.MEAN)]
    out = {
        "k1": np.mean(log_ratios.k1(l)),
        "k2": np.mean(log_ratios.k2(l)),
        "k3": np.mean(log_ratios.k3(l)),
        "abs_log_ratio_median": np.quantile(abs(l), 0.5, method="inverted_cdf"),
        "abs_log_ratio_p99": np.quantile(abs(l), 0.99, method="inverted_cdf"),
        "abs_log_ratio_max": abs(l).max(),
        "chi_square_token": log_ratios.chi_square(each.log_ratio, mask),
        "chi_square_token_trimmed": trimmed(np.exp(2 * l)) - 1,
        "chi_square_largest_share": square[0] / square.sum(),
        "chi_square_half_tokens": 1 + np.argmax(np.cumsum(square) >= square.sum() / 2),
        "chi_square_sequence": log_ratios.chi_square(each.log_ratio, mask, Aggregate.SUM),
        "chi_square_geometric": log_ratios.chi_square(each.log_ratio, mask, Aggregate.MEAN),
        "ess_fraction_token": log_ratios.effective_sample_size(np.exp(l)),
        "ess_fraction_sequence": log_ratios.effective_sample_size(np.exp(sums[0])),
        "log_perplexity_gap": -np.mean(sums[1]),
        "perplexity_ratio": np.mean(np.exp(-sums[1])),
        "probability_gap": np.mean(abs(p - q)),
        "probability_correlation": np.corrcoef(p, q)[0, 1],
    }
    for name, table in states.items():
        values = table[mask]
        out |= {name: values.mean(), f"{name}_trimmed": trimmed(values)}
        out[f"{name}_median"] = np.quantile(values, 0.5, method="inverted_cdf")
    return {name: float(value) for name, value in out.items()}


def trimmed(values: Any) -> float:
    """By the share of each value, in order, that lies between the two edges."""
    values = np.sort(values)
    edges = np.arange(len(values) + 1) / len(values)
    weight = np.diff(np.clip(edges, 0.01, 0.99))
    return float(weight @ values / weight.sum())


@pytest.mark.parametrize(("n", "length", "seed"), [(3, 1, 0), (7, 3, 1), (40, 30, 2), (100, 77, 3)])
def test_values_are_those_of_the_plain_formulas(n: int, length: int, seed: int) -> None:
    each = random_rollouts(n, length, seed)
    states = {name: np.random.default_rng(seed + 10).exponential(size=(n, length)) for name in ("overlap", "mine")}
    values = {name: summary.value for name, summary in found(each, states).items()}
    assert list(values) == list(summaries.descriptions(states))
    expected = plain(each, states)
    assert values == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_a_trimmed_mean_is_scipys_where_whole_tokens_are_cut() -> None:
    each = rollouts(np.zeros((20, 10)), np.zeros((20, 10)))
    values = np.random.default_rng(3).lognormal(size=(20, 10))
    summary = found(each, {"mine": values})["mine_trimmed"]
    assert summary.value == pytest.approx(stats.trim_mean(values.ravel(), 0.01), rel=1e-12)


def test_clusters_may_be_prompts() -> None:
    each, prompt = random_rollouts(12, 9, seed=4), np.array([5, 5, 5, 9, 9, 9, 2, 2, 2, 7, 7, 7])
    by_sequence, by_prompt = found(each), found(each, cluster=prompt)
    assert by_prompt["k1"].clusters == 4
    assert by_prompt["k1"].value == pytest.approx(by_sequence["k1"].value, rel=1e-12)
    per_prompt = np.array([log_ratios.k1(each.log_ratio[prompt == x]).sum() for x in (2, 5, 7, 9)])
    counts = np.array([each.lengths[prompt == x].sum() for x in (2, 5, 7, 9)])
    left_out = (per_prompt.sum() - per_prompt) / (counts.sum() - counts)
    assert by_prompt["k1"].se == pytest.approx(math.sqrt(3 * left_out.var()), rel=1e-12)
    assert all(each.unresolved for each in by_prompt.values() if each.figure not in summaries.OF_THE_SAMPLE)


# ------------------------------------------------------------------------------------ uncertainty


def correlated(n: int, length: int, generator: np.random.Generator) -> tuple[ScoredRollouts, Any]:
    """Tokens that share most of their variance with the rest of their sequence; the mean is 1."""
    share = generator.normal(size=(n, 1)) * math.sqrt(0.6) + generator.normal(size=(n, length)) * math.sqrt(0.4)
    mask = np.arange(length) < generator.integers(length // 2, length + 1, size=n)[:, None]
    flat = np.zeros((n, length))
    return rollouts(flat, flat, mask), 1 + share


def test_intervals_cover_where_those_of_independent_tokens_do_not() -> None:
    covered, naive, stated, spread = [], [], [], []
    for seed in range(200):
        generator = np.random.default_rng(1000 + seed)
        each, values = correlated(60, 20, generator)
        summary = {s.figure: s for s in summaries.summaries(each, {"mine": values})}["mine"]
        covered.append(summary.low <= 1 <= summary.high)
        tokens = values[each.mask]
        token_error = tokens.std(ddof=1) / math.sqrt(tokens.size)
        naive.append(abs(tokens.mean() - 1) <= 1.96 * token_error)
        stated.append((summary.se, token_error))
        spread.append(summary.value)
        delta = ratio_of_means(np.where(each.mask, values, 0).sum(axis=1), each.lengths)
        assert summary.value == pytest.approx(delta[0], rel=1e-12)
        assert summary.se == pytest.approx(delta[1], rel=0.1)
    # 95 % of 200, with a standard deviation of 3.
    assert 0.905 <= np.mean(covered) <= 0.99
    assert np.mean(naive) < 0.6
    by_clusters, by_tokens = np.sqrt(np.mean(np.square(stated), axis=0))
    assert by_clusters == pytest.approx(np.std(spread, ddof=1), rel=0.15)
    # The design effect 1 + (m − 1)·ρ, with ρ = 0.6 and some 15 tokens a sequence.
    assert (by_clusters / by_tokens) ** 2 == pytest.approx(1 + 14 * 0.6, rel=0.15)


def test_errors_of_all_figures_are_as_large_as_they_say() -> None:
    runs = [found(random_rollouts(150, 12, seed, scale=0.1)) for seed in range(60)]
    for name in ("k1", "k3", "abs_log_ratio_median", "chi_square_token", "chi_square_sequence", "log_perplexity_gap"):
        spread = np.std([run[name].value for run in runs], ddof=1)
        assert spread == pytest.approx(math.sqrt(np.mean([run[name].se ** 2 for run in runs])), rel=0.35), name


@pytest.mark.parametrize("figure", ["k3", "chi_square_sequence"])
def test_the_upper_end_is_not_the_largest_that_the_clusters_show(figure: str) -> None:
    """The ends of a skewed figure lie beyond its symmetric interval above, and not below it."""
    summary = found(random_rollouts(400, 12, seed=7, scale=0.05))[figure]
    assert summary.value - summary.low < summary.high - summary.value
    assert summary.high > summary.value + 1.96 * summary.se
    assert summary.value - 3 * summary.se < summary.low < summary.value


def test_an_interval_of_a_mean_is_that_of_its_scale() -> None:
    each = random_rollouts(40, 9, seed=8)
    squares = np.where(each.mask, each.log_ratio**2 / 2, 0).sum(axis=1)
    left_out = (squares.sum() - squares) / (each.lengths.sum() - each.lengths)
    wanted = intervals.of_left_out(squares.sum() / each.lengths.sum(), left_out, intervals.LOG)
    summary = found(each)["k2"]
    assert (summary.se, summary.low, summary.high) == pytest.approx(wanted, rel=1e-9)


def test_weights_whose_tail_the_clusters_cannot_show_are_unresolved() -> None:
    """By the spread of the clusters' exponents, however narrow an interval the draws give."""
    mild, strong = (found(random_rollouts(64, 12, seed=9, scale=scale)) for scale in (0.03, 0.6))
    for figure in ("chi_square_sequence", "ess_fraction_sequence"):
        assert not mild[figure].unresolved, figure
        assert mild[figure].low < mild[figure].value < mild[figure].high
        assert strong[figure].unresolved, figure
        assert math.isnan(strong[figure].low)
        assert math.isnan(strong[figure].high)
    assert not strong["k1"].unresolved
    for name in summaries.OF_THE_SAMPLE:
        assert not strong[name].unresolved
        assert math.isnan(strong[name].se)


@pytest.mark.parametrize("clusters", [7, 8])
def test_fewer_than_eight_sequences_have_no_interval(clusters: int) -> None:
    assert found(random_rollouts(clusters, 9))["k1"].unresolved is (clusters < 8)


def test_few_clusters_beyond_a_quantile_leave_it_unresolved() -> None:
    """99 % of 12 · 40 tokens leaves four or so, of some of forty sequences; the median has all of them."""
    summary = found(random_rollouts(40, 24))
    assert summary["abs_log_ratio_p99"].unresolved
    assert not summary["abs_log_ratio_median"].unresolved
    assert not found(random_rollouts(600, 24))["abs_log_ratio_p99"].unresolved


# ---------------------------------------------------------------------------------------- the ends


def test_an_infinite_state_makes_the_mean_infinite_and_not_the_median() -> None:
    each, values = random_rollouts(200, 9), np.random.default_rng(2).exponential(size=(200, 9))
    values[5, 0] = INF
    summary = found(each, {"kl_policy_actor": values})
    mean = summary["kl_policy_actor"]
    assert (mean.value, mean.low, mean.high) == (INF, INF, INF)
    assert math.isnan(mean.se)
    for name in ("kl_policy_actor_median", "kl_policy_actor_trimmed"):
        assert math.isfinite(summary[name].value)
        assert math.isfinite(summary[name].high)
    values[:] = INF
    endless = found(each, {"kl_policy_actor": values})
    assert endless["kl_policy_actor_trimmed"].value == endless["kl_policy_actor_median"].value == INF


def test_a_trimmed_mean_is_infinite_where_more_is_than_is_cut() -> None:
    values = np.ones((40, 1))
    values[0] = INF  # 1 in 40 is more than the 1 % cut off
    assert found(random_rollouts(40, 1), {"mine": values})["mine_trimmed"].value == INF
    values = np.ones((200, 1))
    values[0] = INF  # half of the 1 % cut off
    summary = found(random_rollouts(200, 1), {"mine": values})["mine_trimmed"]
    assert (summary.value, summary.low, summary.high) == (1.0, 1.0, 1.0)


def test_a_token_that_the_policy_cannot_write() -> None:
    summary = found(rollouts([[-INF, -1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.1]]))
    assert summary["k1"].value == summary["k3"].value == summary["k2"].value == INF
    assert summary["log_perplexity_gap"].value == INF
    assert summary["chi_square_token"].value == pytest.approx((0 + 1 + 1 + math.exp(0.2)) / 4 - 1)
    assert summary["ess_fraction_sequence"].value == pytest.approx(0.5)
    # The first sequence alone has no weight at all.
    assert math.isnan(summary["ess_fraction_sequence"].se)
    assert summary["ess_fraction_sequence"].unresolved


def test_a_token_that_the_actor_says_it_cannot_write() -> None:
    summary = found(rollouts([[-1.0, -1.0], [-1.0, -2.0]], [[-INF, -1.0], [-1.0, -1.0]]))
    assert summary["k1"].value == -INF
    assert summary["chi_square_token"].value == summary["k3"].value == INF
    assert summary["chi_square_largest_share"].value == summary["chi_square_half_tokens"].value == 1.0
    assert summary["ess_fraction_token"].value == 0.25


def test_ratios_beyond_the_range_of_squares() -> None:
    each = rollouts([[-1.0], [-901.0], [-902.0]], [[-901.0], [-1.0], [-1.0]])
    summary = found(each)
    assert summary["ess_fraction_token"].value == pytest.approx(1 / 3)
    assert summary["chi_square_token"].value == INF
    assert summary["ess_fraction_token"].unresolved


def test_equal_policies() -> None:
    each = random_rollouts(20, 6, scale=0.0)
    summary = found(each)
    for name in ("k1", "k2", "k3", "chi_square_token", "chi_square_sequence", "probability_gap", "abs_log_ratio_p99"):
        assert (summary[name].value, summary[name].se) == (0.0, 0.0), name
    assert summary["ess_fraction_sequence"].value == 1.0
    assert summary["probability_correlation"].value == pytest.approx(1.0)
    assert summary["chi_square_half_tokens"].value == math.ceil(each.mask.sum() / 2)
    assert math.isnan(summary["abs_log_ratio_max"].se)


def test_every_figure_has_its_description() -> None:
    table = summaries.descriptions(["kl_policy_actor", "mine"])
    assert list(table)[:3] == ["kl_policy_actor", "kl_policy_actor_median", "kl_policy_actor_trimmed"]
    assert table["mine"] == "mean over tokens of mine"
    assert set(summaries.descriptions([])) == set(summaries.SAMPLED)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        ({"k1": np.ones((4, 3))}, {}, "'k1' is the name of a sampled figure"),
        ({"mine": np.ones((4, 2))}, {}, r"states\['mine'\] has shape \(4, 2\)"),
        ({"mine": np.full((4, 3), np.nan)}, {}, r"states\['mine'\] holds NaN or -inf"),
        ({"mine": np.full((4, 3), -INF)}, {}, r"states\['mine'\] holds NaN or -inf"),
        ({}, {"cluster": np.zeros(3, dtype=int)}, r"cluster has shape \(3,\), not \(4,\): one number per sequence"),
        ({}, {"cluster": np.zeros(4, dtype=int)}, "need at least 2"),
    ],
)
def test_errors_name_the_argument(states: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(random_rollouts(4, 3), states, **options)


def test_figures_and_clusters_of_another_kind_are_refused() -> None:
    given = random_rollouts(4, 3)
    for kind in (np.int64, np.bool_):
        with pytest.raises(TypeError, match=r"states\['mine'\] must hold real floating numbers"):
            found(given, {"mine": np.ones((4, 3), dtype=kind)})
    for shape in ((4, 1), (4,), (3, 4), (1, 3)):
        with pytest.raises(ValueError, match=r"states\['mine'\] has shape"):
            found(given, {"mine": np.ones(shape)})
    strange: Any = [0, 1, 2, 3]
    with pytest.raises(TypeError, match="cluster must be a numpy array, got list"):
        found(given, {}, cluster=strange)
    with pytest.raises(TypeError, match="cluster must hold integers"):
        found(given, {}, cluster=np.arange(4.0))
    with pytest.raises(ValueError, match=r"cluster has shape \(4, 1\)"):
        found(given, {}, cluster=np.arange(4)[:, None])


def test_weights_of_few_clusters_are_unresolved() -> None:
    weights = [name for name in summaries.SAMPLED if name.startswith(("chi_square_", "ess_fraction_"))]
    judged = set(weights) - set(summaries.OF_THE_SAMPLE) - {"chi_square_token_trimmed"}
    for count in (11, 12):
        each = found(random_rollouts(count, 6, seed=2, scale=0.03))
        assert {each[name].unresolved for name in judged} == {count < 12}
        assert not each["k3"].unresolved
