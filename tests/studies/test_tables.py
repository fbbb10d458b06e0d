"""Tables on narrow consoles: names stay whole, no figure is cut, and what is left out is named."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jackpot_sim.studies.tables import FittedTable, folded, print_table
from tests.cases import each

NAMES = ["none", "rao-blackwell(jackpot(acceptance=0.9, c1=4))", "sequence-mask-k1(high=1.4, low=0.6) & veto"]
HEADINGS = {"accept": 2, "KL(p‖q)": 3, "MSE": 0, "rescaled": 1}


def table(*, prose: bool = False) -> FittedTable:
    made = FittedTable("A title", ["estimator", "denominator"], HEADINGS, "meaning" if prose else "", "A caption.")
    for at, name in enumerate(NAMES):
        figures = [f"0.{at}{column}±0.0{column}" for column in range(4)]
        made.add_row([name, "self_normalized"], figures, f"sentence {at} of many words" if prose else "")
    return made


def lines_of(made: FittedTable, width: int, *, wide: bool = False, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(width=width, file=file, highlight=False)
    print_table(console, made, wide=wide)
    assert console.width == width
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


@each("width", [12, 20, 30, 40, 60, 80, 100, 120, 200])
def test_names_stay_whole_and_figures_are_not_cut(width: int) -> None:
    made = table()
    shown, _, widths = made._fitting(width)
    lines = lines_of(made, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    rows = [line for line in lines if line.startswith(" ")]
    column = "".join(line[1 : 1 + widths[0]].strip() for line in rows)
    assert [name for name in NAMES if name.replace(" ", "") not in column.replace(" ", "")] == []
    figures = [figure for line in rows for figure in line[1 + widths[0] :].split() if figure.startswith("0.")]
    places = [at for at, heading in enumerate(HEADINGS) if heading in shown]
    assert figures == [f"0.{at}{column}±0.0{column}" for at in range(3) for column in places]


def test_the_figures_that_matter_least_give_way_and_are_named() -> None:
    whole = table().full_width()
    assert whole < 120
    counts = []
    for width in range(whole, 11, -1):
        shown, _, _ = table()._fitting(width)
        assert {*shown} == {*sorted(HEADINGS, key=lambda each: HEADINGS[each])[: len(shown)]}
        counts.append(len(shown))
        told = " ".join(lines_of(table(), width)).replace("  ", " ")
        for heading in HEADINGS if width >= 40 else ():
            assert heading in told
        assert ("Left out for lack of room" in told) == (len(shown) < 4) or width < 40
    assert counts == sorted(counts, reverse=True)
    assert {*counts} == {0, 1, 2, 3, 4}


def test_wide_shows_all_on_any_console() -> None:
    assert lines_of(table(), 30, wide=True)[1:-1] == lines_of(table(), 200)[1:-1]


def test_sentences_fold_and_give_way_before_figures() -> None:
    assert "sentence 1 of many words" in "".join(lines_of(table(prose=True), 200))
    for width in (table().full_width(), 100, 60):
        shown, prose, _ = table(prose=True)._fitting(width)
        assert (len(shown) == 4) or not prose
        assert prose == ("sentence" in "".join(lines_of(table(prose=True), width)))


def test_signs_are_written_out_before_columns_are_laid_out() -> None:
    for wide in (False, True):
        lines = lines_of(table(), 200, encoding="ascii", wide=wide)
        assert any("KL(p||q)" in line for line in lines)
        (row,) = [line for line in lines if "none" in line]
        assert row.count("+-") == 4
        assert len({len(line) for line in lines if line[:1] in "|+"}) == 1


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("tis", 3, ["tis"]),
        ("tis", 1, ["t", "i", "s"]),
        ("jackpot(c1=2, lam=1)", 12, ["jackpot(", "  c1=2,", "  lam=1)"]),
        ("jackpot(c1=2, lam=1)", 13, ["jackpot(c1=2,", "  lam=1)"]),
        ("", 5, [""]),
    ],
)
def test_a_name_folds_after_words_and_signs(name: str, width: int, lines: list[str]) -> None:
    assert folded(name, width).split("\n") == lines
