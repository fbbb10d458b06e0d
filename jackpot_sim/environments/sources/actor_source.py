"""What all sources of an actor share: one knob, given or solved for, and keyed randomness.

The counterpart of `knobs` for language models. A source draws its noise once and gives a pair of models
as a function of its knob; the noise is keyed by the seed, the policy's own configuration and the kind of
the source, never by the knob.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.knobs import OneKnob
from jackpot_sim.environments.language_models.build import LanguageModel, Model
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import Path, RewardOf
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.targets import Target


@dataclass(frozen=True, eq=False)
class Setting:
    """What a source makes its pair from.

    Attributes:
        base: the model that is there before the source does anything.
        other: the model of `ActorSource.other`, None where there is none.
        prompts: shape (prompts, prompt_length).
        tree: the vocabulary, the most new tokens and the end token.
        reward: what the policy is trained on.
        generator: a key → the generator that it determines, together with seed and base model.
        ascent: (learning rate, rollouts a step) → the base model and what training on rewards makes of it, for
            real models; None for tiny ones, whose sources train as their trees allow.
    """

    base: Model
    other: Model | None
    prompts: Ints
    tree: PrefixTree
    reward: RewardOf
    generator: Callable[..., np.random.Generator]
    ascent: Callable[[float, int], Path] | None = None


Actors: TypeAlias = Callable[[Any], tuple[CausalLM, Scorer]]
"""knob → (reference, actor): the policy before the update at hand, and what writes the rollouts."""


@dataclass(frozen=True, kw_only=True)
class ActorSource(OneKnob):
    """Where a language-model actor comes from that differs from the policy by one knob."""

    learns_the_language: ClassVar[bool] = False
    """Whether `other` is trained as the policy was, unless it is a checkpoint."""

    @property
    def other(self) -> LanguageModel | None:
        """A second model that the source needs, to be built for its `Setting`."""
        return None

    @abstractmethod
    def actors(self, setting: Setting) -> Actors:
        """The two models as a function of the knob, with all noise drawn here."""

    @abstractmethod
    def solve(self, target: Target, setting: Setting, laws: Callable[[], Floats]) -> Any:
        """The knob at which the mean KL meets the target, exactly or as nearly as can be.

        Args:
            target: the KL, as a function of the knob.
            setting: as for `actors`.
            laws: gives the base model's laws at every prefix of every prompt, (states, vocab).
        """
