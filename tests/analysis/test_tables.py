"""Tables against formulas written down a second time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import tables
from analysis.bootstrap import Options
from analysis.tables import Tables
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import labels
from tests.analysis.conftest import Run

COUNTS = (4, 64, 4096)


@pytest.fixture(scope="module")
def found(small: Run) -> Tables:
    return tables.build(small.records, small.states, COUNTS, Options(replicates=100))


def test_lowest_mse_is_the_least_of_the_formula(small: Run, found: Tables) -> None:
    rows = small.records
    for n in COUNTS:
        mse = rows["bias"] ** 2 + rows["variance"] * rows["on_policy_variance"] / rows["grad_norm_sq"] / n
        mean = mse.groupby([rows["environment"], rows["estimator"], rows["denominator"]]).mean()
        shown = found.lowest_mse[found.lowest_mse["n_samples"] == n]
        shown = shown.set_index(["environment", "estimator", "denominator"])
        np.testing.assert_allclose(shown["mse"], mean.loc[shown.index], rtol=1e-12)
        for environment, least in mean.groupby(level=0).min().items():
            best = shown.loc[environment]
            best = best[best["lowest"]]
            np.testing.assert_allclose(best["mse"], least, rtol=1e-9)
            assert len(best) >= 1


def test_the_records_own_n_gives_the_records_own_mse(small: Run, found: Tables) -> None:
    keys = ["environment", "estimator", "denominator"]
    recorded = small.records.groupby(keys)["mse"].mean()
    shown = found.lowest_mse[found.lowest_mse["n_samples"] == 64].set_index(keys)
    np.testing.assert_allclose(shown["mse"], recorded.loc[shown.index], rtol=1e-12)


def test_probability_of_the_lowest_is_a_share(found: Tables) -> None:
    at = found.lowest_mse.groupby(["environment", "n_samples"])
    assert found.lowest_mse["probability"].between(0, 1).all()
    # One at least is the lowest in each replicate; ties count for each of the tied.
    assert (at["probability"].sum() >= 1 - 1e-12).all()
    # Few samples: who is best is a matter of variance, and of many samples one of bias.
    assert (found.lowest_mse[found.lowest_mse["lowest"]]["probability"] > 0).all()


def test_many_samples_leave_the_unbiased(found: Tables) -> None:
    best = found.lowest_mse[(found.lowest_mse["n_samples"] == 4096) & found.lowest_mse["lowest"]]
    noise = best[best["environment"].str.contains('"target_kl": 0.3')]
    assert set(noise["estimator"]) & {"is", "tis(clip=5)"}


def test_frontier_against_brute_force(found: Tables) -> None:
    for _, rows in found.bias_variance.groupby("environment"):
        points = list(zip(rows["bias"], rows["variance"], strict=True))
        for (bias, variance), shown in zip(points, rows["on_frontier"], strict=True):
            beaten = any(
                (b < bias - 1e-9 and v <= variance * (1 + 1e-10)) or (b <= bias + 1e-13 and v < variance * (1 - 1e-6))
                for b, v in points
            )
            assert shown == (not beaten)


def test_frontier_holds_the_extremes(found: Tables) -> None:
    for _, rows in found.bias_variance.groupby("environment"):
        on = rows[rows["on_frontier"]]
        assert on["variance"].min() == rows["variance"].min()
        assert on["bias"].min() <= rows["bias"].min() + 1e-12
        assert (rows.loc[rows["on_frontier"], "probability"] > 0).all()


def test_noise_of_rounding_decides_nothing() -> None:
    bias, variance = np.array([1e-17, 3e-16, 0.1]), np.array([2.0, 1.0, 1.0 + 1e-15])
    assert tables.undominated(bias, variance).tolist() == [False, True, False]
    twins = tables.undominated(np.array([0.1, 0.1 * (1 + 1e-15)]), np.array([1.0, 1.0 - 1e-15]))
    assert twins.tolist() == [True, True]
    assert tables.is_lowest(np.array([0.5, 0.5 * (1 + 1e-12), 0.6])).tolist() == [True, True, False]


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.0, np.nan, np.inf])] * 2), min_size=1, max_size=6))
def test_undominated_is_what_it_says(points: list[tuple[float, float]]) -> None:
    fine = [bool(np.isfinite(point).all()) for point in points]
    expected = [
        ok
        and not any(good and b <= x and v <= y and (b, v) != (x, y) for good, (b, v) in zip(fine, points, strict=True))
        for ok, (x, y) in zip(fine, points, strict=True)
    ]
    bias, variance = np.array(points).T
    assert tables.undominated(bias, variance).tolist() == expected


def test_undefined_is_never_the_lowest() -> None:
    values = np.array([[np.nan, np.nan, np.inf], [1.0, np.nan, 2.0]])
    assert tables.is_lowest(values).tolist() == [[False, False, False], [True, False, True]]


def test_kl_and_acceptance_are_the_records(small: Run, found: Tables) -> None:
    keys = ["environment", "estimator", "denominator"]
    for table, figures in (
        (found.acceptance_vs_kl, ["acceptance_rate"]),
        (found.kl_before_after, ["kl_accepted", "kl_effective"]),
    ):
        assert len(table) == len(small.records) / 3
        shown = table.set_index(keys)
        means = small.records.groupby(keys)[["kl_policy_actor", *figures]].mean()
        np.testing.assert_allclose(shown["kl_before"], means.loc[shown.index, "kl_policy_actor"], rtol=1e-12)
        for figure in figures:
            np.testing.assert_allclose(shown[figure], means.loc[shown.index, figure], rtol=1e-12)
            inside = shown[np.isfinite(shown[figure])]
            assert (inside[f"{figure}_low"] <= inside[figure] * (1 + 1e-9)).all()
            assert (inside[f"{figure}_high"] >= inside[figure] * (1 - 1e-9)).all()


def test_a_support_violation_stays_infinite(found: Tables) -> None:
    cut = found.kl_before_after[found.kl_before_after["env_kind"] == "top-p"]
    assert np.isinf(cut["kl_before"]).all()
    assert np.isinf(cut["kl_accepted"]).all()


def test_labels_tell_environments_apart(small: Run) -> None:
    told = tables.describe(small.records)["label"]
    assert list(told) == [
        "logit-noise on zipf target_kl=0.01",
        "logit-noise on zipf target_kl=0.3",
        "logit-noise on lm-like target_kl=0.01",
        "logit-noise on lm-like target_kl=0.3",
        "top-p on zipf p=0.8",  # the only one of its kinds says what it sets
    ]


def test_an_environment_without_an_axis_is_told_by_its_own_settings() -> None:
    solved = '{"kind": "logit-noise", "sigma": null, "target_kl": 0.01, "base": {"kind": "zipf", "vocab": 10}}'
    stale = '{"kind": "stale", "learning_rate": 1.0, "steps": 4, "target_kl": null, "base": {"kind": "zipf"}}'
    assert list(labels.labels([solved, stale]).values()) == [
        "logit-noise on zipf target_kl=0.01",
        "stale on zipf learning_rate=1 steps=4",
    ]


def test_rescaled_mse_is_that_of_the_best_learning_rate(small: Run, found: Tables) -> None:
    """At the records' own n it is their own; at any n, the least of a grid of learning rates."""
    keys = ["environment", "estimator", "denominator"]
    recorded = small.records.groupby(keys)["mse_rescaled"].mean()
    shown = found.lowest_mse[found.lowest_mse["n_samples"] == 64].set_index(keys)
    np.testing.assert_allclose(shown["mse_rescaled"], recorded.loc[shown.index], rtol=1e-9)
    rows = small.records[small.records["seed"] >= 0].reset_index(drop=True)
    for n in COUNTS:
        mse = rows["bias"] ** 2 + rows["variance"] * rows["noise_to_signal"] / n
        size, rates = mse + 2 * rows["gain"] - 1, np.linspace(0, 4, 40001)
        least = [np.min(1 - 2 * rates * gain + rates**2 * each) for gain, each in zip(rows["gain"], size, strict=True)]
        mean = pd.Series(least).groupby([rows[key] for key in keys]).mean()
        at = found.lowest_mse[found.lowest_mse["n_samples"] == n].set_index(keys)
        np.testing.assert_allclose(at["mse_rescaled"], mean.loc[at.index], atol=1e-6)


