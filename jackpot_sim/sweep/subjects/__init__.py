"""The three kinds of subjects that a cell measures estimators on, one module for each world.

Each has one `measure`, and all give the same tables. A figure that a subject lacks is absent from its rows, and
empty in the records.
"""

from jackpot_sim.environments.rollouts.hf import HuggingFace
from jackpot_sim.environments.sequences.small_lm import SmallLM
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.plan import Cell
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.subjects import rollouts, sequences, states


def measure(cell: Cell, study: Study) -> Measured:
    """The estimators of a study on the environment of one cell.

    Raises:
        ValueError: the environment cannot be built, or an estimator cannot be measured on it.
    """
    match cell.env:
        case HuggingFace() as env:
            return rollouts.measure(cell, study, env)
        case SmallLM() as env:
            return sequences.measure(cell, study, env)
        case env:
            return states.measure(cell, study, env)
