"""A verdict is given only where the interval leaves no other."""

from __future__ import annotations

import math

import pytest

from jackpot_sim.diagnose.advice.judged import OVERLAP, judged
from jackpot_sim.diagnose.measure.full_laws import MEANINGS as OF_LAWS
from jackpot_sim.diagnose.measure.metrics import MEANINGS
from jackpot_sim.diagnose.results import Figure, State
from jackpot_sim.estimators.mismatch.lines import BAD, STABLE
from tests.cases import each

PROBLEM, HEALTHY, UNDECIDED = State.PROBLEM, State.HEALTHY, State.UNDECIDED


def figure(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, Figure]:
    return {name: Figure(name=name, value=value, low=low, high=high, meaning="")}


GAPS = [
    (0.004, 0.003, 0.005, HEALTHY),
    (0.007, 0.006, 0.009, HEALTHY),
    (0.009, 0.007, 0.011, UNDECIDED),
    (0.011, 0.009, 0.013, UNDECIDED),
    (0.02, 0.015, 0.03, PROBLEM),
    (0.02, None, None, UNDECIDED),
    (0.001, None, None, UNDECIDED),
    (None, None, None, UNDECIDED),
    (0.0, 0.0, 0.0, HEALTHY),
]


@each("value, low, high, state", GAPS)
def test_the_gap_decides_where_its_interval_lies_on_one_side(
    value: float | None, low: float | None, high: float | None, state: State
) -> None:
    found = judged(figure("probability_gap", value, low, high))
    assert found.state is state
    assert found.reasons


@each(
    "end, value, low, high, state",
    [
        (1, 0.8, 0.75, 0.84, PROBLEM),
        (1, 0.8, 0.75, 0.88, HEALTHY),  # it does not exclude a stable one
        (0, 0.8, 0.75, 0.84, HEALTHY),  # the low end of a bracket shows no small overlap
        (1, 0.9, 0.88, 0.95, HEALTHY),
    ],
)
def test_the_overlap_makes_a_problem_only_by_the_high_end_of_its_bracket(
    end: int, value: float, low: float, high: float, state: State
) -> None:
    metrics = figure("probability_gap", 0.002, 0.001, 0.003) | figure(OVERLAP[end], value, low, high)
    assert judged(metrics).state is state


def test_weights_that_leave_less_than_half_of_the_tokens_are_a_problem() -> None:
    small = figure("probability_gap", 0.002, 0.001, 0.003)
    assert judged(small | figure("ess_fraction_token", 0.3, 0.2, 0.4)).state is PROBLEM
    assert judged(small | figure("ess_fraction_token", 0.4, 0.2, 0.6)).state is HEALTHY
    assert judged(small | figure("ess_fraction_token", 0.9, None, None)).state is HEALTHY


def test_the_tokens_that_would_settle_it_follow_from_the_interval() -> None:
    """A half-width of 0.004 about 0.012 must shrink to 0.002, half as much: four times the tokens."""
    assert judged(figure("probability_gap", BAD + 0.002, 0.008, 0.016)).more == pytest.approx(4.0)
    assert math.isnan(judged(figure("probability_gap", 0.02, 0.015, 0.03)).more)
    assert math.isnan(judged({}).more)
    assert judged({}).state is UNDECIDED


def test_the_figures_have_the_names_of_the_measured_ones() -> None:
    assert {"probability_gap", "ess_fraction_token"} <= set(MEANINGS)
    assert set(OVERLAP) <= set(OF_LAWS)
    assert str(STABLE) in OF_LAWS[OVERLAP[0]]
