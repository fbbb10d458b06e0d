"""The table of corrections: which stand in it, in which order, and what they are marked as."""

from __future__ import annotations

from jackpot_sim.diagnose.report.corrections import COMMON, corrections_table, shown_corrections
from jackpot_sim.diagnose.results import Diagnosis, Effect
from jackpot_sim.diagnose.what_if.candidates import candidates
from tests.cases import each
from tests.diagnose.report.made import diagnosis, effect

EFFECTS = [Effect(name=each.name, label=each.label, refused=each.refused) for each in candidates(("tis(clip=9)",))]


def advising(name: str | None, effects: list[Effect]) -> Diagnosis:
    advice = diagnosis().advice.model_copy(update={"correction": name})
    return diagnosis(advice=advice, corrections=effects)


def test_your_own_then_none_then_the_advised_then_common_ones() -> None:
    advised = Effect(name="mis(low=0.2, high=4)", label="mis(low=0.2, high=4)")
    made = advising(advised.name, [EFFECTS[0], advised, *EFFECTS[1:]])
    names = [each.name for each in shown_corrections(made, own=1)]
    assert names == ["tis(clip=9)", "none", advised.name, *COMMON]
    table = corrections_table(made, 1, wide=False)
    assert [names[0].partition(") (")[2] for names, *_ in table.rows[:4]] == ["yours)", "", "advised)", ""]
    assert "your own first, none, the advised one" in table.title
    assert len(corrections_table(made, 1, wide=True).rows) == len(made.corrections)


@each("name", COMMON)
def test_a_common_one_that_is_advised_or_refused_is_not_shown_twice_or_at_all(name: str) -> None:
    at = next(each for each in EFFECTS if each.name == name)
    same = at.model_copy(update={"name": "the same"})
    assert name not in [each.name for each in shown_corrections(advising("the same", [same, *EFFECTS[1:]]), 0)]
    refused = [at.model_copy(update={"refused": "no"}) if each.name == name else each for each in EFFECTS]
    assert name not in [each.name for each in shown_corrections(advising(None, refused), 1)]


def test_a_bias_of_rounding_is_none() -> None:
    made = advising(None, [effect("none", bias=1e-16), effect("tis", bias=0.01)])
    table = corrections_table(made, 0, wide=False)
    at = [*table.figures].index("bias")
    assert [figures[at] for _, figures, _ in table.rows] == ["0", "0.01"]
