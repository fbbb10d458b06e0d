"""Alarms: what a pair is, what counts as in time and as false, whose runs choose a threshold, and what is said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jackpot_sim.diagnose.measure import trends
from jackpot_sim.estimators.mismatch.lines import STABLE
from jackpot_sim.studies.errors import StudyError
from paper_figures import alarms
from paper_figures.training import before_loss
from paper_figures.training import records as training_records
from paper_figures.training.before_loss import Among, Estimate, Runs, Signal
from paper_figures.training.records import Several, Trained, committed, load_several
from tests.paper_figures.training.trained import Fate, write

pytestmark = pytest.mark.usefixtures("sketched")

KL = Signal("kl_policy_actor", "KL")
STEPS, LOST_AT = 150, 60

Captured = pytest.CaptureFixture[str]
Course = Callable[[bool, int, int], float]
"""The figure of a lost or another run, of a seed, at a step."""


def study(columns: Mapping[str, Course], seeds: int = 8) -> Trained:
    """A lost run without a correction, and another with one, of each seed."""
    rows, ends = [], []
    for seed in range(seeds):
        for method, is_lost in (("none", True), ("tis", False)):
            own = {"setting": "frozen", "method": method, "seed": seed}
            rows += [
                own | {"step": step} | {name: of(is_lost, seed, step) for name, of in columns.items()}
                for step in range(STEPS)
            ]
            at = LOST_AT if is_lost else math.nan
            ends.append(own | {"steps": STEPS, "ended": "finished", "collapsed_at": at})
    kinds = {method: {"actor": {"kind": "frozen"}, "correction": {"kind": method}} for method in ("none", "tis")}
    return Trained(Path("made"), pd.DataFrame(rows), pd.DataFrame(ends), {"frozen": kinds})


def runs_of(figure: Course, seeds: int = 8) -> Runs:
    return before_loss.of_studies([study({KL.column: figure}, seeds)], [KL.column])


def by_hand(values: list[list[float]], lost_at: list[float], **fields: list[Any]) -> tuple[Runs, np.ndarray]:
    """Runs with these signals, each of a seed, a cell and the only study unless `fields` says otherwise."""
    n = len(values)
    made = {"study": [0] * n, "cell": list(range(n)), "seed": list(range(n)), "corrected": [True] * n}
    made |= {"watched": [len(values[0])] * n} | fields
    arrays = {name: np.array(each) for name, each in made.items()}
    return Runs(lost_at=np.array(lost_at), means={}, first={}, **arrays), np.array(values)


def told(runs: Runs, notice: int = 25, signal: Signal = KL, among: Among = Among.ALL) -> Estimate:
    return before_loss.area(runs, before_loss.pairs(runs, runs.alarming(signal), notice, among))


def test_what_marks_lost_runs_is_told_from_when_it_is_known() -> None:
    early = runs_of(lambda is_lost, seed, step: float(is_lost and step > 20) + 0.001 * seed)
    late = runs_of(lambda is_lost, seed, step: float(is_lost and step > LOST_AT - 25) + 0.001 * seed)
    assert told(early).value == 1
    assert told(late).value == pytest.approx(0.5)
    assert told(late, notice=10).value == 1
    assert told(early, signal=dataclasses.replace(KL, rises=False)).value == 0


def test_what_knows_nothing_tells_half_of_the_pairs() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 40, STEPS))
    found = told(runs_of(lambda is_lost, seed, step: noise[int(is_lost), seed, step], seeds=40))
    assert found.low < 0.5 < found.high
    assert found.value == pytest.approx(0.5, abs=3 * math.sqrt(81 / 12) / 40)  # of Mann and Whitney's statistic


def test_what_grows_with_time_alone_tells_nothing_of_a_loss() -> None:
    """Runs that are not lost live longer, and their extremes are larger."""
    noise = np.random.default_rng(1).normal(size=(2, 40, STEPS))
    for sign in (1, -1):
        growing = runs_of(lambda _, seed, step, sign=sign: sign * step)  # type: ignore[misc]
        assert told(growing).value == 0.5, "all alike: ties"
        noisy = runs_of(lambda lost, seed, step, sign=sign: sign * step + noise[int(lost), seed, step], 40)  # type: ignore[misc]
        assert told(noisy).value == pytest.approx(0.5, abs=3 * math.sqrt(81 / 12) / 40)


def test_ties_count_half() -> None:
    runs, signal = by_hand([[1.0] * 9, [1.0] * 9, [0.0] * 9, [2.0] * 9], [5, math.nan, math.nan, math.nan])
    found = before_loss.pairs(runs, signal, 2)
    assert dict(zip(found.control.tolist(), found.worse.tolist(), strict=True)) == {1: 0.5, 2: 1.0, 3: 0.0}


def test_controls_are_alive_and_not_about_to_be_lost() -> None:
    """Run 0 is lost at 10, and compared at 6."""
    values = [[float(step == 6)] * 1 + [0.0] * 29 for step in range(8)]
    lost_at = [10, 14, 15, 10, 9, math.nan, math.nan, math.nan]
    runs, signal = by_hand(values, lost_at, watched=[30, 30, 30, 30, 30, 30, 9, 30], study=[0] * 7 + [1])
    signal[5, 6] = 0.0
    found = before_loss.pairs(runs, signal, 4)
    assert found.control[found.lost == 0].tolist() == [2, 5]
    signal[5, 6] = math.nan
    found = before_loss.pairs(runs, signal, 4)
    assert found.control[found.lost == 0].tolist() == [2]
    assert not len(before_loss.pairs(runs, signal, 16).lost), "no loss has so many steps before it"


def test_pairs_among_which_an_area_is_taken() -> None:
    fields: dict[str, list[Any]] = {"seed": [0, 0, 1, 1], "corrected": [True, True, True, False], "cell": [0, 1, 0, 2]}
    runs, signal = by_hand([[float(run)] * 9 for run in range(4)], [5, math.nan, math.nan, math.nan], **fields)
    controls = {among: before_loss.pairs(runs, signal, 2, among).control.tolist() for among in Among}
    assert controls == {
        Among.ALL: [1, 2, 3],
        Among.SAME_SEED: [1],
        Among.CORRECTED: [1, 2],
        Among.SAME_CELL: [2],
    }
    runs.corrected[0] = False
    assert not len(before_loss.pairs(runs, signal, 2, Among.CORRECTED).lost)


def test_a_run_is_known_by_its_running_mean_and_its_first_steps() -> None:
    noise = np.random.default_rng(2).uniform(1, 2, size=(2, 3, STEPS))
    runs = runs_of(lambda is_lost, seed, step: noise[int(is_lost), seed, step], seeds=3)
    rise = runs.alarming(dataclasses.replace(KL, to_first=True, rises=False))
    for at, seed in enumerate(runs.seed):
        values = noise[int(runs.is_lost[at]), seed]
        assert runs.alarming(KL)[at, 30] == pytest.approx(values[26:31].mean())
        assert runs.alarming(KL)[at, 2] == pytest.approx(values[:3].mean())
        assert rise[at, 30] == pytest.approx(-values[26:31].mean() / values[:3].mean())


def test_runs_with_an_on_policy_actor_are_left_out() -> None:
    found = study({KL.column: lambda *_: 1.0}, seeds=2)
    grid = {"frozen": {**found.grid["frozen"], "tis": {"actor": {"kind": "on-policy"}, "correction": {"kind": "tis"}}}}
    runs = before_loss.of_studies([dataclasses.replace(found, grid=grid)], [KL.column])
    assert runs.is_lost.tolist() == [True, True]
    with pytest.raises(StudyError, match="does not say of what kind the actor of none is"):
        before_loss.of_studies([dataclasses.replace(found, grid={"frozen": {"none": {}, "tis": {}}})], [KL.column])


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(3).normal(size=6)
    seeds = np.arange(6)
    assert before_loss.jackknife(lambda seed: values[seeds != seed].mean(), seeds) == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    )
    assert before_loss.jackknife(lambda _: 1.0, seeds) == (-math.inf, math.inf), "no spread is not certainty"
    assert before_loss.jackknife(lambda seed: values[seed], seeds[:2]) == (-math.inf, math.inf)


def test_an_area_is_without_the_pairs_of_a_seed_on_either_side() -> None:
    """The lost runs of seeds 0 and 1 look worse than the controls of these seeds, and nothing else does."""
    course = [2.0, 2.0, 0.0, 1.0, 1.0, 3.0]
    runs, signal = by_hand([[each] * 9 for each in course], [5] * 3 + [math.nan] * 3, seed=[0, 1, 2, 0, 1, 2])
    shares = np.array([1 / 4, 1 / 4, 1.0])
    error = math.sqrt(2 / 3 * np.sum((shares - shares.mean()) ** 2))
    low, high = shares.mean() + stats.t.ppf([0.025, 0.975], 2) * error
    assert before_loss.area(runs, before_loss.pairs(runs, signal, 2)) == pytest.approx(
        (4 / 9, max(0, low), min(1, high))
    )
    found = before_loss.pairs(runs, signal, 2)
    gain = before_loss.gain(runs, found, found._replace(worse=np.zeros(9)))
    assert gain == pytest.approx((4 / 9, low, high))


@pytest.mark.parametrize(("count", "n"), [(0, 12), (3, 12), (12, 12)])
def test_shares_have_clopper_and_pearsons_interval_or_a_wider_one(count: int, n: int) -> None:
    exact = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    happened = np.arange(n) < count
    alone = before_loss.share(happened, np.zeros(n, dtype=np.int64))
    assert alone == pytest.approx((count / n, exact.low, exact.high))
    spread = before_loss.share(happened, np.arange(n) // 3)  # seeds in which all happens or nothing
    assert spread.low <= alone.low <= alone.high <= spread.high
    assert (spread.low < alone.low) is (0 < count < n)


def test_rates_have_garwoods_interval() -> None:
    exposure = np.full(8, 50.0)
    rate = before_loss.rate_of(np.arange(8) < 3, exposure, np.zeros(8, dtype=np.int64))
    assert rate.value == pytest.approx(3 / 4)
    assert stats.poisson.sf(2, 4 * rate.low) == pytest.approx(0.025)
    assert stats.poisson.cdf(3, 4 * rate.high) == pytest.approx(0.025)
    never = before_loss.rate_of(np.zeros(8, dtype=np.bool_), exposure, np.arange(8))
    assert (never.value, never.low) == (0, 0)
    assert stats.poisson.cdf(0, 4 * never.high) == pytest.approx(0.025)


def test_an_alarm_is_in_time_before_the_notice_and_false_in_a_run_that_lives() -> None:
    """Rings at 3, 6 and after the loss at 10; of the others one rings at 4, and one never."""
    nan = math.nan
    values = np.zeros((6, 20))
    for run, step in ((0, 3), (1, 6), (2, 11), (3, 4)):
        values[run, step:] = 1.0
    runs, signal = by_hand(values.tolist(), [10, 10, 10, nan, nan, 3])
    rung = before_loss.first_rings(runs, signal, 0.5)
    assert rung.tolist() == pytest.approx([3, 6, nan, 4, nan, nan], nan_ok=True)
    assert np.isnan(before_loss.first_rings(runs, signal, 1.0)).all(), "at the threshold it does not ring"
    alarm = before_loss.judged(runs, signal, rung, 5)
    assert alarm.counts == (1, 3, 1, 2), "a loss at 3 leaves no five steps"
    assert alarm.ahead == 7
    assert alarm.false_rate.value == pytest.approx(100 / (5 + 20))
    assert alarm.chance == pytest.approx(1 - math.exp(-6 / 25))


def test_no_seed_chooses_its_own_threshold() -> None:
    """The least threshold at which the other seeds' runs ring at most so often; lost runs choose nothing."""
    generator = np.random.default_rng(4)
    top = generator.uniform(1, 2, size=10)
    lost_at = [10.0 if run % 2 else math.nan for run in range(10)]
    seeds = [run // 2 for run in range(10)]
    runs, signal = by_hand([[0.0] * 10 + [each] * 10 for each in top], lost_at, seed=seeds)
    before = before_loss.held_out(runs, signal, limit=0.0)
    for seed in range(5):
        assert before[2 * seed] == before[2 * seed + 1] == max(top[2 * other] for other in range(5) if other != seed)
    signal[0] += 10.0
    after = before_loss.held_out(runs, signal, limit=0.0)
    assert after[:2].tolist() == before[:2].tolist()
    assert (after[2:] == top[0] + 10).all()
    # Four others of 20 steps: one ring after ten is 1 of 71.
    order = np.sort(top[2::2])
    assert before_loss.held_out(runs, signal, limit=100 / 71)[0] == order[-2]
    assert before_loss.held_out(runs, signal, limit=99 / 71)[0] == order[-1]


def of_figures(**courses: Course) -> Runs:
    """Runs with these figures, and all others constant."""
    columns: dict[str, Course] = {column: lambda *_: 1.0 for column in alarms.COLUMNS}
    columns |= courses
    return before_loss.of_studies([study(columns)], alarms.COLUMNS)


def test_a_figure_is_chosen_by_other_seeds() -> None:
    """KL fails at the loss of seed 0, and χ² by half at that of seed 1: KL is best without seed 0, else χ²."""
    alarm, chosen = alarms.alarm_of_choice(
        of_figures(
            kl_policy_actor=lambda is_lost, seed, _: 1 + is_lost * (2.0 * (seed > 0) - 1),
            chi_square=lambda is_lost, seed, _: (1.0 if seed != 1 else 0.35) if is_lost else seed / 10,
        )
    )
    assert [signal.column for signal in chosen] == ["kl_policy_actor", "chi_square"]
    assert alarm.counts[1::2] == (8, 8)


@pytest.mark.parametrize("limit", [0.0, 0.5, 2.0, 10.0, 100.0])
def test_the_threshold_is_the_least_that_holds_of_all_there_are(limit: float) -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        values = generator.integers(0, 6, size=(7, 9)).astype(float)
        values[generator.random(values.shape) < 0.2] = math.nan
        values[:, 0] = 0.0
        lost_at = np.where(generator.random(7) < 0.3, 6.0, math.nan)
        lost_at[0] = math.nan
        runs, signal = by_hand(values.tolist(), lost_at.tolist())
        found = before_loss.threshold_of(runs, signal, np.ones(7, dtype=bool), limit)
        kept = np.isnan(lost_at)
        for level in np.unique(signal[np.isfinite(signal)]):
            rung = before_loss.first_rings(runs, signal, level)[kept]
            rate = 100 * np.isfinite(rung).sum() / before_loss.exposures(signal[kept], rung).sum()
            # A level below the least largest value of a run rings in all of them.
            assert (rate <= limit) == (level >= found) or level < np.nanmax(signal[kept], axis=1).min()


def test_the_threshold_of_a_chosen_figure_is_too() -> None:
    """A run of seed 0 that lives looks worse than any: it rings, and keeps the other seeds' alarms from ringing."""

    def figure(is_lost: bool, seed: int, step: int) -> float:
        return 1.0 if step <= 10 else 2.0 if is_lost else 3.0 if seed == 0 else 1.0

    alarm, _ = alarms.alarm_of_choice(of_figures(kl_policy_actor=figure))
    assert alarm.counts == (1, 8, 1, 8)


def judged_study(p5: Course, seeds: int = 8) -> Several:
    noise = np.random.default_rng(5).uniform(0.9, 1, size=(2, seeds, STEPS))
    columns: dict[str, Course] = {
        column: lambda is_lost, seed, step: noise[int(is_lost), seed, step] for column in alarms.COLUMNS
    }
    columns["overlap_p5"] = p5
    return Several([study(columns, seeds)])


@pytest.mark.parametrize(
    ("p5", "compared", "worth"),
    [
        (lambda is_lost, seed, step: 0.7 if is_lost and step > 10 else 0.9, "more than", "is a good alarm"),
        (lambda is_lost, seed, step: 0.7 if is_lost and step > 10 else 0.8, "more than", "is no alarm"),
        (lambda is_lost, seed, step: 0.7 if is_lost and seed % 4 and step > 10 else 0.9, ".*more", "decide"),
    ],
)
def test_the_verdict_names_the_best_figure_and_judges_the_labs(p5: Course, compared: str, worth: str) -> None:
    verdict = alarms.make(judged_study(p5)).verdict
    assert "figures overlap, 5th pct. tells best of a loss 25 steps before" in verdict
    assert re.search(rf"5th percentile tells {compared}.* its mean, and below 0.86 it .*{worth}", verdict)


def test_records_that_judge_no_alarm_are_refused() -> None:
    found = judged_study(lambda *_: 1.0, seeds=3)
    (one,) = found.studies
    kept = dataclasses.replace(one, outcomes=one.outcomes.assign(collapsed_at=math.nan))
    with pytest.raises(StudyError, match="no two runs of which one was lost and one was not"):
        alarms.make(Several([kept]))
    with pytest.raises(StudyError, match="holds one seed"):
        alarms.make(judged_study(lambda *_: 1.0, seeds=1))


def test_several_studies_are_drawn_and_compared_within_themselves(tmp_path: Path, capsys: Captured) -> None:
    figures = dict.fromkeys(set(alarms.COLUMNS) - {"kl_policy_actor", "accuracy", "reward", "acceptance_rate"}, 0.5)
    fates = dict.fromkeys(("on-policy", "tis", "jackpot", "rao-blackwell"), Fate(figures=figures))
    fates |= {"none": Fate(kl=3.0, lost_at=60, figures=figures)}
    roots = [write(tmp_path / f"{seeds} seeds", "figure1", fates, seeds=seeds, steps=120) for seeds in (2, 3)]
    assert alarms.main(["--records", *map(str, roots), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"Records {roots[0]}, {roots[1]}" in shown
    assert "tells best of a loss 25 steps before" in shown
    assert "of 3 seeds in 2 studies" in shown


def test_studies_without_the_figures_are_refused_or_passed_over(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dict.fromkeys(("on-policy", "none", "tis", "jackpot", "rao-blackwell"), Fate())
    root = write(tmp_path / "shipped" / "figure1", "figure1", plain, seeds=1, steps=60)
    assert alarms.main(["--records", str(root), "--out", str(tmp_path)]) == 2
    assert "lacks k1" in capsys.readouterr().err
    assert alarms.main(["--quick"]) == 2
    assert "--quick" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(training_records, "committed", lambda name: tmp_path / "shipped" / name)
        with pytest.raises(StudyError, match="no records of alarms ship"):
            load_several(alarms.NAME, None, alarms.COLUMNS)
    found = load_several(alarms.NAME, None, alarms.COLUMNS)
    assert committed("factorial") in [each.root for each in found.studies]
    assert committed("figure1") not in [each.root for each in found.studies]


def test_rules_are_those_of_diagnose() -> None:
    bounds = {rule.name: rule.bound for rule in trends.RULES}
    ours = {rule.name: rule.bound for rule in alarms.RULES}
    assert ours["k3 > 0.01"] == bounds["k3"]
    assert ours["k3 > 3 × first"] == bounds["k3-rise"]
    assert ours["ESS of p/q < 0.5"] == bounds["ess"]
    assert alarms.STABLE.bound == STABLE
    assert before_loss.FIRST_STEPS == trends.FIRST_STEPS


def test_what_diagnose_says_of_its_rules_is_what_the_study_gives() -> None:
    (factorial,) = load_several(alarms.NAME, [committed("factorial")], alarms.COLUMNS).studies
    runs = before_loss.of_studies([factorial], alarms.COLUMNS)
    of_rule = {rule.name: alarms.rule_of(runs, rule) for rule in alarms.RULES}
    assert trends.__doc__ is not None
    text = " ".join(trends.__doc__.split())
    n, lost = len(runs.seed), int(runs.is_lost.sum())
    assert (
        f"`factorial`, {n} small runs of sixteen seeds at addition with another model as actor, {lost} of them" in text
    )
    for rule in alarms.RULES:
        rung = before_loss.first_rings(runs, runs.alarming(rule.signal), rule.threshold)
        if rule in (alarms.STABLE, alarms.RULES[2]):
            assert (rung == 0).all(), rule.name
    *_, rang, kept = of_rule["ESS of p/q < 0.5"].counts
    assert f"below 0.5 in {rang} of the {kept} runs that are not lost" in text
    rise = of_rule["k3 > 3 × first"]
    assert f"rings 25 steps ahead in {rise.in_time} of the losses, and in {rise.false_runs} of the other runs" in text
    assert "No figure of a log tells half of the losses in time for sure" in text
    assert "for one false alarm in 1,000 steps" in text
    assert alarms.LIMIT == 0.1
    in_time = {signal.name: alarms.alarm_of(runs, signal)[0].in_time for signal in alarms.SIGNALS}
    assert all(each.low < 0.5 for each in in_time.values())
    assert f"the gradient norm tells most, {max(in_time.values())})" in text
    assert max(in_time.values()) == in_time["gradient norm"]
