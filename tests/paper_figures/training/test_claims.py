"""The verdicts of figure1 and sizes flip when the numbers do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from paper_figures import figure1, records, sizes
from paper_figures.training.claims import claims, differences
from paper_figures.training.statistics import Claim, per_run
from tests.paper_figures.training.trained import Fate, made, write

pytestmark = pytest.mark.usefixtures("sketched")

AS_IN_THE_PAPER = {
    "on-policy": Fate(0.85, kl=0.0),
    "none": Fate(0.7, kl=3.0, lost_at=40),
    "tis": Fate(0.7, kl=1.0, lost_at=70),
    "jackpot": Fate(0.84, kl=0.1),
    "rao-blackwell": Fate(0.88, kl=0.1),
}
COLLAPSES, LATER, STABLE, LOW, NEAR = range(5)


def claimed(tmp_path: Path, changes: Mapping[str, Fate], seeds: int = 5) -> list[Claim]:
    found = made(tmp_path / "records", "figure1", AS_IN_THE_PAPER | changes, seeds=seeds, steps=120)
    return claims(per_run(found), records.published("figure1"))


def test_runs_as_in_the_paper_support_all_of_it(tmp_path: Path) -> None:
    found = claimed(tmp_path, {})
    assert [each.holds for each in found] == [True] * 5
    assert "5 of 5 lost" in found[COLLAPSES].because
    assert "later than no correction of the same seed in 5" in found[LATER].because
    assert "at best, 0.01 at the end" in found[LATER].because
    assert "paper above 2" in found[LOW].because
    assert "stable for 120 steps" in found[STABLE].text


@pytest.mark.parametrize(
    ("changes", "contradicted"),
    [
        ({"none": Fate(0.7)}, {COLLAPSES, LATER}),
        ({"tis": Fate(0.7)}, {LATER}),
        ({"tis": Fate(0.7, lost_at=20)}, {LATER}),
        ({"jackpot": Fate(0.84, lost_at=80)}, {STABLE, NEAR}),
        ({"jackpot": Fate(0.84, diverges_at=90)}, {STABLE, NEAR}),
        ({"jackpot": Fate(0.84, kl=0.8)}, {LOW}),
        ({"jackpot": Fate(0.6)}, {NEAR}),
    ],
)
def test_a_claim_is_contradicted_when_its_numbers_are(
    tmp_path: Path, changes: dict[str, Fate], contradicted: set[int]
) -> None:
    found = claimed(tmp_path, changes)
    assert {place for place, each in enumerate(found) if each.holds is False} == contradicted


def test_a_collapse_in_few_of_the_seeds_decides_neither_collapse_nor_stability(tmp_path: Path) -> None:
    def fates(_: str, method: str, seed: int) -> Fate:
        lost = 40 if seed == 0 and method in ("none", "jackpot") else None
        return Fate(0.84, lost_at=lost)

    found = made(tmp_path / "records", "figure1", fates, seeds=5, steps=120)
    held = [each.holds for each in claims(per_run(found), records.published("figure1"))]
    assert held[COLLAPSES] is None
    assert held[STABLE] is None
    assert held[NEAR] is None


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    assert [each.holds for each in claimed(tmp_path, {}, seeds=1)] == [None] * 5
    assert claimed(tmp_path / "b", {"jackpot": Fate(lost_at=60)}, seeds=1)[STABLE].holds is None


def test_what_is_counted_takes_five_seeds(tmp_path: Path) -> None:
    held = [each.holds for each in claimed(tmp_path, {}, seeds=2)]
    assert [held[each] for each in (COLLAPSES, LATER, STABLE)] == [None] * 3


def test_an_infinite_kl_is_not_low(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "figure1", AS_IN_THE_PAPER, seeds=5, steps=120)
    runs, paper = per_run(found), records.published("figure1")
    mine = runs.index.get_level_values("method") == "jackpot"
    runs.loc[mine & (runs.index.get_level_values("seed") == 1), "kl"] = math.inf
    (one,) = (each for each in claims(runs, paper) if "KL stays" in each.text)
    assert one.holds is None
    assert "Jackpot inf" in one.because
    runs.loc[mine, "kl"] = math.inf
    assert claims(runs, paper)[LOW].holds is False


def test_differences_have_their_sign(tmp_path: Path) -> None:
    found = made(tmp_path / "a", "figure1", AS_IN_THE_PAPER, seeds=3, steps=120)
    told = differences(per_run(found))
    assert "Jackpot − TIS +0.8" in told
    assert "RB − Jackpot +0.0" in told
    other = made(tmp_path / "b", "figure1", AS_IN_THE_PAPER | {"rao-blackwell": Fate(0.4)}, seeds=3, steps=120)
    assert "RB − Jackpot -0.4" in differences(per_run(other))


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"none": Fate(0.7)}, 1)])
def test_figure1_and_sizes_are_drawn_and_their_exit_code_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Fate], code: int
) -> None:
    for module in (figure1, sizes):
        given = write(tmp_path / module.NAME, module.NAME, AS_IN_THE_PAPER | changes, seeds=5, steps=120)
        assert module.main(["--records", str(given), "--out", str(tmp_path)]) == code
        shown = capsys.readouterr().out
        assert ("DOES NOT SUPPORT that without a correction" in shown) == bool(code)
        assert "…" not in shown


def test_pairs_of_sizes_are_no_repetitions(tmp_path: Path) -> None:
    found = made(tmp_path / "records", "sizes", AS_IN_THE_PAPER, seeds=1, steps=120)
    held = claims(per_run(found), records.published("figure1"))
    assert "3 of 3 lost" in held[COLLAPSES].because
    assert [each.holds for each in held] == [None] * 5


def test_what_is_lost_with_one_pair_is_not_stable_but_no_collapse(tmp_path: Path) -> None:
    pairs = list(made(tmp_path / "a", "sizes", AS_IN_THE_PAPER, seeds=1, steps=60).grid)

    def fates(setting: str, method: str, _: int) -> Fate:
        return Fate(0.8, lost_at=40 if setting == pairs[0] and method in ("none", "jackpot") else None)

    found = made(tmp_path / "b", "sizes", fates, seeds=5, steps=120)
    held = [each.holds for each in claims(per_run(found), records.published("figure1"))]
    assert held[COLLAPSES] is False
    assert held[STABLE] is False
