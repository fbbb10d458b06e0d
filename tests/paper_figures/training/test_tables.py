"""The figures of the paper's tables: its numbers as they are, and verdicts that flip when ours do."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper_figures import records, table1, table2, updates
from paper_figures.training import tables
from paper_figures.training.statistics import Claim, difference, of, per_run
from tests.paper_figures.training.trained import Fate, Fates, made, write

pytestmark = pytest.mark.usefixtures("sketched")

Captured = pytest.CaptureFixture[str]

TABLE1 = {
    "on-policy": Fate(0.85, kl=0.0),
    "distillation": Fate(0.5),
    "tis": Fate(0.7),
    "jackpot": Fate(0.9),
    "rao-blackwell": Fate(0.9),
}
TABLE2 = dict.fromkeys(("off-policy", "tis", "jackpot"), Fate(0.8, kl=0.001))
TABLE3 = {
    "on-policy": Fate(0.9, kl=0.0),
    "off-policy": Fate(0.6),
    "no-clip": Fate(0.4),
    "jackpot": Fate(0.8),
    **dict.fromkeys(("cispo", "sapo"), Fate(0.6)),
}


def test_the_papers_rows() -> None:
    first, second, third = (records.published(name) for name in ("table1", "table2", "table3"))
    assert (len(first), len(second), len(third)) == (11, 4, 11)
    assert first.query("model == 'Qwen3-8B' and method == 'jackpot'")["MATH-500"].item() == 0.8265
    assert second.query("setting == 'FP8 KV' and method == 'tis'")["AIME25_pass16"].item() == 29.2
    assert third.query("setting == '8B 64x' and method == 'on-policy'")["MATH-500"].item() == 93.99


def test_shares_of_the_paper_are_of_the_same_model_benchmark_by_benchmark() -> None:
    kept = tables.paper_shares(records.published("table3"))
    assert kept.loc[("4B 128x", "no-clip"), "GSM8K"] == pytest.approx(20.70 / 92.19)
    assert kept.loc[("8B 64x", "jackpot"), "GSM8K"] == pytest.approx(94.01 / 94.24)
    assert not any("pass" in str(column) for column in kept)


def test_our_shares_are_paired_by_seed(tmp_path: Path) -> None:
    runs = per_run(made(tmp_path / "a", "table1", TABLE1, seeds=2, steps=60))
    kept = tables.shares(runs, "accuracy")
    base = runs.xs("on-policy", level="method")["accuracy"].droplevel("setting")
    setting = kept.index.get_level_values("setting")[-1]
    for seed in (0, 1):
        assert kept[(setting, "jackpot", seed)] == pytest.approx(
            runs.loc[(setting, "jackpot", seed), "accuracy"] / base[seed]
        )


def test_order_in_the_paper_is_counted() -> None:
    assert tables.in_order(records.published("table1"), "jackpot", "tis") == "paper: 3 of 3 settings"
    assert tables.in_order(records.published("table3"), "off-policy", "no-clip") == "paper: 1 of 3 settings"


def held(claims: list[Claim]) -> list[bool | None]:
    return [claim.holds for claim in claims]


def table1_claims(tmp_path: Path, changes: dict[str, Fate], seeds: int = 3) -> list[Claim]:
    found = made(tmp_path / "records", "table1", TABLE1 | changes, seeds=seeds, steps=60)
    return table1.claims_of(found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True]),
        ({"jackpot": Fate(0.6)}, [False, True, False]),
        ({"tis": Fate(0.4)}, [True, False, True]),
        ({"jackpot": Fate(0.75)}, [True, True, False]),
    ],
)
def test_table1(tmp_path: Path, changes: dict[str, Fate], expected: list[bool]) -> None:
    assert held(table1_claims(tmp_path, changes)) == expected


def test_table1_names_the_worst_setting_that_it_compares_with(tmp_path: Path) -> None:
    last = table1_claims(tmp_path, {})[-1]
    assert last.text == "Jackpot keeps more of the on-policy result than in the paper's worst setting"
    assert "paper: 99.4% to 104.0%" in last.because


def test_table1_of_one_seed_is_open(tmp_path: Path) -> None:
    assert held(table1_claims(tmp_path, {}, seeds=1)) == [None, None, None]


@pytest.mark.parametrize(("gain", "expected"), [(0.0, True), (0.15, False), (-0.15, False), (0.05, None)])
def test_table2_asks_whether_little_is_added(tmp_path: Path, gain: float, expected: bool | None) -> None:
    fates = TABLE2 | {"jackpot": Fate(0.8 + gain)}
    found = made(tmp_path / "records", "table2", fates, seeds=5)
    runs = per_run(found)
    for baseline in table2.BASELINES:
        spread = {setting: table2.gains(runs, setting, baseline) for setting in found.settings}
        assert table2.little(baseline, spread).holds is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True] * 5),
        ({"jackpot": Fate(0.5)}, [False, False, False, True, True]),
        ({"jackpot": Fate(0.35)}, [False, False, False, False, True]),
        ({"no-clip": Fate(0.7)}, [True, True, True, True, False]),
    ],
)
def test_table3(tmp_path: Path, changes: dict[str, Fate], expected: list[bool]) -> None:
    assert held(updates.claims_of(made(tmp_path / "records", "updates", TABLE3 | changes, seeds=4))) == expected


def test_numbers_of_updates_stand_beside_the_papers(tmp_path: Path) -> None:
    because = [claim.because for claim in updates.claims_of(made(tmp_path / "records", "updates", TABLE3, seeds=2))]
    assert "paper" not in because[0]
    assert [text.split("; ")[-1] for text in because[1:]] == [
        "paper: 2 of 2 settings",
        *["paper: 1 of 1 settings"] * 3,
    ]


def test_settings_are_no_repetitions(tmp_path: Path) -> None:
    one = held(updates.claims_of(made(tmp_path / "records", "updates", TABLE3, seeds=1)))
    assert one == [None] * 5
    runs = per_run(made(tmp_path / "again", "updates", TABLE3, seeds=3))
    assert difference(of(runs, "jackpot", "accuracy"), of(runs, "off-policy", "accuracy")).pairs == 3


@pytest.mark.parametrize(
    ("module", "fates", "code"),
    [
        (table1, TABLE1, 0),
        (table1, TABLE1 | {"jackpot": Fate(0.5)}, 1),
        (table2, TABLE2, 0),
        (table2, TABLE2 | {"jackpot": Fate(0.5)}, 1),
        (updates, TABLE3, 0),
        (updates, TABLE3 | {"jackpot": Fate(0.3)}, 1),
    ],
)
def test_they_are_drawn_and_the_exit_code_tells(
    tmp_path: Path, capsys: Captured, module: object, fates: Fates, code: int
) -> None:
    name, main = module.NAME, module.main  # type: ignore[attr-defined]
    given = write(tmp_path / "records", name, fates, seeds=3)
    assert main(["--records", str(given), "--out", str(tmp_path)]) == code
    shown = capsys.readouterr().out
    assert shown.count("\nVERDICT: our result\n  ") == 1
    assert "The paper's, means over its benchmarks" in shown
    assert "…" not in shown


def test_one_seed_is_drawn_too(tmp_path: Path, capsys: Captured) -> None:
    for module, fates in ((table1, TABLE1), (table2, TABLE2), (updates, TABLE3)):
        given = write(tmp_path / module.NAME, module.NAME, fates, seeds=1)
        assert module.main(["--records", str(given), "--out", str(tmp_path)]) == 0
        assert ": 1 seed" in capsys.readouterr().out


def test_records_of_another_study_are_refused(tmp_path: Path, capsys: Captured) -> None:
    given = write(tmp_path / "records", "table2", TABLE2, seeds=1)
    for module in (table1, updates):
        assert module.main(["--records", str(given), "--out", str(tmp_path)]) == 2
        captured = capsys.readouterr()
        assert "lacks" in captured.err
        assert captured.err.count("\n") == 1
