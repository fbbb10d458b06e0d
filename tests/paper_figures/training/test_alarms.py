"""Alarms: what counts as in time, whose thresholds judge whom, and what the verdict says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.studies.errors import StudyError
from paper_figures import alarms
from paper_figures.alarms import Alarm, area, curve, fixed, held_out, scores
from paper_figures.training.records import Trained
from paper_figures.training.statistics import lost

pytestmark = pytest.mark.usefixtures("sketched")

KL = Alarm("kl_policy_actor", "KL")
STEPS, LOST_AT = 100, 60


def trained(figure: Callable[[bool, int, int], float], seeds: int = 8, column: str = KL.column) -> Trained:
    """A lost and a kept run of each seed; the figure of a lost or kept run of a seed at a step."""
    rows, ends = [], []
    for seed in range(seeds):
        for method, is_lost in (("none", True), ("tis", False)):
            own = {"setting": "frozen", "method": method, "seed": seed}
            rows += [own | {"step": step, column: figure(is_lost, seed, step)} for step in range(STEPS)]
            ends.append(own | {"steps": STEPS, "ended": "finished", "collapsed_at": LOST_AT if is_lost else math.nan})
    return Trained(Path("made"), pd.DataFrame(rows), pd.DataFrame(ends), {}, False)


def judged_of(found: Trained, alarm: Alarm = KL, notice: int = 25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scores(found, lost(found.outcomes), alarm, notice)


def test_what_rises_long_before_the_loss_is_told_and_what_rises_after_it_is_not() -> None:
    early = trained(lambda is_lost, seed, step: float(is_lost and step > 20) + 0.001 * seed)
    late = trained(lambda is_lost, seed, step: float(is_lost and step > LOST_AT - 25) + 0.001 * seed)
    assert area(*judged_of(early)) == 1
    assert area(*judged_of(late)) == pytest.approx(0.5)
    assert area(*judged_of(late, notice=10)) == 1


def test_scores_are_extremes_of_running_means_before_the_loss() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 8, STEPS))
    found = trained(lambda is_lost, seed, step: noise[int(is_lost), seed, step])
    for alarm, sign in ((KL, 1), (KL._replace(rises=False), -1)):
        reached, is_lost, seeds = judged_of(found, alarm)
        for value, of_lost, seed in zip(reached, is_lost, seeds, strict=True):
            values = noise[int(of_lost), int(seed), : LOST_AT - 25 + 1 if of_lost else STEPS]
            means = [values[max(0, at - 4) : at + 1].mean() for at in range(len(values))]
            assert value == pytest.approx(max(sign * each for each in means))


def test_the_area_is_that_under_the_curve() -> None:
    generator = np.random.default_rng(1)
    is_lost = np.arange(40) < 15
    reached = generator.normal(size=40) + is_lost
    false, in_time = curve(reached, is_lost, reached)
    assert np.trapezoid(in_time, false) == pytest.approx(area(reached, is_lost, reached))
    assert (false[0], in_time[0], false[-1], in_time[-1]) == (0, 0, 1, 1)


def test_no_run_judges_the_threshold_that_it_chose() -> None:
    """The kept run of seed 0 goes far: it is a false alarm, and raises the thresholds of the other seeds alone."""
    reached = np.array([5.0, 9.0, *[2.0, 0.1] * 7])
    is_lost, seeds = np.arange(16) % 2 == 0, np.arange(16).astype(float) // 2
    judged = held_out(reached, is_lost, seeds)
    assert (judged.false, judged.kept) == (1, 8)
    assert (judged.in_time, judged.lost) == (1, 8), "of others the threshold is 9"
    assert judged.threshold == pytest.approx((0.1 + 7 * 9) / 8)
    assert fixed(reached, is_lost, 1.0)[1:] == (8, 8, 1, 8)


def test_the_verdict_names_the_best_alarm_and_judges_the_labs(capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(2)
    found = trained(lambda is_lost, seed, step: float(generator.normal()))
    other = trained(lambda is_lost, seed, step: 0.7 if is_lost and step > 10 else 0.9, column="overlap_p5")
    found.steps["overlap_p5"] = other.steps["overlap_p5"]
    made = alarms.make(found)
    assert "overlap, 5th percentile tells best 25 steps before" in made.verdict
    assert (
        "overlap, 5th percentile below 0.86: in time in 1.00 [0.63, 1.00] of 8 lost runs, false in 0.00" in made.verdict
    )


def test_runs_of_one_fate_alone_are_refused() -> None:
    found = trained(lambda is_lost, seed, step: 1.0)
    kept = found.outcomes.assign(collapsed_at=math.nan)
    with pytest.raises(StudyError, match="no two runs of which one was lost and one was not"):
        alarms.make(Trained(found.root, found.steps, kept, {}, False))
