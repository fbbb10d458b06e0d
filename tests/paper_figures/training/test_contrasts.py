"""Comparisons named beforehand, of recipes, longer sequences and updates on one batch: each says what the runs do."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.study import read
from paper_figures import longer, recipes, updates
from paper_figures.training.contrasts import Cell, Contrast, contrasted, in_words
from paper_figures.training.records import config
from paper_figures.training.statistics import Difference, per_run
from tests.paper_figures.training.trained import Fate, made

pytestmark = pytest.mark.usefixtures("sketched")


def recipe(setting: str, method: str, seed: int) -> Fate:
    """Distilled beside sequence TIS is best, beside RB-Jackpot like all the others."""
    return Fate(0.9 if (setting, method) == recipes.RECIPES["distilled, sequence TIS"] else 0.6)


def stale(setting: str, method: str, seed: int) -> Fate:
    """Without a clip Jackpot is above it at 16 updates, below at 128, and now one and now the other in between."""
    gain = {"16x": 0.2, "128x": -0.2}.get(setting.split("_")[1], (-0.2, 0.2)[seed % 2])
    return Fate(0.6 + gain * (method == "jackpot"), kl=0.0)


def test_contrasts_are_paired_by_seed_and_hold_together(tmp_path: Path) -> None:
    runs = per_run(made(tmp_path / "records", "recipes", recipe, seeds=5, steps=60))
    first, second = recipes.RECIPES["distilled, RB-Jackpot"], recipes.OTHERS["on-policy"]
    asked = [
        Contrast("a", first, second),
        Contrast("b", second, first),
        Contrast("c", first, Cell("frozen", "sequence-tis")),
    ]
    found = contrasted(runs, asked)
    accuracy = runs["accuracy"].unstack("seed").T
    ends = stats.ttest_1samp(accuracy[first] - accuracy[second], 0.0).confidence_interval(1 - 0.05 / 3)
    assert (found["a"].low, found["a"].high) == pytest.approx(tuple(ends))
    assert (found["b"].low, found["b"].high) == pytest.approx((-ends.high, -ends.low))
    assert found["c"].pairs == 5


def test_a_contrast_is_above_below_or_open() -> None:
    found = {
        "x": Difference(0.2, 0.1, 0.3, 5),
        "y": Difference(-0.2, -0.3, -0.1, 5),
        "z": Difference(0.1, -0.1, 0.3, 5),
    }
    assert in_words(found) == f"ABOVE: x {found['x']}; BELOW: y {found['y']}; LEFT OPEN: z {found['z']}"
    assert in_words({"z": found["z"]}) == f"LEFT OPEN: z {found['z']}"


def test_recipes_are_compared_with_what_they_have_to_beat(tmp_path: Path) -> None:
    told = recipes.make(made(tmp_path / "records", "recipes", recipe, seeds=5, steps=60)).verdict
    above, left = told.split("LEFT OPEN")
    assert told.startswith("VERDICT: in last accuracy, 5 fresh seeds, ABOVE: ")
    assert above.count("distilled, sequence TIS − ") == len(recipes.OTHERS) == left.count("distilled, RB-Jackpot − ")


def test_a_quick_look_at_recipes_decides_nothing(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "recipes", recipe, quick=True)
    assert recipes.make(found).verdict.startswith("NO VERDICT")


def test_recipes_are_told_on_seeds_that_no_other_study_has() -> None:
    others = [read(config(name)) for name in ("factorial", "corrections", "figure1", "ablation", "table1")]
    assert not set(read(config(recipes.NAME)).seeds) & {seed for study in others for seed in study.seeds}


def test_recipes_have_the_settings_of_the_studies_that_led_to_them() -> None:
    factorial, mine = (read(config(name)).grid for name in ("factorial", "recipes"))
    assert (
        mine["distilled"]["jackpot"].model_copy(update={"evaluation": factorial["distilled"]["jackpot"].evaluation})
        == factorial["distilled"]["jackpot"]
    )
    for method in mine["distillation-alone"].values():
        assert method.actor == factorial["distillation-alone"]["none"].actor


def long(setting: str, method: str, seed: int) -> Fate:
    """TIS with a frozen actor is worse than all the others, which are alike."""
    return Fate(0.3 if (setting, method) == longer.TIS else 0.6)


def test_longer_sequences_say_what_was_asked_beforehand(tmp_path: Path) -> None:
    told = longer.make(made(tmp_path / "records", "longer", long, seeds=5, steps=60)).verdict
    above, left = told.split("LEFT OPEN")
    assert above.startswith("VERDICT: in last accuracy, 5 seeds, ABOVE: ")
    assert "sequence TIS − TIS, frozen +" in above
    assert "distilled − frozen, TIS +" in above
    assert left.count("[") == len(longer.COMPARED) - 2


def test_longer_sequences_are_longer_than_those_of_the_factorial_and_all_else_is_the_same() -> None:
    factorial, mine = (read(config(name)).grid for name in ("factorial", "longer"))
    for setting, method in (("frozen", "tis"), ("distilled", "tis"), ("distilled", "jackpot")):
        one, other = factorial[setting][method], mine[setting][method]
        changed = {"task": one.task, "evaluation": one.evaluation}
        assert other.model_copy(update=changed) == one
        assert (other.task.max_new_tokens, one.task.max_new_tokens) == (8, 5)


def test_updates_says_where_jackpot_is_above_the_clip(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "updates", stale, seeds=5)
    holds = {claim.text.split(" at ")[1]: claim.holds for claim in updates.claims_of(found)[:3]}
    assert holds == {"16 updates": True, "64 updates": None, "128 updates": False}
    made_of = updates.make(found)
    assert not made_of.agrees
    above = made_of.verdict.split("ABOVE: ")[1].split(";")[0]
    assert [name.split(" +")[0] for name in above.split("], ")] == ["Jackpot, 0.0001, 16", "Jackpot, 0.0003, 16"]
    assert made_of.verdict.endswith(" of 24 cells.")


def test_a_seed_of_updates_counts_once(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "updates", stale, seeds=3)
    accuracy = per_run(found)["accuracy"].unstack("seed").T
    each = [accuracy[f"{rate}_16x", "jackpot"] - accuracy[f"{rate}_16x", "off-policy"] for rate in ("1e-4", "3e-4")]
    ends = stats.ttest_1samp(sum(each) / 2, 0.0).confidence_interval(0.95)
    assert f"[{ends.low:+.3f}, {ends.high:+.3f}]" in updates.claims_of(found)[0].because


def test_all_runs_of_updates_have_equally_many(tmp_path: Path) -> None:
    for methods in read(config(updates.NAME)).grid.values():
        for run in methods.values():
            assert run.steps * run.update.minibatches == 640
            assert run.rollout.prompts // run.update.minibatches * run.rollout.samples == 64


def test_updates_without_clipping_are_refused(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "updates", stale, seeds=1)
    lacking = found.outcomes[found.outcomes["method"] != "jackpot"]
    with pytest.raises(StudyError, match="lacks jackpot in setting 1e-4_16x"):
        updates.make(type(found)(found.root, found.steps, lacking, found.grid))
