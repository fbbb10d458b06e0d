"""Corrections of the actor-policy mismatch, and their moments: exact, sampled, or along a path of thresholds.

>>> from jackpot_sim import estimators
>>> estimators.get("mis", low=0.5, high=5.0)
MaskedImportanceSampling(low=0.5, high=5.0, c2=None)
"""

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.log_ratios import Aggregate
from jackpot_sim.estimators.corrections import (
    batch,
    clipped,
    jackpot,
    probability,
    sequence,
    sequence_objectives,
    shaped,
    token,
    token_in_sequence,
)
from jackpot_sim.estimators.corrections.at_budget import at_budget
from jackpot_sim.estimators.corrections.batch import batch_normalize
from jackpot_sim.estimators.corrections.composed import centred, combined, rao_blackwell
from jackpot_sim.estimators.corrections.correction import Correction, Level, TokenCorrection
from jackpot_sim.estimators.corrections.inputs import Tokens, TokenWeights, given
from jackpot_sim.estimators.corrections.parameters import require_positive
from jackpot_sim.estimators.corrections.presets import get, presets
from jackpot_sim.estimators.corrections.registry import names, register
from jackpot_sim.estimators.corrections.sequence import SequenceCorrection
from jackpot_sim.estimators.sequences import enumerated
from jackpot_sim.estimators.sequences.updates import UpdateTarget
from jackpot_sim.estimators.states import moments, optimum, path
from jackpot_sim.estimators.statistics import Denominator, Moments

__all__ = [
    "Aggregate",
    "Array",
    "Correction",
    "Denominator",
    "Level",
    "Moments",
    "SequenceCorrection",
    "TokenCorrection",
    "TokenWeights",
    "Tokens",
    "UpdateTarget",
    "at_budget",
    "batch",
    "batch_normalize",
    "centred",
    "clipped",
    "combined",
    "enumerated",
    "get",
    "given",
    "jackpot",
    "moments",
    "names",
    "optimum",
    "path",
    "presets",
    "probability",
    "rao_blackwell",
    "register",
    "require_positive",
    "sequence",
    "sequence_objectives",
    "shaped",
    "token",
    "token_in_sequence",
]
