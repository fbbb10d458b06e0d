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
from jackpot_sim.core import intervals as core
from jackpot_sim.core.arrays import Floats
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
    options = Options(replicates=2, level=0.9)
    hits = 0
    for _ in range(runs):
        error, signal = generator.exponential(0.25, states), generator.gamma(4.0, 0.25, states)
        columns = {"acceptance_rate": generator.beta(4, 1, states), "error_sq": error, "grad_norm_sq": signal}
        row = intervals([columns], options).loc[figure]
        truth = {"acceptance_rate": 0.8, "bias": 0.5}[figure]  # 4/(4 + 1), and √(0.25/1)
        hits += row["low"] <= truth <= row["high"]
    # A binomial of 200 at 0.9 has a standard deviation of 0.02.
    assert 0.86 <= hits / runs <= 0.96


def test_of_one_seed_it_is_the_interval_of_its_states() -> None:
    values = np.random.default_rng(2).beta(4, 1, 80)
    row = intervals([{"acceptance_rate": values}], Options(replicates=10)).loc["acceptance_rate"]
    wanted = core.of_left_out(values.mean(), (values.sum() - values) / 79)
    assert row[["se", "low", "high"]].tolist() == pytest.approx(wanted, rel=1e-9)


def test_many_states_are_left_out_in_groups() -> None:
    values = np.random.default_rng(2).normal(size=2000)
    row = intervals([{"acceptance_rate": values}], Options(replicates=10)).loc["acceptance_rate"]
    assert row["se"] == pytest.approx(values.std() / np.sqrt(2000), rel=0.1)


def coverage_with_seed_effects(resample: Resample, seeds: int = 3) -> float:
    generator, runs = np.random.default_rng(3), 200
    options = Options(replicates=2, resample=resample)
    hits = 0
    for _ in range(runs):
        shifts = generator.normal(0, 0.05, seeds)
        cells = [{"acceptance_rate": 0.5 + shift + generator.normal(0, 0.02, 20)} for shift in shifts]
        row = intervals(cells, options).loc["acceptance_rate"]
        hits += row["low"] <= 0.5 <= row["high"]
    return float(hits / runs)


def test_where_seeds_differ_states_alone_are_not_enough() -> None:
    assert coverage_with_seed_effects(Resample.STATES) < 0.5
    # A binomial of 200 at 0.95 has a standard deviation of 0.015.
    assert 0.92 <= coverage_with_seed_effects(Resample.SEEDS) <= 0.98
    assert 0.92 <= coverage_with_seed_effects(Resample.BOTH) <= 0.98


def test_states_of_several_seeds_are_one_sample_of_states() -> None:
    generator = np.random.default_rng(4)
    cells = [{"acceptance_rate": generator.normal(0.5, 0.1, 100)} for _ in range(3)]
    states, both = (
        intervals(cells, Options(replicates=2, resample=each)).loc["acceptance_rate"]
        for each in (Resample.STATES, Resample.BOTH)
    )
    assert states["se"] == pytest.approx(0.1 / np.sqrt(300), rel=0.1)
    per_seed = np.array([cell["acceptance_rate"].mean() for cell in cells])
    assert both[["se", "low", "high"]].tolist() == pytest.approx(core.student(per_seed), rel=1e-9)


@pytest.mark.parametrize("resample", list(Resample))
def test_one_seed_shows_nothing_of_other_seeds(resample: Resample) -> None:
    cell = {"acceptance_rate": np.random.default_rng(4).normal(0.5, 0.1, 30)}
    row = intervals([cell], Options(replicates=2, resample=resample)).loc["acceptance_rate"]
    assert np.isnan(row[["se", "low", "high"]].astype(float)).all() == (resample is Resample.SEEDS)


def test_an_infinity_is_reported_and_counted() -> None:
    kl = np.full(30, 0.1)
    kl[3] = np.inf
    row = intervals([{"kl_accepted": kl}], Options(replicates=2000)).loc["kl_accepted"]
    assert (row["value"], row["se"], row["low"], row["high"]) == (np.inf, np.inf, np.inf, np.inf)
    # A resample misses the one state with probability (1 − 1/30)^30.
    assert row["finite"] == pytest.approx((1 - 1 / 30) ** 30, abs=0.04)


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

    def drawn(environment: bootstrap.Environment) -> Floats:
        return environment.candidates[0].draws("acceptance_rate").replicates

    (alone,) = bootstrap.environments(*one, QUICK)
    beside = list(bootstrap.environments(*together, QUICK))
    np.testing.assert_array_equal(drawn(alone), drawn(beside[1]))
    for differing in (beside[0], *bootstrap.environments(*one, dataclasses.replace(QUICK, seed=1))):
        assert not np.array_equal(drawn(alone), drawn(differing))


def test_estimators_share_their_draws(small: Run) -> None:
    for environment in bootstrap.environments(small.records, small.states, QUICK):
        drawn = {
            candidate.estimator: candidate.draws("kl_policy_actor").replicates for candidate in environment.candidates
        }
        for replicates in drawn.values():
            np.testing.assert_array_equal(replicates, drawn["none"])
        # obrs and jackpot reject alike at λ = 1.
        rates = {c.estimator: c.draws("acceptance_rate").replicates for c in environment.candidates}
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
