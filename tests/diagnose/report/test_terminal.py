"""The report fits two screens, reads top down, and is whole in ASCII and in narrow terminals."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from jackpot_sim.core.intervals import FEWEST
from jackpot_sim.diagnose.report import terminal
from jackpot_sim.diagnose.results import Advice, Alarm, Breakdown, Diagnosis, Row, State, Verdict
from jackpot_sim.studies.tables import FittedTable
from tests.cases import each
from tests.diagnose.report.made import diagnosis, figure


def shown(made: Diagnosis, width: int = 100, encoding: str = "utf-8", **options: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    terminal.show(made, Console(file=stream, width=width, highlight=False, markup=False, emoji=False), **options)
    stream.seek(0)
    return stream.read()


def test_it_reads_top_down_on_two_screens() -> None:
    text = shown(diagnosis())
    assert len(text.splitlines()) <= 90
    assert max(map(len, text.splitlines())) <= 100
    order = (
        "PROBLEM: ",
        "temperature (97% sure)",
        "Remedy:",
        "What to do",
        "--use-tis",
        "how large:",
        "k1",
        "tis (advised)",
        "Read",
    )
    places = [text.index(part) for part in (*order, "Read")]
    assert places == sorted(places)


@each("width", [40, 60, 80])
def test_prose_fits_a_narrow_terminal(width: int) -> None:
    made = diagnosis()
    prose = [part for part in terminal._parts(made, width, 0, wide=False) if not isinstance(part, FittedTable)]
    assert all(len(line) <= width for part in prose for line in part.splitlines())
    assert shown(made, width)


def test_ascii_loses_nothing() -> None:
    made = diagnosis()
    plain, whole = shown(made, encoding="ascii"), shown(made)
    assert "l falls by 0.25 per nat of log q" in plain
    assert len(plain.splitlines()) == len(whole.splitlines())


def test_wide_shows_all() -> None:
    made = diagnosis()
    few, every = shown(made), shown(made, wide=True)
    for name in ("geometric-tis", "gspo", "rollout_is: token", "11.pt: sample 4"):
        assert (name in few, name in every) == (False, True), name
    assert "--wide explains the rest. 5 more there." in " ".join(few.split())


def test_the_lines_to_paste_are_those_of_the_dumps_framework() -> None:
    made = diagnosis()
    assert "Lines for slime" in shown(made)
    other = made.model_copy(update={"source": {**made.source, "format": "plain"}})
    assert "Lines for slime" in shown(other), "the first there is"
    preset = other.advice.model_copy(update={"correction": "verl@0.9.1:decoupled_token_is"})
    assert "Lines for verl:" in shown(other.model_copy(update={"advice": preset}))


def test_a_diagnosis_without_findings_is_a_report_too() -> None:
    healthy = Verdict(state=State.HEALTHY, sentence="The mismatch is small.")
    advice = Advice(action="none-needed", sentence="No correction is needed", target="ess 0.5")
    lists = ("causes", "metrics", "corrections", "breakdowns", "alarms", "worst_tokens", "worst_sequences")
    empty: dict[str, list[object]] = {name: [] for name in lists}
    text = shown(diagnosis(verdict=healthy, advice=advice, **empty))
    assert text.startswith("HEALTHY: The mismatch is small.\n")
    assert "None is more than chance" in text


@each("cause_says", [True, False])
def test_a_remedy_is_told_once(cause_says: bool) -> None:
    made = diagnosis()
    remedy = made.causes[0].remedy if cause_says else "something else"
    text = shown(made.model_copy(update={"advice": Advice(action="fix-cause", sentence=remedy, target="ess 0.5")}))
    assert " ".join(text.split()).count("score the policy at the actor's temperature") == 1
    assert "Target:" not in text


@each("action", ["correct", "none-is-enough", "too-few-tokens"])
def test_a_target_is_told_where_a_correction_is_looked_for(action: str) -> None:
    advice = Advice(action=action, sentence="Do", target="ess 0.5")
    assert "Target: ess 0.5." in shown(diagnosis(advice=advice))


@each("count, told", [(1, "0.log, which is no dump."), (6, "0.log, 1.log, 2.log, 3.log and 2 more, which are no")])
def test_files_that_are_no_dumps_are_named(count: int, told: str) -> None:
    made = diagnosis()
    rows = made.rows.model_copy(update={"passed_over": [f"rollouts/{i}.log" for i in range(count)]})
    assert "Passed over" not in shown(made)
    assert told in shown(made.model_copy(update={"rows": rows}))


def test_a_table_without_rows_is_not_shown() -> None:
    refused = [each.model_copy(update={"refused": "no token"}) for each in diagnosis().corrections]
    same = [Row(slice=name, tokens=9, sequences=3, figures={"k3": 0.0}) for name in ("0", "1")]
    text = shown(diagnosis(corrections=refused, breakdowns=[Breakdown(by="step", rows=same)]))
    assert "Corrections of this" not in text
    assert "Where it is" not in text
    assert "Corrections of this very batch: your own first" in shown(diagnosis(corrections=refused), own=1)


def test_figures_that_do_not_exist_are_dashes() -> None:
    made = diagnosis(metrics=[figure("chi-square", None)])
    line = next(line for line in shown(made).splitlines() if "chi-square" in line)
    assert line.split()[:2] == ["chi-square", "-"]


def test_an_alarm_that_rang_is_said_to_foretell_no_loss() -> None:
    rang = Alarm(name="k3", rule="mean k3 of a step above 0.01", step=7)
    text = " ".join(shown(diagnosis(alarms=[rang])).split())
    assert "k3 would have rung at step 7: mean k3 of a step above 0.01. A ring tells of a large mismatch, and" in text
    assert "A ring tells" not in shown(diagnosis(alarms=[rang.model_copy(update={"step": None})]))


def test_an_alarm_that_cannot_tell_is_not_said_never_to_ring() -> None:
    alarms = [
        Alarm(name="k3", rule="mean k3 of a step above 0.01", step=None, unsure=True),
        Alarm(name="ess", rule="ESS of a step below 0.5", step=None),
    ]
    text = " ".join(shown(diagnosis(alarms=alarms)).split())
    assert f"Alarms Cannot tell, with fewer than {FEWEST} sequences a step: k3. Never: ess." in text
