"""One cell measured: the rows that it adds to the records. Pure but for the clock."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from jackpot_sim.sweep import subjects
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import Study


def measure(cell: Cell, study: Study) -> Measured:
    """Builds the cell's environment and measures every estimator on it, with one thread.

    Raises:
        ValueError: the environment cannot be built, a budget is not attainable, …; the message
            names the cell.
    """
    try:
        with threadpool_limits(limits=1):
            return subjects.measure(cell, study)
    except ValueError as error:
        raise ValueError(f"cell {cell.id}: {error}") from error
