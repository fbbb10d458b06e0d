"""The figures of runs, differences over seeds and verdicts, from records whose truths are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jackpot_sim.training import collapse
from paper_figures.training_records import Trained
from paper_figures.training_statistics import (
    Claim,
    courses,
    difference,
    geometric,
    interval,
    of,
    on_policy,
    per_run,
    running_mean,
    told_lost,
    verdict,
    window,
)
from tests.paper_figures.trained import Fate, Fates, made

FATES = {
    "on-policy": Fate(kl=0.0),
    "none": Fate(kl=2.0, lost_at=80),
    "tis": Fate(diverges_at=90),
    "jackpot": Fate(accuracy=0.9, kl=0.2),
    "rao-blackwell": Fate(accuracy=0.9),
}


def of_figure1(tmp_path: Path, fates: Fates = FATES, steps: int = 220, seeds: int = 2) -> Trained:
    return made(tmp_path / "records", "figure1", fates, steps=steps, seeds=seeds)


def test_windows_are_those_of_collapse_but_for_short_runs() -> None:
    assert window(300) == window(200) == collapse.WINDOW
    assert window(40) == 4
    assert window(5) == 1


def test_running_means_are_those_of_collapse() -> None:
    generator = np.random.default_rng(0)
    steps = np.unique(generator.integers(0, 200, 60))
    values = generator.random(len(steps))
    assert running_mean(steps, values, collapse.WINDOW) == pytest.approx(
        collapse.running_mean(steps.tolist(), values.tolist())
    )


def test_running_means_leave_out_what_is_not_known() -> None:
    means = running_mean(np.arange(4), np.array([math.nan, 1.0, math.inf, 3.0]), 2)
    assert means == pytest.approx([math.nan, 1.0, 1.0, 3.0], nan_ok=True)


def test_accuracies_of_a_run_are_those_of_its_outcome(tmp_path: Path) -> None:
    found = of_figure1(tmp_path)
    runs, outcomes = per_run(found), found.outcomes.set_index(["setting", "method", "seed"])
    for ours, theirs in (("accuracy", "last_accuracy"), ("best_accuracy", "best_accuracy")):
        assert runs[ours].to_numpy() == pytest.approx(outcomes[theirs].to_numpy())
    assert (runs["mean_at_k"] - runs["accuracy"]).to_numpy() == pytest.approx(-0.02)
    assert runs["mean_accuracy"].between(0, 1).all()


def test_lost_is_what_collapses_and_what_diverges(tmp_path: Path) -> None:
    runs = per_run(of_figure1(tmp_path))
    assert of(runs, "none", "lost_at").between(80, 100).all()
    assert (of(runs, "tis", "lost_at") == 89).all()
    assert of(runs, "tis", "diverged").all()
    assert of(runs, "jackpot", "lost_at").isna().all()
    assert (runs["asked"] == 220).all()
    assert told_lost(of(runs, "tis", "lost_at")) == "2 of 2 lost, median step 89"
    assert told_lost(of(runs, "jackpot", "lost_at")) == "0 of 2 lost"


def test_a_run_that_ended_early_keeps_its_last_value(tmp_path: Path) -> None:
    wide = courses(of_figure1(tmp_path), "run", "accuracy")
    assert wide.index[-1] == 220
    assert (wide["tis"].loc[90:] == wide["tis"].loc[85]).all(axis=None)
    assert wide["tis"].iloc[-1].min() > 0.5


def test_kl_is_geometric_and_none_on_policy(tmp_path: Path) -> None:
    runs = per_run(of_figure1(tmp_path))
    assert of(runs, "jackpot", "kl").to_numpy() == pytest.approx(0.2, rel=0.1)
    assert of(runs, "on-policy", "kl").isna().all()
    assert math.isnan(geometric(of(runs, "on-policy", "kl")))
    assert geometric(pd.Series([1.0, 4.0, math.nan])) == pytest.approx(2.0)


def test_intervals_are_students() -> None:
    values = pd.Series([0.1, 0.3, 0.25, 0.05])
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = interval(values)
    assert (found.mean, found.low, found.high, found.pairs) == pytest.approx((0.175, low, high, 4))
    assert interval(values, 0.99).low < found.low


def test_differences_are_paired() -> None:
    first = pd.Series([0.5, 0.7, 0.9], index=[0, 1, 2])
    found = difference(first, pd.Series([0.3, 0.5], index=[2, 0]))
    assert found.pairs == 2
    assert found.mean == pytest.approx((0.0 + 0.6) / 2)
    assert found.above is None
    assert difference(first, first - 0.1).above is True
    assert difference(first - 0.1, first).above is False


def test_one_pair_decides_nothing() -> None:
    one = difference(pd.Series([0.9]), pd.Series([0.1]))
    assert one.above is None
    assert str(one) == "+0.800 (one pair)"
    assert str(difference(pd.Series([0.9], index=[0]), pd.Series([0.1], index=[1]))) == "-"


def test_on_policy_is_of_the_setting_or_else_of_the_one_that_has_it() -> None:
    index = pd.MultiIndex.from_tuples(
        [("a", "on-policy", 0), ("b", "tis", 0), ("b", "on-policy", 0)], names=["setting", "method", "seed"]
    )
    runs = pd.DataFrame({"accuracy": [0.1, 0.2, 0.3]}, index=index)
    assert on_policy(runs, "b", "accuracy").tolist() == [0.3]
    assert on_policy(runs[:2], "b", "accuracy").tolist() == [0.1]


def test_a_verdict_says_of_each_claim_what_is_decided(tmp_path: Path) -> None:
    found = of_figure1(tmp_path, steps=30)
    claims = [Claim("a holds", True, "1"), Claim("b holds", False, "2"), Claim("c holds", None, "3")]
    told, agrees = verdict(found, claims, " More.")
    assert told == (
        "VERDICT: our result SUPPORTS that a holds (1); DOES NOT SUPPORT that b holds (2); "
        "LEAVES OPEN whether c holds (3). More."
    )
    assert not agrees
    assert verdict(found, [claims[0], claims[2]])[1]
