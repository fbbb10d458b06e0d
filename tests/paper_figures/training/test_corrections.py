"""What the study of further corrections says follows the numbers of its cells and of the factorial study's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from scipy import stats

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.study import read
from paper_figures import corrections, factorial
from paper_figures.corrections import less_than, make, together
from paper_figures.training.records import Trained, config
from paper_figures.training.statistics import per_run
from tests.paper_figures.training.trained import Fate, made

pytestmark = pytest.mark.usefixtures("sketched")

ACCURACY = {"sequence-mis": 0.8, "sequence-tis": 0.5, "jackpot-lab": 0.65, "centred-none": 0.2, "centred-tis": 0.65}


def fate(setting: str, method: str, seed: int) -> Fate:
    """TIS and all of factorial's methods reach 0.65; where the actor learns, every correction does as well as TIS."""
    return Fate(ACCURACY.get(method, 0.65) if setting == "frozen" else 0.65, kl=0.2)


def studies(tmp_path: Path, seeds: int = 5) -> tuple[Trained, Trained]:
    more = made(tmp_path / "more", "corrections", fate, seeds=seeds, steps=60)
    return more, made(tmp_path / "base", "factorial", fate, seeds=6, steps=60)


def test_corrections_are_compared_with_tis_of_the_same_seeds(tmp_path: Path) -> None:
    more, base = studies(tmp_path)
    told, frozen, own, distilled, *_ = make(more, base).verdict.splitlines()
    assert "5 seeds" in told
    assert frozen.startswith("  Beside TIS, frozen actor: better")
    better, worse = frozen.split("worse")
    assert "sequence MIS +0.1" in better
    assert "sequence TIS -0.1" in worse
    assert "centred, no correction -0.4" in worse
    assert "centred TIS" in worse.split("LEFT OPEN")[1]
    assert own.startswith("  Beside TIS, own PPO alone: ")
    for each in (own, distilled):
        assert "better none; worse none; LEFT OPEN" in each


@pytest.mark.parametrize(
    ("base", "cell", "cells"),
    [
        (corrections.TIS, ("frozen", "tis"), 24),  # 8 corrections, 3 actors
        (corrections.WHOLE, ("distilled", "jackpot"), 26),
        (corrections.BASES[2], ("on-policy", "none"), 27),
    ],
)
def test_intervals_beside_the_same_other_hold_together(
    tmp_path: Path, base: corrections.Base, cell: tuple[str, str], cells: int
) -> None:
    more, factorial_ = studies(tmp_path)
    runs = together(per_run(factorial_), per_run(more))
    found = less_than(runs, base)
    assert sum(map(len, found.values())) == cells
    accuracy = runs["accuracy"].unstack("seed").T
    change = accuracy["frozen", "sequence-mis"] - accuracy[cell]
    mine = found["sequence-mis"]["frozen"]
    assert (mine.low, mine.high) == pytest.approx(
        tuple(stats.ttest_1samp(change, 0.0).confidence_interval(1 - 0.05 / cells))
    )
    assert f"sequence MIS {mine}" in make(more, factorial_).verdict


def test_only_seeds_of_both_studies_count(tmp_path: Path) -> None:
    more, base = (per_run(each) for each in studies(tmp_path))
    assert set(together(base, more).index.get_level_values("seed")) == {0, 1, 2, 3, 4}
    with pytest.raises(StudyError, match="no seed in common"):
        together(base.xs(5, level="seed", drop_level=False), more)


def test_a_quick_look_decides_nothing(tmp_path: Path) -> None:
    more, base = studies(tmp_path)
    assert make(dataclasses.replace(more, quick=True), base).verdict.startswith("NO VERDICT")


def test_both_studies_differ_in_corrections_and_tests_alone() -> None:
    more, base = (read(config(name)) for name in (corrections.NAME, factorial.NAME))
    for setting in corrections.ACTORS:
        tis = base.grid[setting]["tis"]
        alike = {"correction": tis.correction, "evaluation": tis.evaluation}
        for run in more.grid[setting].values():
            assert run.model_copy(update=alike) == tis
            assert run.evaluation == tis.evaluation.model_copy(update={"samples": 0})  # greedy completions are equal
