"""What the factorial study says follows the numbers of its cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from jackpot_sim.studies.errors import StudyError
from paper_figures import factorial
from paper_figures.factorial import as_the_paper, changes_of, effects_of
from paper_figures.training.statistics import of, per_run
from tests.paper_figures.training.trained import Fate, Fates, made, write

pytestmark = pytest.mark.usefixtures("sketched")

ACTORS = {"frozen": 0.5, "own-ppo": 0.3, "distilled": 0.7}
METHODS = {"none": 0.0, "tis": 0.1, "jackpot": 0.16, "rao-blackwell": 0.12}


def added(setting: str, method: str, seed: int) -> Fate:
    """Actor and correction add up, but for a correction beside distillation, which adds 0.08 more."""
    if setting not in ACTORS:
        return Fate({"distillation-alone": 0.4, "on-policy": 0.9}[setting], kl=0.01)
    more = 0.08 if setting == "distilled" and method != "none" else 0.0
    return Fate(ACTORS[setting] + METHODS[method] + more, kl={"frozen": 0.6, "own-ppo": 2.0, "distilled": 0.1}[setting])


def test_effects_are_the_differences_of_cells(tmp_path: Path) -> None:
    changes = changes_of(per_run(made(tmp_path / "records", "factorial", added, seeds=8, steps=200)))
    truth = {
        "distillation": 0.4 + 0.08 * 3 / 4,
        "own PPO": -0.2,
        "own PPO, distilled": 0.7 - 0.4,
        "a correction": sum(METHODS.values()) / 3 + 0.08 / 3,
        "Jackpot's weight − TIS": 0.02,
        "Jackpot's mask": 0.04,
        "Jackpot − TIS, distilled": 0.06,
        "correction × distillation": 0.04,
    }
    assert {part: each.mean() for part, each in changes.items()} == pytest.approx(truth, abs=0.02)
    assert all(each.notna().sum() == 8 for each in changes.values())


def test_intervals_of_all_parts_and_looks_hold_together(tmp_path: Path) -> None:
    runs = per_run(made(tmp_path / "records", "factorial", added, seeds=8, steps=200))
    effects, changes = effects_of(runs), changes_of(runs)
    assert effects.keys() == changes.keys()
    for part, effect in effects.items():
        alone = stats.ttest_1samp(changes[part], 0.0).confidence_interval(1 - 0.05 / (8 * 3))
        assert (effect.low, effect.high) == pytest.approx(tuple(alone))


def test_lines_of_the_paper_are_the_cells_that_stand_for_them(tmp_path: Path) -> None:
    runs = per_run(made(tmp_path / "records", "factorial", added, seeds=3, steps=200))
    paper = as_the_paper(runs)
    for method, (setting, own) in {
        "none": ("own-ppo", "none"),
        "tis": ("own-ppo", "tis"),
        "jackpot": ("distilled", "jackpot"),
        "on-policy": ("on-policy", "none"),
    }.items():
        assert of(paper, method, "accuracy").tolist() == runs.xs((setting, own), level=(0, 1))["accuracy"].tolist()


LOST = {("own-ppo", "none"): Fate(lost_at=40, kl=8.0), ("own-ppo", "tis"): Fate(lost_at=120, kl=1.0)}


@pytest.mark.parametrize(
    ("fates", "code", "says"),
    [
        (lambda setting, method, seed: LOST.get((setting, method)) or added(setting, method, seed), 0, "SUPPORTS that"),
        (added, 1, "DOES NOT SUPPORT that without a correction training collapses"),
    ],
)
def test_the_verdict_follows_the_cells(
    fates: Fates, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "records", "factorial", fates, seeds=8, steps=200)
    assert factorial.main(["--records", str(root), "--out", str(tmp_path)]) == code
    told = capsys.readouterr().out
    assert says in told
    assert "distillation HELPS +0." in told


def test_a_study_without_a_cell_is_refused(tmp_path: Path) -> None:
    root = made(tmp_path / "records", "figure1", {**dict.fromkeys(METHODS, Fate()), "on-policy": Fate()}, seeds=2)
    with pytest.raises(StudyError, match="lacks none in setting frozen"):
        factorial.make(root)
