"""Corrections of the actor-policy mismatch, and their moments: exact, sampled, or along a path of thresholds.

>>> from jackpot_sim import estimators
>>> estimators.get("mis", low=0.5, high=5.0)
MaskedImportanceSampling(low=0.5, high=5.0, c2=None)
"""

from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.estimators.corrections import batch, jackpot, probability, sequence, shaped, token
from jackpot_sim.estimators.corrections.at_budget import at_budget
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.corrections.composed import centred, combined, rao_blackwell
from jackpot_sim.estimators.corrections.correction import Correction, Level
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights
from jackpot_sim.estimators.corrections.registry import get, names
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.sequences.updates import UpdateTarget
from jackpot_sim.estimators.states import moments, optimum, path
from jackpot_sim.estimators.statistics import Denominator, Moments

__all__ = [
    "Aggregate",
    "Correction",
    "Denominator",
    "Level",
    "Moments",
    "TokenWeights",
    "Tokens",
    "UpdateTarget",
    "at_budget",
    "batch",
    "batch_normalize",
    "centred",
    "combined",
    "enumerated",
    "get",
    "jackpot",
    "moments",
    "names",
    "optimum",
    "path",
    "probability",
    "rao_blackwell",
    "sequence",
    "shaped",
    "token",
]
