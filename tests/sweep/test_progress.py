"""The time that a sweep has left, its first figures, and the words on its first answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.sweep import plan, records, spec
from jackpot_sim.sweep.answers import explained
from jackpot_sim.sweep.display import Early
from jackpot_sim.sweep.remaining import Pace
from jackpot_sim.sweep.run import Progress, run
from jackpot_sim.sweep.spec import Study


def study_of(vocab: int = 50, n_samples: int = 256) -> Study:
    base = {"kind": "lm-like", "vocab": vocab, "states": 4}
    env = {"kind": "logit-noise", "base": base, "target_kl": [0.001, 0.1]}
    return spec.parse({"env": env, "estimators": ["none", "tis"], "seeds": 2, "n_samples": n_samples})


def test_the_time_left_is_that_of_the_work_left_at_the_pace_since_the_first_cell() -> None:
    now = [50.0]
    pace = Pace({"a": 1.0, "b": 2.0, "c": 4.0}, lambda: now[0])
    pace.finished([])
    now[0] = 100.0  # the processes took as long to start
    pace.finished(["a"])
    assert pace.seconds is None
    now[0] = 106.0
    pace.finished(["a", "b"])
    assert pace.seconds == pytest.approx(12.0)
    now[0] = 110.0
    assert pace.seconds == pytest.approx(8.0)
    now[0] = 200.0
    assert pace.seconds == 0.0


def test_the_first_figures_are_told_once_an_environment_is_done(tmp_path: Path) -> None:
    study, now, told = study_of(), [0.0], []
    early = Early(study, tmp_path, every=30.0, clock=lambda: now[0])

    def report(progress: Progress) -> None:
        now[0] += 10.0
        told.append(early.line(progress))

    with opened(ExecutorKind.SERIAL, 1, 1) as executor:
        run(study, tmp_path, executor, report=report)
    assert [bool(line) for line in told] == [False, False, True, False, False]
    assert told[2].startswith("study, 2 of 4 cells, about 20 s left: logit-noise on lm-like, sigma=")
    assert "KL 0.001; least MSE " in told[2]
    late = Early(study, tmp_path, first=15.0, clock=lambda: 0.0)
    assert late.line(Progress(3, 4, 0, frozenset(each.id for each in plan.cells(study)[:3]))) == ""


def test_the_first_answer_is_put_in_words(tmp_path: Path) -> None:
    """The shares are those of the records, by hand."""
    with opened(ExecutorKind.SERIAL, 1, 1) as executor:
        for name, study in (("many", study_of()), ("few", study_of(n_samples=1))):
            run(study, tmp_path / name, executor)
    rows = records.load(tmp_path / "many")
    near, far = (each for _, each in rows.groupby("environment", sort=False))
    told = explained(rows)
    for each in (near, far):
        error = each.groupby("estimator")["mse"].mean()
        assert f"{error.min() / error['none']:.0%}" in told
        none = each[each["estimator"] == "none"]
        assert f"{(none['bias'] ** 2).mean() / none['mse'].mean():.0%}" in told
    assert "no update at all is best" in explained(records.load(tmp_path / "few"))
    assert explained(rows[rows["estimator"] != "none"]) == ""
