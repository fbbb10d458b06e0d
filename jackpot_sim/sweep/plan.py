"""The cells of a study, and an estimate of their cost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from jackpot_sim.sweep.spec import Method, Study
from jackpot_sim.sweep.worlds import Environment, identity


@dataclass(frozen=True)
class Cell:
    """One environment and one seed; every estimator is measured in it on the same pair."""

    env: Environment
    seed: int

    @cached_property
    def environment(self) -> str:
        """The environment as canonical JSON, on which its randomness and its name depend."""
        return json.dumps(identity(dataclasses.asdict(self.env)), sort_keys=True, default=str)

    @cached_property
    def id(self) -> str:
        """The name of the cell and of its shard: readable first, and unique by its digest."""
        digest = hashlib.sha256(self.environment.encode()).hexdigest()[:12]
        return f"{self.env.family}-{self.env.base_kind}-{digest}-{self.seed}"


def cells(study: Study) -> list[Cell]:
    """The cells of a study, in the order of its environments and seeds."""
    return [Cell(env, seed) for env in study.env for seed in study.seeds]


def tokens(cell: Cell) -> int | None:
    """States × vocabulary; None where only building the environment tells, or where sequences are drawn."""
    cost = cell.env.cost()
    return None if cost is None else cost.tokens


def estimates(study: Study) -> int:
    """The number of estimators, each as often as it has denominators."""
    return sum(len(study.denominators_of(spec)) for spec in study.estimators)


def seconds(cell: Cell, study: Study) -> float | None:
    """A rough estimate of the serial seconds that a cell takes; None where only building the environment tells."""
    cost = cell.env.cost()
    if cost is None:
        return None
    proposals = study.n_samples * study.replicates
    exact = 0.0 if cost.exact is None or Method.EXACT not in study.methods else cost.exact
    drawn = cost.draw * proposals if cost.exact is None or Method.MONTE_CARLO in study.methods else 0.0
    return cost.build + cost.write * proposals + estimates(study) * (exact + drawn)
