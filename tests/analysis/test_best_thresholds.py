"""Estimators compared at their best thresholds and as given: ties in noise, ratios to the least beyond it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from analysis import bootstrap
from analysis.bootstrap import Options
from analysis.tables import against_least, best_thresholds, lowest_mse
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.run import run
from tests.analysis.conftest import Run

STUDY = {
    "env": {"kind": "logit-noise", "base": {"kind": "zipf", "vocab": 20, "states": 8}, "target_kl": 0.2},
    "seeds": 4,
    "n_samples": 64,
    "best_thresholds": True,
    "estimators": [
        *("none", "mask-k2", {"kind": "tis", "clip": 2.0}),
        {"kind": "obrs", "lam": 2.0, "rao_blackwell": True},
    ],
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned") / "run"
    run(spec.parse(STUDY), root, SerialExecutor())
    return root


def test_every_estimator_is_compared_at_its_best_and_as_given(tuned: Path) -> None:
    rows, thresholds = records.load(tuned), records.load(tuned, "thresholds")
    found = best_thresholds(rows, thresholds, Options()).set_index("estimator")
    mean = rows.groupby("estimator")["mse"].mean()
    for name, row in found.iterrows():
        assert row["mse"] == pytest.approx(mean[name])
    assert found.loc["none", "mse_best"] == found.loc["none", "mse"]
    assert found.loc[["none"], "parameter"].isna().all()
    best = thresholds[thresholds["estimator"] == "mask-k2"]["mse_best"].mean()
    assert found.loc["mask-k2", "mse_best"] == pytest.approx(best)
    assert found["worse_best"].min() == 1
    least = rows[rows["estimator"] == found["mse"].idxmin()].set_index("cell")["mse"]
    ratio = rows[rows["estimator"] == "none"].set_index("cell")["mse"] / least
    assert found.loc["none", "worse"] == pytest.approx(float(np.exp(np.log(ratio).mean())))


def test_two_names_of_one_estimator_tie(tuned: Path) -> None:
    # I1: the expected update of OBRS at λ is that of TIS at C = λ divided by λ, so that the rescaled MSEs are equal.
    environment = next(iter(bootstrap.environments(records.load(tuned), records.load(tuned, "states"), Options(50))))
    found = lowest_mse(environment, [64], Options(50)).set_index("estimator")
    twins = found.loc[["tis(clip=2)", "rao-blackwell(obrs(lam=2))"]]
    assert twins["worse_rescaled"].nunique() == 1
    assert twins["tied_rescaled"].nunique() == 1


def test_identical_estimators_tie_and_a_clear_loser_does_not() -> None:
    generator = np.random.default_rng(0)
    own = generator.uniform(0.5, 2.0, 6)
    first, twin, loser, undefined = against_least(np.array([own, own * (1 + 1e-13), 3 * own, own * math.nan]), 0.95)
    assert (first["worse"], twin["worse"]) == (1, 1)
    assert first["tied"]
    assert twin["tied"]
    assert loser["worse"] == pytest.approx(3)
    assert not loser["tied"]
    assert math.isnan(undefined["worse"])
    assert not undefined["tied"]
    assert all(row["tied"] for row in against_least(np.array([[1.0], [3.0]]), 0.95))  # one seed tells nothing
    endless = against_least(np.array([[1.0, 1.1], [math.inf, math.inf]]), 0.95)[1]
    assert endless["worse"] == math.inf
    assert not endless["tied"]


def test_intervals_of_paired_ratios_cover() -> None:
    # 2,000 studies of 3 seeds: shared noise of a seed cancels, and 3 standard errors of the share are 0.015.
    generator = np.random.default_rng(1)
    shared, own = generator.normal(size=(2000, 3)), 0.1 * generator.normal(size=(2000, 2, 3))
    covered = 0
    for noise, each in zip(shared, own, strict=True):
        row = against_least(np.exp(noise + each + np.log([[1.0], [2.0]])), 0.95)[1]
        covered += row["worse_low"] <= 2 <= row["worse_high"]
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_nobody_wins_in_noise() -> None:
    # A sole winner among five equal estimators: with four seeds almost never, as all four rivals must be told apart.
    generator = np.random.default_rng(2)
    winners = 0
    for noise in generator.normal(size=(1000, 5, 4)):
        rows = against_least(np.exp(noise), 0.95)
        winners += sum(bool(row["tied"]) for row in rows) == 1
    assert winners / 1000 < 0.05


def test_the_main_table_says_how_much_worse(small: Run) -> None:
    environment = next(iter(bootstrap.environments(small.records, small.states, Options(20))))
    found = lowest_mse(environment, [64], Options(20))
    assert found[found["lowest"]]["worse"].tolist() == [1.0] * int(found["lowest"].sum())
    assert (found["worse_low"].fillna(-math.inf) <= found["worse"].fillna(math.inf)).all()
    assert (found["tied"] == (found["worse_low"] <= 1)).all()
