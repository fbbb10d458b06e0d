"""The sources of a language-model actor: one union to read a configuration into, one list to test.

| kind              | knob        | the actor is …                                   | target direction |
|-------------------|-------------|--------------------------------------------------|------------------|
| weight-noise      | sigma       | the policy with Gaussian noise on its matrices   | KL(policy‖actor) |
| temperature       | temperature | the policy at another temperature                | KL(policy‖actor) |
| top-k             | k           | the policy's k likeliest tokens                  | KL(actor‖policy) |
| top-p             | p           | the policy's nucleus                             | KL(actor‖policy) |
| quantized-weights | share       | the policy with weights in another format        | KL(policy‖actor) |
| quantized-kv      | share       | the policy with its KV cache in another format   | KL(policy‖actor) |
| sliding-window    | window      | the policy attending to its last tokens only     | KL(policy‖actor) |
| stale             | steps       | the policy before its last updates               | KL(policy‖actor) |
| distilled         | steps       | a smaller model, distilled from the policy       | KL(policy‖actor) |
| separate          | share       | on the geometric path to another model           | KL(policy‖actor) |

A new source is a subclass of `ActorSource`, added to the union and to nothing else.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

from jackpot_sim.environments.language_models.formats import Format
from jackpot_sim.environments.sources.actor_source import ActorSource
from jackpot_sim.environments.sources.other_models import DistilledActor, SeparateActor, StaleActor
from jackpot_sim.environments.sources.served import (
    QuantizedKV,
    QuantizedWeights,
    SlidingWindow,
    TemperatureSource,
    TopKSource,
    TopPSource,
    WeightNoise,
)

__all__ = [
    "SOURCES",
    "ActorSource",
    "DistilledActor",
    "Format",
    "QuantizedKV",
    "QuantizedWeights",
    "SeparateActor",
    "SlidingWindow",
    "Source",
    "StaleActor",
    "TemperatureSource",
    "TopKSource",
    "TopPSource",
    "WeightNoise",
]

Source: TypeAlias = (
    WeightNoise
    | TemperatureSource
    | TopKSource
    | TopPSource
    | QuantizedWeights
    | QuantizedKV
    | SlidingWindow
    | StaleActor
    | DistilledActor
    | SeparateActor
)

SOURCES: tuple[type[ActorSource], ...] = get_args(Source)
