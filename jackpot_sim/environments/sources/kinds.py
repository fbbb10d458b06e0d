"""The sources of a language-model actor: one table, and the unions to read a configuration into.

| kind              | knob        | the actor is …                                  | target direction | models      |
|-------------------|-------------|-------------------------------------------------|------------------|-------------|
| weight-noise      | sigma       | the policy with Gaussian noise on its matrices  | KL(policy‖actor) | any, served |
| quantized-weights | share       | the policy with weights in another format       | KL(policy‖actor) | any, served |
| quantized-kv      | share       | the policy with its KV cache in another format  | KL(policy‖actor) | any, served |
| sliding-window    | window      | the policy attending to its last tokens only    | KL(policy‖actor) | any         |
| temperature       | temperature | the policy at another temperature               | KL(policy‖actor) | tiny, real  |
| top-k             | k           | the policy's k likeliest tokens                 | KL(actor‖policy) | tiny        |
| top-p             | p           | the policy's nucleus                            | KL(actor‖policy) | tiny        |
| stale             | steps       | the policy before its last updates              | KL(policy‖actor) | tiny, real  |
| distilled         | steps       | a smaller model, distilled from the policy      | KL(policy‖actor) | tiny        |
| fewer-layers      | layers      | the policy without its last layers              | KL(policy‖actor) | real        |
| separate          | share       | on the geometric path to another model          | KL(policy‖actor) | tiny        |
| checkpoint        | none        | another checkpoint                              | no target        | real        |
| precision         | none        | the policy's weights in another precision       | no target        | real        |
| llama-cpp         | none        | a GGUF file that llama.cpp runs                 | no target        | real, served|
| server            | none        | a rollout server (vLLM, SGLang, llama.cpp, …)   | no target        | real, served|

Tiny models are those of `small-lm`, real ones those of `hf`; "served" are the sources that training applies to the
weights of the moment. `stale` and `temperature` have a class for each. A new source is a subclass of `ActorSource`,
added to its unions alone.
"""

from __future__ import annotations

from typing import TypeAlias, get_args

from jackpot_sim.environments.sources.actor_source import ActorSource
from jackpot_sim.environments.sources.llama_cpp import LlamaCppActor
from jackpot_sim.environments.sources.quantized import QuantizedKV, QuantizedWeights
from jackpot_sim.environments.sources.real_models import (
    AnotherCheckpoint,
    FewerLayers,
    OlderWeights,
    OtherPrecision,
    OtherTemperature,
)
from jackpot_sim.environments.sources.served import (
    SlidingWindow,
    TemperatureSource,
    TopKSource,
    TopPSource,
    WeightNoise,
)
from jackpot_sim.environments.sources.server import ServerActor
from jackpot_sim.environments.sources.tiny_models import DistilledActor, SeparateActor, StaleActor

TinySource: TypeAlias = (
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
"""The sources of an actor of tiny models."""

RealSource: TypeAlias = (
    AnotherCheckpoint
    | OtherPrecision
    | OtherTemperature
    | OlderWeights
    | FewerLayers
    | WeightNoise
    | QuantizedWeights
    | QuantizedKV
    | SlidingWindow
    | LlamaCppActor
    | ServerActor
)
"""The sources of an actor of real models."""

ServedSource: TypeAlias = QuantizedWeights | QuantizedKV | WeightNoise | LlamaCppActor | ServerActor
"""The sources of an actor in training: the policy's weights of the moment, served otherwise; or an engine, as it is."""

TINY_SOURCES: tuple[type[ActorSource], ...] = get_args(TinySource)
REAL_SOURCES: tuple[type[ActorSource], ...] = get_args(RealSource)
