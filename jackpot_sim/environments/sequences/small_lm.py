"""Tiny causal language models whose actor differs from the policy by one knob.

A model that starts at random is trained for a second on a small language (`StrideLanguage`); a source makes the actor
from it, or the policy; a reward of whole sequences makes the advantage. Where the tree of prefixes fits in memory,
every sequence is enumerated; beyond that, sequences are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import ClassVar, Literal, cast

import numpy as np

from jackpot_sim.environments.fields import BY_KIND, FORBID_EXTRA, check_count, check_positive
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.build import (
    Checkpoint,
    LanguageModel,
    Model,
    TinyQwen3,
    Tokenizer,
    build,
    check_model,
    check_same_vocabulary,
    load_tokenizer,
)
from jackpot_sim.environments.language_models.derivatives import log_prob_features
from jackpot_sim.environments.language_models.scoring import CausalLM, Scorer
from jackpot_sim.environments.language_models.teaching import PolicyGradientAscent, Pretraining, StrideLanguage
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.prefix_tree import PrefixTree, require_an_end
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.sequences.built import Models, enumerated, sampled_baseline
from jackpot_sim.environments.sequences.built import RealisedSequences as RealisedSequences
from jackpot_sim.environments.sequences.mean_kl import ExactKL, KLEstimator, MeanKL, SampledKL
from jackpot_sim.environments.sequences.reward import Reward, SumReward, TokenShareReward
from jackpot_sim.environments.sources.actor_source import Setting, TinyTask
from jackpot_sim.environments.sources.kinds import TinySource
from jackpot_sim.environments.sources.served import TopKSource, WeightNoise
from jackpot_sim.environments.targets import Target
from jackpot_sim.environments.worlds import TARGET_PASSES, Cost, Sizes, World
from jackpot_sim.requirements import require

PRETRAINING_RATE = 1e-2
"""The learning rate of pretraining."""
KL_ROLLOUTS = 1024
"""Sequences per prompt behind a mean KL that is sampled."""

_SECONDS_TO_TRAIN = 2.0
"""A tiny language model, from its random start."""
_SECONDS_PER_PREFIX = 4e-5
"""Scoring one prefix with one model."""
_SECONDS_PER_STEP = 2.5e-7
"""One token of one enumerated sequence, for one estimator with one denominator."""
_SECONDS_PER_ROLLOUT_STEP = 1e-6
"""One token of one drawn sequence, likewise."""
_SECONDS_PER_DRAWN_STEP = 5e-6
"""Drawing one token and scoring it with one model."""


@dataclass(frozen=True, kw_only=True)
class SmallLM:
    """An environment of tiny language models; `source` says how the actor differs from the policy.

    Attributes:
        model: the model before the source does anything: the reference, or for a stale actor the actor.
        vocab: V, 2 to 64.
        length: the most new tokens, 1 to 12.
        end_token: the token that ends a sequence, or None.
        prompts: the number of prompts, drawn uniformly among the other tokens.
        prompt_length: tokens in each prompt.
        pretrain_steps: steps on the small language by a model that starts at random; a checkpoint takes none.
        source: the source of the actor, with its one knob or a target KL.
        reward: the reward of a sequence.
        updates: steps of policy gradient from p_ref, the policy before the update at hand, to p_new, the policy that is
            trained; 0 makes them one.
        learning_rate: that of AdamW in these updates.
        space: the space of gradients: the logits at every prefix, or the model's parameters.
        memory_limit_gib: the most memory of an enumeration; sequences that need more are sampled.
        log_probs: the log-probs that a trainer gets, see `LogProbs`. Support replay renormalises p_ref and p_new on the
            tokens that the sampler kept. The KLs, and the gradient that is wanted, stay those of the whole policy.

    Raises:
        ValueError: a number is out of range, or the end token is none of the vocabulary.
    """

    kind: Literal["small-lm"] = "small-lm"
    model: LanguageModel = field(default_factory=TinyQwen3, metadata=BY_KIND)
    vocab: int = 5
    length: int = 4
    end_token: int | None = 0
    prompts: int = 4
    prompt_length: int = 2
    pretrain_steps: int = 200
    source: TinySource = field(default_factory=lambda: WeightNoise(target_kl=0.01), metadata=BY_KIND)
    reward: Reward = field(default_factory=SumReward, metadata=BY_KIND)
    updates: int = 0
    learning_rate: float = 1e-3
    space: Literal["logits", "parameters"] = "logits"
    memory_limit_gib: float = 4.0
    log_probs: LogProbs = LogProbs.PROCESSED

    world: ClassVar[World] = World.SEQUENCES
    sizes: ClassVar[Sizes] = Sizes()
    LATER: ClassVar[Mapping[str, object]] = {"log_probs": LogProbs.PROCESSED}
    """Fields that older records do not have, with the values that leave everything as it was without them."""

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_probs", LogProbs(self.log_probs))
        check_count("vocab", self.vocab, 2, 64)
        check_count("length", self.length, 1, 12)
        check_count("prompts", self.prompts, 1)
        check_count("prompt_length", self.prompt_length, 1)
        check_count("pretrain_steps", self.pretrain_steps, 0)
        check_count("updates", self.updates, 0)
        check_positive("learning_rate", self.learning_rate)
        check_positive("memory_limit_gib", self.memory_limit_gib)
        if self.space not in ("logits", "parameters"):
            raise ValueError(f"space must be 'logits' or 'parameters', got {self.space!r}")
        self.tree  # noqa: B018  # its checks
        positions = self.prompt_length + self.length
        for model in (self.model, self.source.other):
            if isinstance(model, TinyQwen3) and positions > model.context:
                raise ValueError(f"prompt and new tokens together are {positions}, and the context is {model.context}")
        if isinstance(self.reward, TokenShareReward):
            check_count("reward.token", self.reward.token, 0, self.vocab - 1)
        if isinstance(self.source, TopKSource) and self.source.k is not None:
            check_count("source.k", self.source.k, 1, self.vocab)

    @property
    def tree(self) -> PrefixTree:
        """The prefixes after any prompt."""
        return PrefixTree(self.vocab, self.length, self.end_token)

    @property
    def enumerable(self) -> bool:
        """True if every sequence is enumerated, which depends on the limit alone, not on the machine."""
        return self.tree.bytes_needed(self.prompts) <= self._memory_limit

    @property
    def _memory_limit(self) -> int:
        return int(self.memory_limit_gib * 2**30)

    @property
    def family(self) -> str:
        """The difference between actor and policy, as records name it."""
        return self.source.kind

    @property
    def base_kind(self) -> str:
        """The origin of the policies, as records name it."""
        return self.kind

    @property
    def knob_name(self) -> str:
        """The name of the source's knob."""
        return self.source.knob_name

    @property
    def target_divergence(self) -> Divergence:
        """The direction of the source's target."""
        return self.source.target_divergence

    @property
    def target_kl(self) -> float | None:
        """The source's target, nats."""
        return self.source.target_kl

    def cost(self) -> Cost:
        """A rough estimate of the work."""
        kls, steps = (0 if self.target_kl is None else TARGET_PASSES), self.prompts * self.length
        draw = steps * _SECONDS_PER_ROLLOUT_STEP
        if not self.enumerable:
            build = _SECONDS_TO_TRAIN + kls * KL_ROLLOUTS * steps * _SECONDS_PER_DRAWN_STEP
            return Cost(None, build, None, 4 * steps * _SECONDS_PER_DRAWN_STEP, draw)
        prefixes = self.prompts * self.tree.prefixes
        exact = steps * self.tree.sequences_count * _SECONDS_PER_STEP
        return Cost(
            prefixes * self.vocab, _SECONDS_TO_TRAIN + prefixes * (2 + kls) * _SECONDS_PER_PREFIX, exact, 0.0, draw
        )

    def build(self, seed: int) -> RealisedSequences:
        """The models and sequences that this configuration and `seed` determine.

        Raises:
            ValueError: torch or transformers is not installed; a model cannot be built, or does not fit the vocabulary
                or the lengths; the end token is never reached; the knob does not fit the model; or `target_kl` is
                unattainable, or not exact where it must be.
        """
        require("torch", "transformers", purpose=self.kind)
        with torch_threads(1):
            return self._build(seed)

    def _build(self, seed: int) -> RealisedSequences:
        self._require_what_fits()
        generator = partial(keyed_generator, seed, self.kind, self._base_key)
        task = self._task(generator)
        estimator: KLEstimator = ExactKL(self.tree, task.prompts)
        if not self.enumerable:
            uniforms = generator("kl").random((self.prompts, KL_ROLLOUTS, self.length))
            estimator = SampledKL(task.prompts, uniforms, self.end_token)
        setting = self._setting(generator, task)
        base = CausalLM(setting.base)
        setting = replace(setting, laws=lambda: estimator.laws(base))
        require_an_end(self.tree, estimator.laws(base), "the policy")
        # No engine: those are actors of real models.
        actors = cast("Callable[[float], tuple[CausalLM, Scorer]]", self.source.actors(setting))
        forwards = self.target_divergence == "kl_policy_actor"

        @cache
        def kl_at(knob: float) -> MeanKL:
            return estimator.kl(*actors(knob)[:: 1 if forwards else -1])

        def solved(target_kl: float) -> float:
            label = f"{self.target_divergence} of {self.source.kind}"
            return self.source.solve(Target(label, target_kl, lambda knob: kl_at(knob).value), setting)

        knob = self.source.resolved(solved)
        reference, actor = actors(knob)
        policy = self._updated(reference, task, generator("updates"))
        models = Models(policy, actor, reference, self.log_probs)
        enumerations = None
        if isinstance(estimator, ExactKL):
            enumerations, baseline = enumerated(estimator, models, task)
        else:
            baseline = sampled_baseline(policy, task, generator("baseline"))
        features = None
        if self.space == "parameters":
            features = tuple(log_prob_features(policy.model, task.prompts, self.tree, self._memory_limit))
        return RealisedSequences(
            tree=self.tree,
            prompts=task.prompts,
            knob=float(knob),
            target_kl=self.target_kl,
            achieved=kl_at(knob).value,
            achieved_se=kl_at(knob).standard_error,
            enumerations=enumerations,
            features=features,
            models=models,
            reward=task.reward,
            baseline=baseline,
        )

    @property
    def _language(self) -> StrideLanguage:
        return StrideLanguage(self.tree, self.prompt_length)

    def _task(self, generator: Callable[..., np.random.Generator]) -> TinyTask:
        return TinyTask(
            prompts=self._language.prompts(generator("prompts"), self.prompts),
            tree=self.tree,
            reward=lambda tokens, mask: self.reward.of(tokens, mask, self.vocab, generator("reward")),
        )

    def _setting(self, generator: Callable[..., np.random.Generator], task: TinyTask) -> Setting:
        """The models before the source does anything; all are checked before any of them is trained."""
        base, other = self._model(self.model, "policy", generator), None
        if self.source.other is not None:
            other = self._model(self.source.other, "actor", generator)
            tokenizers = (_tokenizer(self.model), _tokenizer(self.source.other))
            check_same_vocabulary(base, other, *tokenizers)
        base = self._pretrained(base, self.model, generator("pretraining", "policy"))
        if self.source.learns_the_language:
            other = self._pretrained(other, self.source.other, generator("pretraining", "actor"))
        positions = self.prompt_length + self.length
        return Setting(base, generator, other=other, positions=positions, task=task)

    def _model(self, config: LanguageModel, role: str, generator: Callable[..., np.random.Generator]) -> Model:
        model = build(config, self.vocab, generator("weights", role, config))
        check_model(model, f"the {role}", vocab=self.vocab, positions=self.prompt_length + self.length)
        return model

    def _pretrained(self, model: Model, config: LanguageModel | None, generator: np.random.Generator) -> Model:
        if isinstance(config, Checkpoint):
            return model
        return Pretraining(model, self._language, PRETRAINING_RATE, generator).after(self.pretrain_steps)

    def _updated(self, reference: CausalLM, task: TinyTask, generator: np.random.Generator) -> CausalLM:
        """The policy after its updates; the reference itself where there are none."""
        if not self.updates:
            return reference
        ascent = PolicyGradientAscent(
            reference.model, task.prompts, task.tree, task.reward, self.learning_rate, generator
        )
        return CausalLM(ascent.after(self.updates))

    def _require_what_fits(self) -> None:
        """Refuses options that need every sequence where they are sampled, and enumerations beyond this machine."""
        if self.enumerable:
            return self.tree.require_memory(self.prompts)
        if self.space == "parameters":
            self._require_every_sequence("space='parameters'", "give space='logits'")
        if self.target_kl is not None and self.target_divergence == "kl_actor_policy":
            self._require_every_sequence(f"a target_kl of {self.source.kind}", f"give {self.knob_name} instead")
        return None

    def _require_every_sequence(self, what: str, otherwise: str) -> None:
        try:
            self.tree.require_fits(self._memory_limit, self.prompts)
        except ValueError as error:
            raise ValueError(f"{what} needs every sequence: {otherwise}; {error}") from error

    @property
    def _base_key(self) -> tuple[object, ...]:
        """The key of the randomness of all models and of the reward, beside the seed."""
        return self.model, self.vocab, self.end_token, self.prompt_length


def _tokenizer(config: LanguageModel) -> Tokenizer | None:
    return load_tokenizer(config.path) if isinstance(config, Checkpoint) else None
