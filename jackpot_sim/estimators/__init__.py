"""Corrections of the actor-policy mismatch, and what each does: exactly, by sampling, along a path.

>>> from jackpot_sim import estimators
>>> estimators.get("mis", low=0.5, high=5.0)
MaskedImportanceSampling(low=0.5, high=5.0)
"""

from jackpot_sim.estimators import (
    batch,
    diagnostics,
    enumerated,
    jackpot,
    moments,
    optimum,
    path,
    rollouts,
    sampled,
    sequence,
    token,
)
from jackpot_sim.estimators.base import Correction, Level, TokenWeights, get, names
from jackpot_sim.estimators.batch import batch_normalize
from jackpot_sim.estimators.budget import at_budget
from jackpot_sim.estimators.combined import combined
from jackpot_sim.estimators.diagnostics import Aggregate
from jackpot_sim.estimators.moments import Denominator, Moments
from jackpot_sim.estimators.rao_blackwell import rao_blackwell
from jackpot_sim.estimators.updates import UpdateTarget

__all__ = [
    "Aggregate",
    "Correction",
    "Denominator",
    "Level",
    "Moments",
    "TokenWeights",
    "UpdateTarget",
    "at_budget",
    "batch",
    "batch_normalize",
    "combined",
    "diagnostics",
    "enumerated",
    "get",
    "jackpot",
    "moments",
    "names",
    "optimum",
    "path",
    "rao_blackwell",
    "rollouts",
    "sampled",
    "sequence",
    "token",
]
