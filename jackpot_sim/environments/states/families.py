"""The mismatch families of independent states: one union to read a configuration into, one list to test.

| kind              | knob        | the actor is …                                      | target direction |
|-------------------|-------------|-----------------------------------------------------|------------------|
| dirichlet-mixture | epsilon     | the policy mixed with a random law                  | KL(policy‖actor) |
| logit-noise       | sigma       | the policy with Gaussian noise on its logits        | KL(policy‖actor) |
| temperature       | temperature | the policy at another temperature                   | KL(policy‖actor) |
| top-k             | k           | the policy's k likeliest tokens                     | KL(actor‖policy) |
| top-p             | p           | the policy's nucleus                                | KL(actor‖policy) |
| quantized-logits  | bits        | the policy with its log-probs on a coarse grid      | KL(policy‖actor) |
| low-rank          | rank        | the policy with its log-probs at low rank           | KL(policy‖actor) |
| stale             | steps       | the policy before its last updates                  | KL(policy‖actor) |
| lower-order       | order       | an n-gram policy with a shorter context             | KL(policy‖actor) |
| actor-file        | share       | on the geometric path to the logits in a file       | KL(policy‖actor) |

A new family is a subclass of `Mismatch`, added to the union alone.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.states.actor_file import ActorFile
from jackpot_sim.environments.states.compressed import LowerOrder, LowRank, QuantizedLogits
from jackpot_sim.environments.states.mismatch import Mismatch
from jackpot_sim.environments.states.perturbed import DirichletMixture, LogitNoise, Temperature
from jackpot_sim.environments.states.stale import StaleLogits
from jackpot_sim.environments.states.truncated import TopKTruncation, TopPTruncation

__all__ = [
    "FAMILIES",
    "ActorFile",
    "DirichletMixture",
    "Divergence",
    "LogitNoise",
    "LowRank",
    "LowerOrder",
    "Mismatch",
    "MismatchFamily",
    "QuantizedLogits",
    "StaleLogits",
    "Temperature",
    "TopKTruncation",
    "TopPTruncation",
]

MismatchFamily: TypeAlias = (
    DirichletMixture
    | LogitNoise
    | Temperature
    | TopKTruncation
    | TopPTruncation
    | QuantizedLogits
    | LowRank
    | StaleLogits
    | LowerOrder
    | ActorFile
)

FAMILIES: tuple[type[Mismatch], ...] = get_args(MismatchFamily)
