"""The findings of training: what the records that ship give, and nothing without an interval."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from paper_figures import findings
from paper_figures.training.records import load


@pytest.fixture(scope="module")
def markdown() -> str:
    return findings.markdown()


def test_the_command_prints_the_table(markdown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert findings.main([]) == 0
    assert capsys.readouterr().out == f"{markdown}\n"


def test_each_line_has_several_seeds_and_an_interval_or_a_count(markdown: str) -> None:
    for line in findings.every():
        assert line.seeds == load(line.study.strip("`"), None).seeds > 1
        assert re.search(r"\[[-+\d.]+, [-+\d.]+\]|\d+ of \d+", line.value)
        interval = re.search(r"^\S+ \[([-+\d.]+), ([-+\d.]+)\]", line.value)
        if interval and "−" in line.figure:
            low, high = map(float, interval.groups())
            assert line.decided == ("above 0" if low > 0 else "below 0" if high < 0 else "open")


def test_studies_of_one_seed_are_named_as_such_and_claim_nothing(markdown: str) -> None:
    table, _, single = markdown.partition("\n\n")
    shipped = {
        path.parent.name for path in (Path(findings.__file__).parent / "measured" / "training").glob("*/manifest.json")
    }
    named = {name for name in shipped if f"`{name}`" in single}
    assert named == {name for name in shipped if load(name, None).seeds == 1}
    assert not [name for name in named if f"`{name}`" in table]
    assert {name for name in shipped if f"`{name}`" in table} == shipped - named


def test_a_rate_is_told_with_the_bound_on_the_side_of_its_answer() -> None:
    # 5 of 5: the one-sided Clopper-Pearson bound is 0.05^(1/5) = 0.549.
    of = [pd.Series([True] * 5), pd.Series([False] * 5), pd.Series([True] * 3 + [False] * 2)]
    for seeds in of:
        seeds.index.name = "seed"
    told = [findings._rate("x", seeds)[1:] for seeds in of]
    assert told == [("5 of 5", "more than 55% of all"), ("0 of 5", "less than 45% of all"), ("3 of 5", "open")]
