"""ablation, collapse_map, no_clipping, long_run and closed_loop: what each says follows the numbers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jackpot_sim.training.study import of_mapping, read
from paper_figures import (
    ablation,
    closed_loop,
    collapse_map,
    figure1,
    long_run,
    no_clipping,
    real_training,
    sizes,
    style,
    table1,
    table2,
    updates,
)
from paper_figures.ablation import parts_of
from paper_figures.closed_loop import Loop
from paper_figures.training.records import config, of_folder
from paper_figures.training.statistics import per_run
from tests.paper_figures.training.trained import Fate, Fates, made, write, write_study

pytestmark = pytest.mark.usefixtures("sketched")

Captured = pytest.CaptureFixture[str]

EVERY = (
    *(figure1, table1, table2, updates, sizes, collapse_map),
    *(ablation, no_clipping, long_run, closed_loop, real_training),
)

ALIKE = dict.fromkeys(
    ("jackpot", "rao-blackwell", "p-ref", "rao-blackwell-p-ref", "tis", "obrs", "no-c1", "no-c2"), Fate(kl=0.1)
)
STABLE = {"on-policy": Fate(0.85, kl=0.0), "jackpot": Fate(0.8), "rao-blackwell": Fate(0.8)}
UNSTABLE = {"none": Fate(0.7, lost_at=40), "tis": Fate(0.7, lost_at=70)}
LONG = {"tis": Fate(0.6, lost_at=300), "jackpot": Fate(0.8, lost_at=540), "rao-blackwell": Fate(0.8)}
WEIGHT, BUDGET = {"distillation_weight": 1.0}, {"distillation_weight": 0.1, "rejected_budget": 0.1}
LOOPS = {
    **{f"fixed-weight-{each}": Fate(0.6, kl=0.3, figures=WEIGHT) for each in ("0.1", "1", "10")},
    "adapted-weight": Fate(0.8, kl=0.03, figures=WEIGHT),
    "fixed-budget": Fate(0.6, kl=0.3, figures=BUDGET),
    "adapted-budget": Fate(0.8, kl=0.03, figures=BUDGET),
}


def mapped(setting: str, method: str, seed: int, sign: float = 1.0) -> Fate:
    """Lost the sooner, the farther the actor is; Jackpot later than TIS, and that later than none."""
    kl = float(setting.removeprefix("kl-"))
    first = {"none": 10, "tis": 20, "jackpot": 35}.get(method, 25)
    at = first + 100 * (0.8 - kl if sign > 0 else kl - 0.4) + seed
    return Fate(0.8, kl=2 * kl, lost_at=round(at))


def drawn(module: ModuleType, tmp_path: Path, fates: Fates, **overrides: int) -> int:
    given = write(tmp_path / "records", module.NAME, fates, **overrides)
    code: int = module.main(["--records", str(given), "--out", str(tmp_path)])
    return code


@pytest.mark.parametrize(("z", "told"), [(0.3, "HELPS"), (-0.3, "HARMS"), (0.0, "LEFT OPEN")])
def test_ablation_says_what_each_part_does(tmp_path: Path, capsys: Captured, z: float, told: str) -> None:
    fates = ALIKE | {"tis": Fate(0.8 - z)}
    assert drawn(ablation, tmp_path, fates, seeds=4, steps=60) == 0
    shown = capsys.readouterr().out
    assert f"the factor Z (and its clip): {told}" in shown
    assert "the clip c2: LEFT OPEN" in shown
    assert "…" not in shown


def test_ablation_of_one_seed_is_open(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(ablation, tmp_path, ALIKE | {"tis": Fate(0.3)}, seeds=1, steps=60) == 0
    told = capsys.readouterr().out.split("VERDICT")[1]
    assert told.count("LEFT OPEN (") == len(ablation.PARTS)


def _differ(first: Any, second: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = {*first, *second}
        found = (_differ(first.get(key), second.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
        return {name: values for each in found for name, values in each.items()}
    return {} if first == second else {path: (first, second)}


def test_ablations_parts_are_alike_in_all_else() -> None:
    (methods,) = read(config("ablation")).model_dump(mode="json")["grid"].values()
    changed = {part: _differ(methods[having], methods[lacking]) for part, having, lacking in ablation.PARTS}
    assert all(name.startswith("correction.") for each in changed.values() for name in each)
    one = {part: {*each} for part, each in changed.items() if methods_alike(each)}
    assert one == {
        "the mask": {"correction.rao_blackwell"},
        "the target p_new, not p_ref": {"correction.target"},
        "the clip c1": {"correction.parameters.c1"},
        "the clip c2": {"correction.parameters.c2"},
    }
    targets = {part: (methods[a]["correction"].get("target"), b) for part, a, b in ablation.PARTS}
    assert targets["the weights beside the mask"] == ("p_ref", "obrs")  # whose mask is for p_ref too
    assert targets["the factor Z (and its clip)"] == ("p_ref", "tis")


def methods_alike(changed: dict[str, tuple[Any, Any]]) -> bool:
    """Whether both are of one kind."""
    return "correction.kind" not in changed


def test_ablations_intervals_hold_together(tmp_path: Path) -> None:
    runs = per_run(made(tmp_path / "records", "ablation", ALIKE, seeds=3, steps=60))
    alone = parts_of(runs[runs.index.get_level_values("method").isin(["p-ref", "obrs"])])
    together = parts_of(runs)
    assert len(together) == len(ablation.PARTS)
    ((name, one),) = alone.items()
    assert together[name].mean == one.mean
    assert together[name].high > one.high


def test_collapse_map(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(collapse_map, tmp_path, mapped, seeds=5, steps=120) == 0
    shown = capsys.readouterr().out
    assert "SUPPORTS that without a correction a farther actor is lost sooner" in shown
    assert "SUPPORTS that Jackpot is lost later than no correction" in shown
    assert "SUPPORTS that Jackpot is lost later than TIS" in shown


def test_collapse_map_the_other_way_round(tmp_path: Path, capsys: Captured) -> None:
    def fates(setting: str, method: str, seed: int) -> Fate:
        return mapped(setting, {"tis": "jackpot", "jackpot": "tis"}.get(method, method), seed, sign=-1.0)

    assert drawn(collapse_map, tmp_path, fates, seeds=5, steps=120) == 1
    shown = capsys.readouterr().out
    assert "DOES NOT SUPPORT that without a correction a farther actor" in shown
    assert "DOES NOT SUPPORT that Jackpot is lost later than TIS" in shown


def test_distances_are_no_repetitions(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(collapse_map, tmp_path, mapped, seeds=1, steps=120) == 0
    shown = capsys.readouterr().out
    assert shown.count("LEAVES OPEN") == 3
    assert "Kendall's τ of distance and survival -1.00 by seed" in shown


def test_runs_that_all_stop_early_survive_a_share_of_what_was_asked(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "collapse_map", lambda *_: Fate(lost_at=30, stops_at=60), seeds=1, steps=120)
    runs = per_run(found)
    collapse_map.make(found)
    assert (runs["lost_at"] / runs["asked"]).max() < 0.4


def test_the_boundary_lies_between_what_is_kept_and_lost(tmp_path: Path) -> None:
    def fates(setting: str, method: str, seed: int) -> Fate:
        kl = float(setting.removeprefix("kl-"))
        borne = {"tis": (0.4, 0.5, 0.6)[seed], "none": 0.0, "jackpot": 1.0}.get(method, 0.5)
        figures = {"kl_policy_actor": kl, "overlap_p5": 1 - kl}
        return Fate(lost_at=40 if kl > borne else None, figures=figures)

    found = made(tmp_path / "records", "collapse_map", fates, seeds=3, steps=120)
    runs = per_run(found)
    kl, overlap = (collapse_map.boundaries(found, runs, danger) for danger in (collapse_map.KL, collapse_map.OVERLAP))
    of_seeds = np.log([0.4 * 0.5, 0.5 * 0.6, 0.6 * 0.7]) / 2  # half-way between neighbours on the logarithmic axis
    assert np.log(kl["tis"].mean.mean) == pytest.approx(of_seeds.mean())
    assert np.log([kl["tis"].mean.low, kl["tis"].mean.high]) == pytest.approx(
        stats.ttest_1samp(of_seeds, 0.0).confidence_interval(0.95)
    )
    assert overlap["tis"].mean.mean == pytest.approx(np.mean([0.55, 0.45, 0.35]))
    assert (kl["none"].mean.mean, *kl["none"][1:]) == (pytest.approx(0.4), 3, 0)
    assert (overlap["none"].mean.mean, *overlap["none"][1:]) == (pytest.approx(0.6), 3, 0)
    assert (kl["jackpot"].mean.mean, *kl["jackpot"][1:]) == (pytest.approx(0.8), 0, 3)


def test_collapse_map_of_records_without_percentiles_has_no_boundary_in_them(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "collapse_map", mapped, seeds=2, steps=120)
    assert len(collapse_map.make(found).figure.axes) == 2


def test_collapse_map_where_nothing_is_lost_is_open(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(collapse_map, tmp_path, lambda *_: Fate(), seeds=1, steps=60) == 0
    assert "LEAVES OPEN whether without a correction" in capsys.readouterr().out


def test_distances_are_those_that_were_asked_for(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "collapse_map", mapped, seeds=1, steps=60)
    assert [collapse_map.distance(found, each) for each in found.settings] == [0.4, 0.5, 0.6, 0.7, 0.8]


def test_no_clipping_as_in_the_paper(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(no_clipping, tmp_path, STABLE | UNSTABLE, seeds=5, steps=120) == 0
    assert capsys.readouterr().out.count("SUPPORTS") == 3


@pytest.mark.parametrize(
    ("changes", "contradicted"),
    [
        ({"jackpot": Fate(0.8, lost_at=80)}, "Jackpot is stable"),
        ({"tis": Fate(0.85)}, "TIS is unstable, or slower"),
        ({"none": Fate(0.85)}, "no correction is unstable, or slower"),
    ],
)
def test_no_clipping_contradicted(
    tmp_path: Path, capsys: Captured, changes: dict[str, Fate], contradicted: str
) -> None:
    assert drawn(no_clipping, tmp_path, STABLE | UNSTABLE | changes, seeds=5, steps=120) == 1
    assert f"DOES NOT SUPPORT that {contradicted}" in capsys.readouterr().out


def test_no_clipping_of_few_seeds_leaves_stability_open(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(no_clipping, tmp_path, STABLE | {"none": Fate(0.8), "tis": Fate(0.8)}, seeds=2, steps=120) == 0
    assert capsys.readouterr().out.count("LEAVES OPEN") == 3


def test_runs_that_diverge_while_they_are_ahead_are_not_fast(tmp_path: Path, capsys: Captured) -> None:
    ahead = {"tis": Fate(0.95, speed=10, diverges_at=60)}
    assert drawn(no_clipping, tmp_path, STABLE | UNSTABLE | ahead, seeds=3, steps=120) == 0
    assert "SUPPORTS that TIS is unstable, or slower" in capsys.readouterr().out


def test_a_stable_method_may_be_slow(tmp_path: Path, capsys: Captured) -> None:
    changes = {"tis": Fate(0.5), "none": Fate(0.5)}
    assert drawn(no_clipping, tmp_path, STABLE | changes, seeds=5, steps=120) == 0
    assert capsys.readouterr().out.count("SUPPORTS") == 3


def test_long_run(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(long_run, tmp_path, LONG, seeds=3) == 1
    shown = capsys.readouterr().out
    assert "SUPPORTS that with Jackpot instability returns" in shown
    assert "DOES NOT SUPPORT that with RB-Jackpot instability returns" in shown
    assert "LEAVES OPEN whether with TIS instability returns" in shown


@pytest.mark.parametrize(("fall", "expected"), [(0.0, False), (0.03, False), (0.05, None), (0.1, True)])
def test_a_little_fall_is_no_instability(tmp_path: Path, fall: float, expected: bool | None) -> None:
    found = made(tmp_path / "records", "long_run", LONG | {"jackpot": Fate(0.8)}, seeds=4)
    steps = found.steps
    late = (steps["method"] == "jackpot") & (steps["step"] > 500)
    course = 0.8 - (fall + 0.002 * steps["seed"]) * late
    found = dataclasses.replace(found, steps=steps.assign(accuracy=course.where(steps["accuracy"].notna())))
    assert long_run.returns(found, per_run(found), "jackpot").holds is expected


def test_runs_that_all_stop_before_500_steps_are_a_long_run_too(tmp_path: Path, capsys: Captured) -> None:
    fates = dict.fromkeys(LONG, Fate(0.8, lost_at=100, stops_at=300))
    assert drawn(long_run, tmp_path, fates, seeds=2) == 0
    assert capsys.readouterr().out.count("LEAVES OPEN") == 3


def test_long_run_of_short_runs_is_refused(tmp_path: Path, capsys: Captured) -> None:
    given = write(tmp_path / "records", "long_run", LONG, seeds=1, steps=400)
    assert long_run.main(["--records", str(given), "--out", str(tmp_path)]) == 2
    assert "at most 400 steps" in capsys.readouterr().err


def test_closed_loop(tmp_path: Path, capsys: Captured) -> None:
    assert drawn(closed_loop, tmp_path, LOOPS, seeds=3, steps=60) == 0
    shown = capsys.readouterr().out
    assert "SUPPORTS that adapted-weight helps" in shown
    assert "SUPPORTS that adapted-budget helps" in shown
    assert "of 0.03 aimed at" in shown


@pytest.mark.parametrize(
    "worse", [Fate(0.4, figures=WEIGHT), Fate(0.8, lost_at=30, figures=WEIGHT)], ids=["less accurate", "lost"]
)
def test_closed_loop_that_harms(tmp_path: Path, capsys: Captured, worse: Fate) -> None:
    assert drawn(closed_loop, tmp_path, LOOPS | {"adapted-weight": worse}, seeds=3, steps=60) == 1
    shown = capsys.readouterr().out
    assert "DOES NOT SUPPORT that adapted-weight helps" in shown
    assert "SUPPORTS that adapted-budget helps" in shown


def helped(saved: int, gain: float) -> bool | None:
    """What is said of five runs of which so many are saved, at this gain in accuracy."""
    index = pd.MultiIndex.from_product([["run"], ["adapted", "fixed"], range(5)], names=["setting", "method", "seed"])
    runs = pd.DataFrame({"lost_at": math.nan, "accuracy": 0.5, "kl": 0.1}, index=index)
    runs.loc[("run", "fixed"), "lost_at"] = [30.0 if seed < saved else math.nan for seed in range(5)]
    runs.loc[("run", "adapted"), "lost_at"] = [30.0 if seed < -saved else math.nan for seed in range(5)]
    runs.loc[("run", "adapted"), "accuracy"] = [0.5 + gain + 0.01 * (seed - 2) for seed in range(5)]
    return closed_loop.helps(runs, "adapted", 0.03, ["fixed"]).holds


@pytest.mark.parametrize(
    ("saved", "gain", "expected"),
    [
        (1, 0.0, None),
        (1, -0.2, False),
        (1, 0.2, True),
        (5, 0.0, True),
        (-5, 0.0, False),
        (5, 0.2, True),
        (5, -0.2, None),
        (-5, 0.2, None),
    ],
)
def test_one_run_that_is_saved_is_no_help(saved: int, gain: float, expected: bool | None) -> None:
    assert helped(saved, gain) is expected


def test_what_a_method_sets_is_read_from_its_configuration(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "closed_loop", LOOPS, seeds=1, steps=60)
    (methods,) = found.grid.values()
    loops = {method: closed_loop.loop_of(training) for method, training in methods.items()}
    assert loops["fixed-weight-1"] == Loop("distillation_weight", None)
    assert loops["adapted-weight"] == Loop("distillation_weight", 0.03)
    assert loops["fixed-budget"] == Loop("rejected_budget", None)
    assert loops["adapted-budget"] == Loop("rejected_budget", 0.03)


@pytest.mark.parametrize("module", [ablation, collapse_map, no_clipping, closed_loop, long_run])
def test_records_of_another_study_are_refused_in_one_sentence(
    tmp_path: Path, capsys: Captured, module: ModuleType
) -> None:
    given = write_study(tmp_path / "records", of_mapping({"steps": 30}, {}), {"run": Fate()})
    assert module.main(["--records", str(given), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{module.NAME}: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("none", "told"),
    [
        (0.55, "SUPPORTS that TIS ends above no correction"),
        (0.95, "DOES NOT SUPPORT that TIS ends above no correction"),
    ],
)
def test_real_training_answers_in_both_directions(tmp_path: Path, capsys: Captured, none: float, told: str) -> None:
    methods = dict.fromkeys(("on-policy", "tis", "jackpot", "geometric-mask-tis"), Fate(0.8, figures={"reward": 0.4}))
    fates = methods | {"none": Fate(none), "jackpot": Fate(0.1)}
    assert drawn(real_training, tmp_path, fates, seeds=4, steps=60) == 0
    shown = capsys.readouterr().out
    assert told in shown
    assert "SUPPORTS that the policy learns with TIS (accuracy 0.3" in shown
    assert "DOES NOT SUPPORT that the policy learns with Jackpot" in shown


@pytest.mark.parametrize("module", EVERY, ids=lambda module: module.NAME)
def test_a_quick_version_is_drawn_and_gives_no_verdict(tmp_path: Path, module: ModuleType) -> None:
    quick = write(tmp_path / "records", module.NAME, lambda *_: Fate(figures=BUDGET), quick=True)
    told = module.make(of_folder(quick, quick=True))
    assert told.agrees
    assert told.verdict.startswith("NO VERDICT")
    assert "SUPPORT" not in told.verdict


@pytest.mark.parametrize("module", EVERY, ids=lambda module: module.NAME)
def test_no_two_methods_of_a_study_look_alike(module: ModuleType) -> None:
    methods = list(dict.fromkeys(run.method for run in read(config(module.NAME)).runs))
    looks = style.of_methods(methods)
    assert list(looks) == methods
    assert len({look.color for look in looks.values()}) == len(methods)
    assert len({look.marker for look in looks.values()}) == len(methods)
