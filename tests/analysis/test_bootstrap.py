"""Intervals that cover, centres that are the records' figures, and infinities that stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import bootstrap
from analysis.bootstrap import FIGURES, Options, Resample
from jackpot_sim import estimators
from jackpot_sim.estimators.states import moments
from jackpot_sim.estimators.states.moments import StateStatistics
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.plan import Cell
from tests.analysis.conftest import STUDY, Run

QUICK = Options(replicates=20)


def made_up(per_seed: list[dict[str, Any]], environment: str = "made up") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a run whose states are given, by seed: columns that are not named are 1."""
    rows, states = [], []
    for seed, columns in enumerate(per_seed):
        cell = f"{environment}-{seed}"
        named = {"cell": cell, "estimator": "e", "denominator": "proposed"}
        rows.append(named | {"environment": environment, "method": "exact", "n_samples": 10})
        count = len(next(iter(columns.values())))
        ones = {field.name: np.ones(count) for field in dataclasses.fields(StateStatistics)}
        states.append(pd.DataFrame(named | {"kl_policy_actor": np.ones(count)} | ones | columns))
    return pd.DataFrame(rows), pd.concat(states, ignore_index=True)


def intervals(per_seed: list[dict[str, Any]], options: Options) -> pd.DataFrame:
    (environment,) = bootstrap.environments(*made_up(per_seed), options)
    return bootstrap.intervals(environment, options).set_index("figure")


def test_centres_are_the_means_over_seeds_of_the_records(small: Run) -> None:
    keys = ["environment", "estimator", "denominator"]
    expected = small.records.groupby(keys)[list(FIGURES)].agg(lambda column: column.mean(skipna=False))
    for environment in bootstrap.environments(small.records, small.states, QUICK):
        for row in bootstrap.intervals(environment, QUICK).itertuples():
            recorded = expected.loc[(row.environment, row.estimator, row.denominator), row.figure]
            np.testing.assert_allclose(row.value, recorded, rtol=1e-12, err_msg=f"{row}")


def test_every_cell_has_the_figures_of_its_record(small: Run) -> None:
    by_cell = small.records.set_index(["environment", "estimator", "denominator", "seed"])
    checked = 0
    for environment in bootstrap.environments(small.records, small.states, QUICK):
        for candidate in environment.candidates:
            for seed in (0, 1, 2):
                record = by_cell.loc[(environment.name, candidate.estimator, candidate.denominator, seed)]
                for figure in ("bias", "variance", "mse", "direction_bias", "noise_to_signal"):
                    np.testing.assert_allclose(candidate.per_seed[figure][seed], record[figure], rtol=1e-12)
                    checked += 1
    assert checked == len(small.records) * 5


@pytest.mark.parametrize("figure", ["acceptance_rate", "bias"])
def test_intervals_cover_what_is_true_of_all_states(figure: str) -> None:
    generator, states, runs = np.random.default_rng(1), 50, 200
    options = Options(replicates=200, resample=Resample.STATES, level=0.9)
    hits = 0
    for _ in range(runs):
        error, signal = generator.exponential(0.25, states), generator.gamma(4.0, 0.25, states)
        columns = {"acceptance_rate": generator.beta(4, 1, states), "error_sq": error, "grad_norm_sq": signal}
        row = intervals([columns], options).loc[figure]
        truth = {"acceptance_rate": 0.8, "bias": 0.5}[figure]  # 4/(4 + 1), and √(0.25/1)
        hits += row["low"] <= truth <= row["high"]
    # A binomial of 200 at 0.9 has a standard deviation of 0.02; percentile intervals fall a little short.
    assert 0.82 <= hits / runs <= 0.95


def test_standard_error_of_a_mean_is_that_of_a_mean() -> None:
    values = np.random.default_rng(2).beta(4, 1, 80)
    row = intervals([{"acceptance_rate": values}], Options(replicates=4000)).loc["acceptance_rate"]
    assert row["se"] == pytest.approx(np.std(values) / np.sqrt(80), rel=0.05)
    assert row["low"] == pytest.approx(values.mean() - 1.96 * row["se"], abs=0.15 * row["se"])


def coverage_with_seed_effects(resample: Resample) -> float:
    generator, runs = np.random.default_rng(3), 80
    options = Options(replicates=120, resample=resample, level=0.9)
    hits = 0
    for _ in range(runs):
        shifts = generator.normal(0, 0.05, 12)
        cells = [{"acceptance_rate": 0.5 + shift + generator.normal(0, 0.02, 20)} for shift in shifts]
        row = intervals(cells, options).loc["acceptance_rate"]
        hits += row["low"] <= 0.5 <= row["high"]
    return float(hits / runs)


def test_where_seeds_differ_states_alone_are_not_enough() -> None:
    assert coverage_with_seed_effects(Resample.STATES) < 0.5
    assert 0.8 <= coverage_with_seed_effects(Resample.SEEDS) <= 0.97
    assert 0.8 <= coverage_with_seed_effects(Resample.BOTH) <= 0.97