def test_rescaled_is_never_worse_than_plain_nor_than_no_update(found: Tables) -> None:
    rows = found.lowest_mse.dropna(subset=["mse", "mse_rescaled"])
    assert (rows["mse_rescaled"] <= rows["mse"] * (1 + 1e-9)).all()
    assert rows["mse_rescaled"].between(0, 1).all()
    assert (rows["mse_rescaled_low"] <= rows["mse_rescaled_high"]).all()
    for _, at in found.lowest_mse.groupby(["environment", "n_samples"]):
        assert at.loc[at["lowest_rescaled"], "mse_rescaled"].max() <= at["mse_rescaled"].min() * (1 + 1e-9)
        assert at["probability_rescaled"].between(0, 1).all()


@pytest.mark.parametrize("counts", [[], [0], [16, -1]])
def test_n_samples_out_of_range(small: Run, counts: list[int]) -> None:
    with pytest.raises(StudyError, match="n_samples"):
        tables.build(small.records, small.states, counts, Options())


def test_same_seed_same_tables(small: Run, found: Tables) -> None:
    again = tables.build(small.records, small.states, COUNTS, Options(replicates=100))
    for name, frame in vars(found).items():
        pd.testing.assert_frame_equal(frame, vars(again)[name])


def test_biases_and_variances_are_one_per_candidate() -> None:
    bias = np.array([0.1, 0.2])
    for variance in (bias[:, None], bias[:1], bias[None], bias > 0):
        with pytest.raises((TypeError, ValueError), match="variance "):
            tables.undominated(bias, variance)
    with pytest.raises(TypeError, match="values must hold real"):
        tables.is_lowest(np.array([1, 2]))
