"""The page of claims is what the records that ship give, and one seed decides none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_figures import verdicts
from paper_figures.training.records import load

PAGE = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdicts.main([]) == 0
    assert capsys.readouterr().out == PAGE


def test_one_seed_decides_no_claim() -> None:
    single = [study for study in verdicts.STUDIES if load(study.name, None).seeds == 1]
    assert single
    for study in single:
        assert {claim.holds for claim in study.claims_of(load(study.name, None))} == {None}


def test_every_study_that_ships_is_on_the_page_or_puts_no_claim_of_the_paper() -> None:
    shipped = {path.parent.name for path in (Path(verdicts.__file__).parent / "measured" / "training").glob("*/*.json")}
    assert {study.name for study in verdicts.STUDIES} == shipped - {"ablation", "real_training", "corrections"}
