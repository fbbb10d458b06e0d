"""The table of figures answers in order, shows a bracket in one row, and says what is unresolved."""

from __future__ import annotations

from jackpot_sim.diagnose.measure import full_laws, metrics
from jackpot_sim.diagnose.report.metrics import GROUPS, ONLY_WIDE, UNRESOLVED, metrics_table
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.summaries import OF_THE_SAMPLE
from jackpot_sim.studies.tables import FittedTable
from tests.cases import each
from tests.diagnose.report.made import figure

NAMES = [*metrics.MEANINGS, *full_laws.MEANINGS]


def cells(table: FittedTable) -> dict[str, tuple[str, ...]]:
    return {names[0]: figures for names, figures, _ in table.rows}


@each("wide", [False, True])
def test_each_figure_stands_once_below_its_question(wide: bool) -> None:
    rows = [names[0] for names, *_ in metrics_table([figure(name, 0.5) for name in NAMES], wide).rows]
    assert len(rows) == len(set(rows))
    assert [row for row in rows if row.endswith(":")] == [f"{each}:" for each in (*GROUPS, *(["also"] * wide))]
    named = [name for names in GROUPS.values() for name in names if wide or name not in ONLY_WIDE]
    assert [row for row in rows if row in named] == named, "all are figures that are measured"
    assert rows.index("probability_gap") < rows.index("k3") < rows.index("chi_square_token")


@each("name", ["overlap", "overlap_p5"])
def test_a_bracket_is_one_row_with_the_outer_ends_of_both_intervals(name: str) -> None:
    low, high = figure(f"{name}_low", 0.4), figure(f"{name}_high", 0.9)
    found = cells(metrics_table([low, high], wide=False))
    assert found[name] == ("0.4 to 0.9", "[0.36, 0.99]")
    assert low.name not in found
    assert high.name not in found
    assert cells(metrics_table([low, high.model_copy(update={"high": None})], wide=False))[name][1] == UNRESOLVED
    assert cells(metrics_table([low], wide=False))[low.name][0] == "0.4", "an end alone is a figure"


@each("ends, untold", [((0.1, 0.99), True), ((0.9, 0.99), False), ((0.1, 0.2), False)])
def test_a_loose_bracket_says_that_it_cannot_tell(ends: tuple[float, float], untold: bool) -> None:
    made = [figure(f"overlap_p5_{end}", value) for end, value in zip(("low", "high"), ends, strict=True)]
    assert ("cannot tell" in metrics_table(made, wide=False).caption) is untold


@each("name", ["k3", *OF_THE_SAMPLE])
def test_a_figure_without_its_interval_is_unresolved_unless_it_has_none_by_nature(name: str) -> None:
    table = metrics_table([Figure(name=name, value=1.0, meaning="")], wide=True)
    expected = "" if name in OF_THE_SAMPLE else UNRESOLVED
    assert cells(table)[name] == ("1", expected)
    assert (UNRESOLVED in table.caption) is bool(expected)
    assert cells(metrics_table([Figure(name=name, value=None, meaning="")], wide=True))[name] == ("-", "")


def test_figures_of_no_group_are_a_few() -> None:
    made = [figure(f"other-{i}", 0.1) for i in range(5)]
    assert [*cells(metrics_table(made, wide=False))] == ["other-0", "other-1", "other-2"]
