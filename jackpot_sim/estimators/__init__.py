"""Corrections of the actor-policy mismatch, and what each does: exactly, by sampling, along a path.

>>> from jackpot_sim import estimators
>>> estimators.get("mis", low=0.5, high=5.0)
MaskedImportanceSampling(low=0.5, high=5.0)
"""

from jackpot_sim.estimators import jackpot, moments, optimum, path, sampled, token
from jackpot_sim.estimators.base import Correction, TokenWeights, get, names
from jackpot_sim.estimators.budget import at_budget
from jackpot_sim.estimators.moments import Denominator, Moments
from jackpot_sim.estimators.rao_blackwell import rao_blackwell

__all__ = [
    "Correction",
    "Denominator",
    "Moments",
    "TokenWeights",
    "at_budget",
    "get",
    "jackpot",
    "moments",
    "names",
    "optimum",
    "path",
    "rao_blackwell",
    "sampled",
    "token",
]
