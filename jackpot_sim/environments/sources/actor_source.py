"""The base class of all sources of an actor: one knob, given or solved for, and keyed randomness.

A source draws its noise once and gives a pair of models as a function of its knob; the noise is keyed by the seed, the
policy's own configuration and the kind of the source, never by the knob.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape
from jackpot_sim.environments.engines.engine import Engine
from jackpot_sim.environments.knobs import OneKnob
from jackpot_sim.environments.language_models.build import LanguageModel, Model
from jackpot_sim.environments.language_models.library import Tensor, Tokenizer
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import RewardOf, TrainingPath
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.targets import Target

MAX_STEPS = 1 << 10
"""The most steps that the search for a target tries; a larger learning rate gets further."""

LARGEST = 2.0**16
"""The end of the search for a target: so many standard deviations, or rounding errors."""


@dataclass(frozen=True, eq=False)
class TinyTask:
    """The data that tiny models are trained and measured on.

    Attributes:
        prompts: shape (prompts, prompt_length).
        tree: the vocabulary, the most new tokens and the end token.
        reward: the reward of whole sequences.
    """

    prompts: Ints
    tree: PrefixTree
    reward: RewardOf

    def __post_init__(self) -> None:
        check_integers(self.prompts, "prompts", "prompts", "prompt_length")


@dataclass(frozen=True, eq=False)
class Setting:
    """The models and data from which a source makes its pair; a source says which of the optional ones it needs.

    Attributes:
        base: the model before the source does anything.
        generator: a key → the generator that it determines, together with seed and base model.
        other: the model of `ActorSource.other`, None where there is none.
        positions: the most tokens of a sequence, prompt and new ones together.
        laws: gives the base model's laws at the prefixes over which a KL is measured, (states, vocab), nats; of tiny
            models only.
        task: prompts, sequences and reward of tiny models.
        ascent: (learning rate, rollouts a step) → the base model in training on rewards; of real models only.
        temperature: the policy's own; of real models only.
        name: the checkpoint of the policy, as it was named; of real models only.
        tokenizer: the policy's; None where tokens have no texts.
    """

    base: Model
    generator: Callable[..., np.random.Generator]
    other: Model | None = None
    positions: int = 0
    laws: Callable[[], Floats] | None = None
    task: TinyTask | None = None
    ascent: Callable[[float, int], TrainingPath] | None = None
    temperature: float = 1.0
    name: str = ""
    tokenizer: Tokenizer | None = None


Actors: TypeAlias = Callable[[float], tuple[CausalLM, Scorer | Engine]]
"""knob → (reference, actor): the policy before the update at hand, and what writes the rollouts.

The actor of a tiny model is a `Scorer`, that of a real one a `CausalLM` or an `Engine` of its own.
"""


@dataclass(frozen=True, kw_only=True)
class ActorSource(OneKnob):
    """A source of a language-model actor that differs from the policy by one knob."""

    learns_the_language: ClassVar[bool] = False
    """True where `other` is trained as the policy was, unless it is a checkpoint."""

    @property
    def other(self) -> LanguageModel | None:
        """A second model that the source needs, to be built for its `Setting`."""
        return None

    @abstractmethod
    def actors(self, setting: Setting) -> Actors:
        """The two models as a function of the knob; all noise is drawn before this returns."""

    def sampling(self, law: SamplingLaw, knob: float) -> SamplingLaw:
        """The law that the actor samples from, given that of the environment; of real models only."""
        return law

    @abstractmethod
    def solve(self, target: Target, setting: Setting) -> float:
        """The knob at which the mean KL meets the target, exactly or as nearly as can be."""


def moved(model: Model, directions: Mapping[str, Tensor], amount: float) -> Model:
    """A copy of the model with `amount` times its direction added to every parameter that has one.

    Raises:
        TypeError: a direction holds no real floating numbers.
        ValueError: a direction has another shape than its parameter.
    """
    import torch

    new = {}
    with torch.no_grad():
        for name, direction in directions.items():
            weight = model.get_parameter(name)
            check_same_shape(weight, check_reals(direction, "directions"), name, "directions")
            there = torch.add(weight, direction, alpha=amount).to(weight.dtype)  # a direction may be finer
            new[id(weight)] = torch.nn.Parameter(there, weight.requires_grad)
    return copy.deepcopy(model, new)  # which copies no weight that has a new one
