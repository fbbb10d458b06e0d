"""The time left of a run, told by a clock that the test turns."""

from __future__ import annotations

import pytest

from jackpot_sim.environments.progress import Report, Stage
from jackpot_sim.sweep.costs import Timed
from jackpot_sim.sweep.remaining import Remaining
from jackpot_sim.sweep.stages import Step

STAGES = (Stage.LOADING, Stage.ACTOR_WRITES, Stage.SCORING, Stage.SCORING, Stage.GRADIENTS)
SECONDS = (5.0, 40.0, 60.0, 20.0, 30.0)
COST = Timed(tuple(Step(each, each, 10, 1) for each in STAGES), SECONDS, 1.0, 1.0)


@pytest.mark.parametrize("pace", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_left_holds_whatever_the_pace(pace: float, cached: bool) -> None:
    """From the second step on, however wrong the estimate; a step that another cell's work makes needless is none."""
    now = 0.0
    told = Remaining([COST, COST], clock=lambda: now)
    assert told.seconds == pytest.approx(2 * sum(SECONDS))
    steps = [place for place in range(5) if not (cached and place == 3)]
    left = 2 * pace * sum(SECONDS[place] for place in steps if place)
    for _ in range(2):
        for place in steps:
            taken = SECONDS[place] * (pace if place else 0.0)
            for done in range(10):
                told.hear(Report(STAGES[place], done, 10) if place else Report(STAGES[place]))
                now += taken / 10
                left -= taken / 10
                if place > 1 or left < pace * sum(SECONDS):
                    assert told.seconds < 1.6 * left + pace * 25
                    assert told.seconds > left / 1.6 - pace * 25
        told.next_cell()
    assert told.seconds == 0.0