def test_both_levels_are_too_wide_where_seeds_are_but_more_states() -> None:
    generator = np.random.default_rng(4)
    cells = [{"acceptance_rate": generator.normal(0.5, 0.1, 100)} for _ in range(3)]
    states, both = (
        intervals(cells, Options(replicates=1000, resample=each)).loc["acceptance_rate", "se"]
        for each in (Resample.STATES, Resample.BOTH)
    )
    assert states == pytest.approx(0.1 / np.sqrt(300), rel=0.1)
    assert both > states


def test_an_infinity_is_reported_and_counted() -> None:
    kl = np.full(30, 0.1)
    kl[3] = np.inf
    row = intervals([{"kl_accepted": kl}], Options(replicates=2000)).loc["kl_accepted"]
    assert (row["value"], row["se"], row["high"]) == (np.inf, np.inf, np.inf)
    # A resample misses the one state with probability (1 − 1/30)^30.
    assert row["finite"] == pytest.approx((1 - 1 / 30) ** 30, abs=0.04)
    assert row["low"] == pytest.approx(0.1)


def test_a_nan_is_never_dropped() -> None:
    kl = np.full(30, 0.1)
    kl[3] = np.nan
    row = intervals([{"kl_effective": kl}, {"kl_effective": np.full(30, 0.1)}], QUICK).loc["kl_effective"]
    assert np.isnan([row["value"], row["se"], row["low"], row["high"]]).all()
    assert 0 < row["finite"] < 1


def test_draws_are_keyed_by_environment_and_seed_alone() -> None:
    values = {"acceptance_rate": np.random.default_rng(5).random(20)}
    one, other = made_up([values], "one"), made_up([values], "other")
    together = tuple(pd.concat(pair, ignore_index=True) for pair in zip(other, one, strict=True))
    (alone,) = bootstrap.environments(*one, QUICK)
    beside = list(bootstrap.environments(*together, QUICK))
    np.testing.assert_array_equal(
        alone.candidates[0].replicates("acceptance_rate"), beside[1].candidates[0].replicates("acceptance_rate")
    )
    for differing in (beside[0], *bootstrap.environments(*one, dataclasses.replace(QUICK, seed=1))):
        assert not np.array_equal(
            alone.candidates[0].replicates("acceptance_rate"), differing.candidates[0].replicates("acceptance_rate")
        )


def test_estimators_share_their_draws(small: Run) -> None:
    for environment in bootstrap.environments(small.records, small.states, QUICK):
        drawn = {candidate.estimator: candidate.replicates("kl_policy_actor") for candidate in environment.candidates}
        for replicates in drawn.values():
            np.testing.assert_array_equal(replicates, drawn["none"])
        # obrs and jackpot reject alike at λ = 1.
        rates = {c.estimator: c.replicates("acceptance_rate") for c in environment.candidates}
        np.testing.assert_array_equal(rates["obrs"], rates["jackpot"])


@pytest.mark.parametrize("denominator", ["proposed", "accepted", "self_normalized"])
def test_a_replicate_is_what_exact_moments_say_of_its_states(small: Run, denominator: str) -> None:
    """In particular ĝ of `accepted` depends on the batch: a resample must bring its own acceptance rate."""
    chosen = small.records[small.records["denominator"] == denominator]
    environment = list(bootstrap.environments(chosen, small.states, QUICK))[1]
    env = next(each for each in spec.parse(STUDY).env if Cell(each, 0).environment == environment.name)
    pairs = [env.build(seed).pair for seed in range(3)]
    p, q, advantage = (
        np.concatenate([getattr(pair, name) for pair in pairs])
        for name in ("policy_log_probs", "actor_log_probs", "advantage")
    )
    draws = bootstrap._draws(environment.name, 3, 12, QUICK)
    jackpot = next(candidate for candidate in environment.candidates if candidate.estimator == "jackpot")
    for seed, replicate in ((0, 0), (1, 7), (2, 19)):
        rows = draws[seed, replicate]
        found = moments.exact(
            p[rows], q[rows], advantage[rows], estimators.get("jackpot"), denominator=denominator, n_samples=64
        )
        for figure in set(FIGURES) - {"kl_policy_actor"}:
            drawn = jackpot.resampled[figure][seed, replicate]
            np.testing.assert_allclose(drawn, getattr(found, figure), rtol=1e-9, err_msg=figure)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"replicates": 1}, "replicates"),
        ({"level": 1.0}, "level"),
        ({"level": float("nan")}, "level"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError, match=told):
        Options(**wrong)


def test_tables_that_do_not_belong_together(small: Run) -> None:
    with pytest.raises(StudyError, match="not of one run"):
        list(bootstrap.environments(small.records, small.states.iloc[12:], QUICK))
    with pytest.raises(StudyError, match="no exact figures"):
        list(bootstrap.environments(small.records.assign(method="monte_carlo"), small.states, QUICK))


def test_replicates_of_one_figure_have_one_axis() -> None:
    for wrong in (np.ones((3, 1)), np.ones(()), np.arange(3)):
        with pytest.raises((TypeError, ValueError), match="replicates "):
            bootstrap.interval(0.5, wrong, 0.95)
