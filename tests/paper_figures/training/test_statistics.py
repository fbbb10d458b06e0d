"""The figures of runs, differences over seeds and verdicts, from records whose truths are known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jackpot_sim.training.loop import collapse
from paper_figures.training.curves import curves, tables
from paper_figures.training.records import Trained
from paper_figures.training.statistics import (
    Claim,
    courses,
    detectable,
    difference,
    geometric,
    interval,
    lost_in_words,
    mostly,
    of,
    on_policy,
    per_run,
    running_mean,
    stable,
    verdict,
    window,
)
from tests.paper_figures.training.trained import Fate, Fates, made

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


def test_running_means_leave_out_what_is_not_known_but_not_what_is_infinite() -> None:
    means = running_mean(np.arange(6), np.array([math.nan, 1.0, math.nan, 3.0, math.inf, 2.0]), 2)
    assert means.tolist()[1:] == [1.0, 1.0, 3.0, math.inf, math.inf]
    assert math.isnan(means[0])


def test_accuracies_of_a_run_are_those_of_its_outcome(tmp_path: Path) -> None:
    found = of_figure1(tmp_path)
    runs, outcomes = per_run(found), found.outcomes.set_index(["setting", "method", "seed"])
    kept = ~runs["diverged"]
    for ours, theirs in (("accuracy", "last_accuracy"), ("best_accuracy", "best_accuracy")):
        assert runs.loc[kept, ours].to_numpy() == pytest.approx(outcomes.loc[kept, theirs].to_numpy())
    assert (runs["mean_at_k"] - runs["accuracy"])[kept].to_numpy() == pytest.approx(-0.02)
    assert runs["mean_accuracy"].between(0, 1).all()


def test_lost_is_what_collapses_and_what_diverges(tmp_path: Path) -> None:
    runs = per_run(of_figure1(tmp_path))
    assert of(runs, "none", "lost_at").between(80, 100).all()
    assert (of(runs, "tis", "lost_at") == 89).all()
    assert of(runs, "tis", "diverged").all()
    assert of(runs, "jackpot", "lost_at").isna().all()
    assert (runs["asked"] == 220).all()
    assert lost_in_words(of(runs, "tis", "lost_at")) == "2 of 2 lost, median step 89"
    assert lost_in_words(of(runs, "jackpot", "lost_at")) == "0 of 2 lost"


def test_a_run_that_diverged_counts_as_0_from_there(tmp_path: Path) -> None:
    found = of_figure1(tmp_path)
    for figure in ("accuracy", "mean_at_k", "pass_at_k"):
        wide = courses(found, "run", figure)
        assert wide.index[-1] == 220
        assert wide["tis"].loc[:89].min(axis=None) > 0.2
        assert (wide["tis"].loc[90:] == 0).all(axis=None)
    runs = per_run(found)
    assert (of(runs, "tis", "pass_at_k") == 0).all()
    assert of(runs, "tis", "best_accuracy").min() > 0.5
    assert of(runs, "tis", "mean_accuracy").max() < 0.5 * of(runs, "jackpot", "mean_accuracy").min()


def test_a_policy_that_diverged_in_the_last_step_or_before_any_test_counts_as_0(tmp_path: Path) -> None:
    runs = per_run(of_figure1(tmp_path, FATES | {"none": Fate(diverges_at=220)}))
    assert (of(runs, "none", "accuracy") == 0).all()
    found = of_figure1(tmp_path / "untested")
    untested = found.steps.assign(accuracy=found.steps["accuracy"].where(found.steps["method"] != "tis"))
    runs = per_run(dataclasses.replace(found, steps=untested))
    assert (of(runs, "tis", "accuracy") == 0).all()


def test_a_run_that_was_stopped_for_its_collapse_keeps_its_last_value(tmp_path: Path) -> None:
    fates = dict.fromkeys(FATES, Fate(lost_at=40, stops_at=100))
    found = of_figure1(tmp_path, fates)
    wide = courses(found, "run", "accuracy")
    assert wide.index[-1] == 220
    assert wide.index.is_unique
    assert wide.loc[220].tolist() == wide.loc[100].tolist()
    assert wide.loc[220].to_numpy() == pytest.approx(0.01)


def test_what_was_asked_counts_and_not_what_was_done(tmp_path: Path) -> None:
    runs = per_run(of_figure1(tmp_path, dict.fromkeys(FATES, Fate(lost_at=40, stops_at=100))))
    assert (runs["steps"] == 100).all()
    assert (runs["asked"] == 220).all()


def test_an_infinite_kl_stays_infinite(tmp_path: Path) -> None:
    found = of_figure1(tmp_path)
    steps, late = found.steps, (found.steps["method"] == "jackpot") & (found.steps["step"] >= 150)
    kl = steps["kl_policy_actor"].mask(late & (steps["seed"] == 1), math.inf)
    found = dataclasses.replace(found, steps=steps.assign(kl_policy_actor=kl))
    runs = per_run(found)
    assert np.isinf(of(runs, "jackpot", "kl")).tolist() == [False, True]
    assert geometric(of(runs, "jackpot", "kl")) == math.inf
    assert "inf" in tables(found, runs, "")[0].columns[3].cells
    axes = curves(found)[1]["run", "kl_policy_actor"]
    lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    ends = [line[np.isfinite(line).all(axis=1)][-1, 0] for line in lines if len(line)]
    assert 149 in ends


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


def test_settings_are_averaged_within_a_seed() -> None:
    index = pd.MultiIndex.from_product([["a", "b", "c"], [0, 1]], names=["setting", "seed"])
    values = pd.Series([0.1, 0.3, 0.1, 0.3, 0.4, 0.3], index=index)
    found, alone = interval(values), interval(pd.Series([0.2, 0.3]))
    assert found.pairs == 2
    assert found == pytest.approx(alone)
    assert interval(values.xs(0, level="seed", drop_level=False)).above is None


def test_intervals_of_what_is_infinite_say_nothing() -> None:
    assert interval(pd.Series([0.1, math.inf, 0.2])).above is None


@pytest.mark.parametrize(
    ("happened", "seeds", "expected"),
    [
        *((0, seeds, None) for seeds in (1, 2, 3, 4)),
        *((seeds, seeds, None) for seeds in (1, 2, 3, 4)),
        (0, 5, False),
        (5, 5, True),
        *((count, 5, None) for count in (1, 2, 3, 4)),
        (1, 8, False),
        (7, 8, True),
    ],
)
def test_counts_decide_from_five_seeds_on(happened: int, seeds: int, expected: bool | None) -> None:
    index = pd.Index(range(seeds), name="seed")
    there = pd.Series([seed < happened for seed in index], index=index)
    assert mostly(there) is expected
    bounds = stats.binomtest(happened, seeds).proportion_ci(0.9)  # two-sided, so that each side has 5 %
    assert (bounds.low > 0.5, bounds.high < 0.5) == (expected is True, expected is False)


def test_a_seed_is_stable_where_all_its_settings_are() -> None:
    index = pd.MultiIndex.from_product([["a", "b", "c"], range(5)], names=["setting", "seed"])
    lost_at = pd.Series(math.nan, index=index)
    assert stable(lost_at) is True
    assert mostly(lost_at.notna()) is False
    lost_at["a"] = 40.0
    assert stable(lost_at) is False
    assert mostly(lost_at.notna()) is False
    lost_at["b"] = 40.0
    assert mostly(lost_at.notna()) is True


def test_one_seed_decides_nothing() -> None:
    one = difference(pd.Series([0.9]), pd.Series([0.1]))
    assert one.above is None
    assert str(one) == "+0.800 (one seed)"
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
    told, agrees = verdict(found, claims, "More.")
    assert told.splitlines() == [
        "VERDICT: our result",
        "  SUPPORTS that a holds (1).",
        "  DOES NOT SUPPORT that b holds (2).",
        "  LEAVES OPEN whether c holds (3).",
        "  More.",
    ]
    assert not agrees
    assert verdict(found, [claims[0], claims[2]])[1]


def test_steps_and_values_are_one_per_test() -> None:
    steps, values = np.arange(3), np.ones(3)
    for wrong in ((steps, values[:, None]), (steps, values[:1]), (steps[:, None], values), (steps * 1.0, values)):
        with pytest.raises((TypeError, ValueError), match=r"(steps|values) "):
            running_mean(*wrong, 2)


@pytest.mark.parametrize("seeds", [3, 16])
def test_a_detectable_difference_is_seen_in_nine_of_ten_samples(seeds: int) -> None:
    generator = np.random.default_rng(0)
    spread = pd.Series(generator.normal(size=5))
    far = detectable(spread, seeds)
    samples = far + float(spread.std()) * generator.normal(size=(4000, seeds))
    seen = stats.ttest_1samp(samples, 0.0, axis=1)
    assert float(((seen.pvalue < 0.05) & (seen.statistic > 0)).mean()) == pytest.approx(0.9, abs=0.015)
    assert math.isinf(detectable(spread[:1], seeds))
    assert detectable(spread) == detectable(spread, 5)
