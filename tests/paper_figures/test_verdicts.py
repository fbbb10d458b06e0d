"""The page of claims is what the records that ship give, and one seed decides none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_figures import alarms, collapse_map, corrections, factorial, longer, recipes, updates, verdicts
from paper_figures.training import before_loss
from paper_figures.training.contrasts import contrasted
from paper_figures.training.records import load, load_several
from paper_figures.training.statistics import per_run

ROOT = Path(__file__).parents[2]
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdicts.main([]) == 0
    assert capsys.readouterr().out == PAGE


def test_the_page_of_training_holds_the_parts_of_the_objective() -> None:
    assert f"\n\n{verdicts.parts()}\n\n" in TRAINING


def test_one_seed_decides_no_claim() -> None:
    single = [study for study in verdicts.STUDIES if load(study.name, None).seeds == 1]
    assert single
    for study in single:
        assert {claim.holds for claim in study.claims_of(load(study.name, None))} == {None}


def test_every_study_that_ships_is_on_the_page_or_puts_no_claim_of_the_paper() -> None:
    shipped = {path.parent.name for path in (Path(verdicts.__file__).parent / "measured" / "training").glob("*/*.json")}
    assert {study.name for study in verdicts.STUDIES} == shipped - {
        "ablation",
        "real_training",
        "corrections",
        "recipes",
        "longer",
    }


def test_the_page_of_training_tells_of_recipes_what_their_records_give() -> None:
    said, trained = " ".join(TRAINING.split()), load(recipes.NAME, None)
    found = contrasted(per_run(trained), recipes.COMPARED)
    whole, on_policy, frozen = (
        found[f"distilled, sequence TIS − {other}"]
        for other in ("Jackpot's whole objective", "on-policy", "sequence TIS, frozen")
    )
    told = (
        f"ends {whole} above Jackpot's whole objective, {on_policy} from on-policy training, and {frozen} from sequence"
    )
    assert told in said
    assert f"sequence TIS ends {whole} above Jackpot's whole objective, on 8 fresh seeds" in README
    assert "Eight fresh seeds" in said
    assert trained.seeds == 8


def test_the_page_of_training_tells_of_the_second_world_what_its_records_give() -> None:
    said, trained = " ".join(TRAINING.split()), load(longer.NAME, None)
    found = contrasted(per_run(trained), longer.COMPARED)
    whole, on_policy = (
        found[f"sequence TIS, frozen − {other}"] for other in ("Jackpot's whole objective", "on-policy")
    )
    assert f"ends {whole} above Jackpot's whole objective, and {on_policy} from on-policy training. Of dist" in said
    assert (
        f"decide nothing: {found['PPO + distilled − frozen, TIS']} and {found['Jackpot − TIS, PPO + distilled']}"
        in said
    )
    assert f"(`longer`, {trained.seeds} seeds of" in said
    assert "its six seeds" in said


def test_the_page_of_training_tells_of_distances_what_the_map_gives() -> None:
    said, trained = " ".join(TRAINING.split()), load(collapse_map.NAME, None)
    runs = per_run(trained)
    gains = collapse_map.longer_than(trained, runs, "tis")
    borne = {
        method: "{:.2f} [{:.2f}, {:.2f}]".format(*each.mean[:3])
        for method, each in collapse_map.boundaries(trained, runs, collapse_map.KL).items()
    }
    assert f"`python -m paper_figures.collapse_map`, {trained.seeds} seeds" in said
    assert f"survive {gains['sequence TIS − TIS']} more of their steps than with TIS" in said
    assert f"KL of {borne['sequence-tis']} at the beginning, with TIS at {borne['tis']}, with Jackpot at" in said
    assert f"Jackpot at {borne['jackpot']}. Of six other corrections none is told apart" in said
    assert sorted(name.split(" − ")[0] for name, each in gains.items() if each.above is not None) == [
        "no correction",
        "sequence TIS",
    ]
    assert len(gains) == 8


def test_the_page_of_training_tells_of_updates_what_their_records_give() -> None:
    said = " ".join(TRAINING.split())
    # "…: -0.105 [-0.145, -0.065]; …"
    few, some, many, alone = (
        claim.because.split(": ", 1)[1].split(";")[0] for claim in updates.claims_of(load(updates.NAME, None))[:4]
    )
    assert f"Jackpot ends {few}, {some} and {many} from the clip at 16, 64 and 128 updates" in said
    assert f"Nor is it told apart from no correction: {alone} at 128" in said


def test_the_page_of_training_tells_of_whole_sequences_and_alarms_what_the_records_give() -> None:
    said = " ".join(TRAINING.split())
    both = corrections.together(*(per_run(load(name, None)) for name in (factorial.NAME, corrections.NAME)))
    whole, on_policy = (
        corrections.less_than(both, base)["sequence-tis"]["frozen"] for base in corrections.BASES if base.setting
    )
    told = f"{whole} above Jackpot's whole objective, and {on_policy} from on-policy training (`corrections`, "
    assert f"{told}{both.index.unique('seed').size} seeds)" in said
    beside_tis, _, beside_on_policy = (corrections.less_than(both, base) for base in corrections.BASES)
    own = beside_on_policy["sequence-tis"]["own-ppo"]
    assert f"sequence TIS ends {own} from on-policy training, and no correction is above TIS for sure" in said
    assert not any(each["own-ppo"].above for each in beside_tis.values())
    runs = before_loss.of_studies(load_several(alarms.NAME, None, alarms.COLUMNS).studies, alarms.COLUMNS)
    kl, area, mean = (alarms.area_of(runs, each, alarms.NOTICE) for each in (alarms.KL, alarms.P5, alarms.OVERLAP))
    seeds, lost = len(set(runs.seed.tolist())), int(runs.is_lost.sum())
    assert f"larger KL(p‖q) in {kl} of pairs" in said
    assert f"in {area} of pairs (its mean: {mean}; {len(runs.seed)} runs of {seeds} seeds, {lost} lost)" in said
    rule = alarms.rule_of(runs, alarms.STABLE)
    assert rule.counts[2] == rule.counts[3]  # it rings in every run that is kept, as the page says
