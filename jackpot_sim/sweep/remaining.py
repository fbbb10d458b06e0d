"""The time that a run has left, from its estimate and from its own pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from jackpot_sim.environments.progress import Report, Stage
from jackpot_sim.sweep.costs import Timed

_TOLD = 0.1
"""The share of a step from which its own pace is believed rather than the estimate."""


class Remaining:
    """The place of a run among the steps of its cells, which are measured one after the other.

    Args:
        costs: the estimates of the cells that are left, in their order.
        clock: gives the time in seconds.
    """

    def __init__(self, costs: Sequence[Timed], clock: Callable[[], float] = time.perf_counter) -> None:
        self._costs, self._clock = list(costs), clock
        self._at, self._share, self._begun = -1, 0.0, clock()
        self._spent, self._expected = 0.0, 0.0
        """The seconds that finished steps took and were expected to take, loading aside."""
        self._end = self._begun + self._ahead()

    @property
    def seconds(self) -> float:
        """The seconds that are left."""
        return max(self._end - self._clock(), 0.0)

    def next_cell(self) -> None:
        """Goes to the next cell."""
        self._finish()
        self._costs, self._at, self._share = self._costs[1:], -1, 0.0
        self._end = self._clock() + self._ahead()

    def hear(self, told: Report) -> None:
        """Goes to the step that a report belongs to; one that no step ahead belongs to is passed over."""
        if not self._costs:
            return
        steps = self._costs[0].steps
        begins = told.done == 0 or self._at < 0 or steps[self._at].stage is not told.stage
        if begins:
            ahead = [at for at in range(self._at + 1, len(steps)) if steps[at].stage is told.stage]
            if not ahead:
                return
            self._finish()
            self._at, self._begun = ahead[0], self._clock()
        self._share = told.done / told.total if told.total else 0.0
        self._end = self._clock() + self._ahead()

    def _finish(self) -> None:
        """Counts the step that ends now."""
        if self._at >= 0 and self._costs and self._costs[0].steps[self._at].stage is not Stage.LOADING:
            self._spent += self._clock() - self._begun
            self._expected += self._costs[0].seconds[self._at]

    def _ahead(self) -> float:
        """The seconds of all that is not done."""
        if not self._costs:
            return 0.0
        pace = self._pace()
        later = sum(self._costs[0].seconds[self._at + 1 :]) + sum(sum(each.seconds) for each in self._costs[1:])
        here = 0.0
        if self._at >= 0:
            here = self._costs[0].seconds[self._at] * pace * (1 - self._share)
            if self._share >= _TOLD:
                here = (self._clock() - self._begun) * (1 / self._share - 1)
        return here + later * pace

    def _pace(self) -> float:
        """The seconds that steps take, over those that they were expected to, once a tenth of a cell tells it."""
        enough = self._expected > _TOLD * sum(self._costs[0].seconds)
        return self._spent / self._expected if enough else 1.0


class Pace:
    """The time that cells have left by the pace of those that are done, each by its share of the work.

    Args:
        work: the work of each cell, in any unit, by its id.
        clock: gives the time in seconds.
    """

    def __init__(self, work: Mapping[str, float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._work, self._clock = work, clock
        self._begun: tuple[float, float] | None = None
        self._seconds: float | None = None
        self._at = 0.0

    @property
    def seconds(self) -> float | None:
        """The seconds that are left; None until enough cells are done to tell."""
        return None if self._seconds is None else max(self._seconds - (self._clock() - self._at), 0.0)

    def finished(self, cells: Collection[str]) -> None:
        """Takes note of the cells that are done: the first ones, which wait for processes to start, set the clock."""
        now, done = self._clock(), sum(self._work[each] for each in cells)
        if self._begun is None:
            if cells:
                self._begun = now, done
            return
        since, before = self._begun
        if done > before:
            self._at = now
            self._seconds = (now - since) * (sum(self._work.values()) - done) / (done - before)
