"""The environment of real models: a Hugging Face causal language model as the policy, and an actor.

Actor and policy each write completions of prompts, and both are scored at every token written: their laws over the
whole vocabulary, not the sampled token alone. Figures of these laws are exact at every visited state; the visited
states are sampled.

Everything runs alike on CPU and CUDA. On a CPU torch keeps to `threads` threads, so that the same configuration gives
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_reals
from jackpot_sim.environments.engines.engine import Engine, LawEngine
from jackpot_sim.environments.engines.sharing import SharingEngine
from jackpot_sim.environments.fields import BY_KIND, FORBID_EXTRA, check_count, check_positive
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.block_gradients import block_of
from jackpot_sim.environments.language_models.build import check_model, check_same_vocabulary
from jackpot_sim.environments.language_models.carried import gguf_of, is_gguf
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load, resolved_device
from jackpot_sim.environments.language_models.generated_prompts import GeneratedPrompts
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Model, Tokenizer, end_tokens
from jackpot_sim.environments.language_models.prompts import Prompt, PromptDataset, PromptFile, encoded
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.progress import Stage, enclosing, report
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.recorded import LogProbs
from jackpot_sim.environments.rollouts.answers import AnswerReward
from jackpot_sim.environments.rollouts.ascent import RolloutAscent
from jackpot_sim.environments.rollouts.built import RealisedRollouts, RewardAfter, Setup
from jackpot_sim.environments.rollouts.shared import policy_of
from jackpot_sim.environments.sequences.reward import DistinctShareReward, Reward
from jackpot_sim.environments.sources.actor_source import Setting
from jackpot_sim.environments.sources.kinds import RealSource
from jackpot_sim.environments.sources.llama_cpp import LlamaCppActor
from jackpot_sim.environments.sources.real_models import AnotherCheckpoint
from jackpot_sim.environments.sources.server import ServerActor
from jackpot_sim.environments.targets import Target
from jackpot_sim.environments.worlds import Sizes, World
from jackpot_sim.requirements import require

POLICY_ROLLOUTS = 8
"""Completions of each prompt, by the policy, behind the KL that a knob is solved for, and behind the baseline."""
TARGET_TOLERANCE = 1e-2
"""The largest relative miss of a target KL: the standard error of a mean KL over rollouts is seldom smaller."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """An environment of real models; `actor` says how the actor differs from the policy.

    Attributes:
        policy: the policy's checkpoint: a folder as `save_pretrained` leaves it, a GGUF file, the name of a model that
            a package carries, or a hub id.
        actor: the source of the actor.
        prompts: the source of the prompts.
        chat: whether prompts go through the tokenizer's chat template; None: where it has one.
        length: the most new tokens.
        temperature: that of both policies, if the actor has none of its own: logits are divided by it before
            anything else.
        top_k: the number of likeliest tokens from which the actor samples; None: all.
        top_p: the mass of the nucleus from which the actor samples.
        log_probs: the log-probs that a trainer gets: `processed` ones, of the law that the actor sampled from; `raw`
            ones, of its model at temperature 1 before any cut, which is a mistake to study; or processed ones with the
            `support`, the tokens that top_k and top_p kept, on which the policy is renormalised too, in ratios and in
            the update's gradient. Figures of ratios (weights, k1, Z, …) are those that a trainer would see; the KLs
            between laws, the effect of corrections on them, and the gradient that is wanted stay those of the law
            that was sampled from and of the whole policy.
        reward: the reward of a completion; None: the prompts' answers where all carry one, else the share of
            different tokens. The advantage is R − b, b being the mean reward after the prompt of rollouts of the
            policy that enter no gradient.
        precision: the number format of the models, in which they also compute.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: sequences that a model reads at once.
        rows: states whose laws over the vocabulary are held at once.
        stored_topk: the number of the actor's likeliest tokens from which centred corrections take the mean of each
            state, with a model of the tail; as many as the vocabulary make it exact. An actor that shows no whole laws,
            as a server, is asked for as many of every law, or for as many as it gives (its own topk).
        block: the parameters in whose space gradients are measured, as a shell pattern of their names; None: the
            last vector of parameters, the final norm's gain.
        gradients: taken of every sequence by itself, of whole batches, which is faster, or off.
        threads: torch's threads on a CPU.

    Raises:
        ValueError: a number is out of range.
    """

    kind: Literal["hf"] = "hf"
    policy: str
    actor: RealSource = field(metadata=BY_KIND)
    prompts: PromptFile | PromptDataset | GeneratedPrompts = field(metadata=BY_KIND)
    chat: bool | None = None
    length: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    log_probs: LogProbs = LogProbs.PROCESSED
    reward: Reward | AnswerReward | None = field(default=None, metadata=BY_KIND)
    precision: Precision = Precision.FP32
    device: str = "auto"
    batch_size: int = 16
    rows: int = 16
    stored_topk: int = 128
    block: str | None = None
    gradients: Literal["sequences", "batches", "off"] = "sequences"
    threads: int = 1

    world: ClassVar[World] = World.ROLLOUTS
    sizes: ClassVar[Sizes] = Sizes(n_samples=8, seeds=1, replicates=4)
    RUN_BY: ClassVar[tuple[str, ...]] = ("batch_size", "rows")
    """The fields that do not change what is measured: a run that ran out of memory goes on with smaller ones."""
    LATER: ClassVar[Mapping[str, object]] = {"stored_topk": 128}
    """Fields that older records do not have, with the values that leave everything as it was without them."""

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))
        object.__setattr__(self, "log_probs", LogProbs(self.log_probs))
        for name, least in (("length", 1), ("batch_size", 1), ("rows", 1), ("stored_topk", 1), ("threads", 1)):
            check_count(name, getattr(self, name), least)
        check_positive("temperature", self.temperature)
        self.actor_law  # noqa: B018  # its checks
        if self.target_kl is not None and (self.top_k is not None or self.top_p < 1):
            raise ValueError("target_kl cannot be met with top_k or top_p: an actor that is cut has an infinite KL")

    @property
    def actor_law(self) -> SamplingLaw:
        """The law that the actor samples from, from its logits."""
        return SamplingLaw(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    @property
    def policy_law(self) -> SamplingLaw:
        """The policy's law, from its logits: with the temperature, which frameworks give to both, and no cut."""
        return SamplingLaw(temperature=self.temperature)

    @property
    def family(self) -> str:
        """The difference between actor and policy, as records name it."""
        return self.actor.kind

    @property
    def base_kind(self) -> str:
        """The origin of the policies, as records name it."""
        return self.kind

    @property
    def knob_name(self) -> str:
        """The name of the actor's knob."""
        return self.actor.knob_name

    @property
    def target_divergence(self) -> Divergence:
        """The direction of the actor's target."""
        return self.actor.target_divergence

    @property
    def target_kl(self) -> float | None:
        """The actor's target, nats."""
        return self.actor.target_kl

    def cost(self) -> None:
        """No estimate: a rehearsal with the models themselves tells what they cost."""

    def files(self) -> tuple[Path, ...]:
        """The local files that are named: prompts, GGUF files, and those in folders of checkpoints and data sets."""
        sources = [self.policy]
        if isinstance(self.actor, AnotherCheckpoint | LlamaCppActor) and self.actor.path is not None:
            sources.append(self.actor.path)
        models = [gguf_of(each) for each in sources if is_gguf(each)]
        if isinstance(self.prompts, PromptDataset):
            sources.append(self.prompts.name)
        folders = [folder for each in sources if (folder := Path(each).expanduser()).is_dir()]
        prompts = [self.prompts.path] if isinstance(self.prompts, PromptFile) else []
        return (
            *prompts,
            *models,
            *(path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()),
        )

    def build(self, seed: int) -> RealisedRollouts:
        """The models and prompts that this configuration and `seed` determine.

        Raises:
            ValueError: torch or transformers is not installed; a checkpoint or the prompts cannot be read; the
                tokenizers differ; prompts and new tokens do not fit the context; the device does not exist or its
                memory is too small; or `target_kl` is unattainable.
        """
        require("torch", "transformers", purpose=self.kind)
        device = resolved_device(self.device)
        texts = self.prompts.read()
        if isinstance(self.actor, ServerActor):
            self.actor.ask()
        with torch_threads(self.threads):
            report(Stage.LOADING)
            policy, engine = policy_of(self.policy, precision=self.precision, device=device, threads=self.threads)
            ids = self._encoded(texts, policy)
            other = self._other(policy, device, max(map(len, ids)))
            return self._realised(seed, policy, engine, other, texts, ids)

    def _encoded(self, texts: Sequence[Prompt], policy: Loaded) -> list[Ints]:
        if policy.tokenizer is None:
            raise ValueError(f"{self.policy}: there is no tokenizer beside the model, and prompts are text: save one")
        ids = encoded(texts, policy.tokenizer, chat=self.chat)
        check_model(policy.model, self.policy, positions=max(map(len, ids)) + self.length)
        if self.block is not None:
            block_of(policy.model, [self.block])  # refuses a pattern of nothing before anything is written
        return ids

    def _other(self, policy: Loaded, device: str, longest: int) -> Model | None:
        """The actor's own model, if it has one."""
        if not isinstance(self.actor, AnotherCheckpoint):
            return None
        other = load(self.actor.path, precision=self.actor.precision or self.precision, device=device)
        check_model(other.model, self.actor.path, positions=longest + self.length)
        check_same_vocabulary(policy.model, other.model, policy.tokenizer, other.tokenizer)
        return other.model

    def _realised(
        self,
        seed: int,
        policy: Loaded,
        engine: SharingEngine,
        other: Model | None,
        texts: Sequence[Prompt],
        ids: list[Ints],
    ) -> RealisedRollouts:
        generator = partial(keyed_generator, seed, self.kind)
        vocab = int(policy.model.config.get_text_config().vocab_size)
        reward = self._reward(texts, policy.tokenizer, vocab, generator)
        setup = Setup(
            prompts=ids,
            length=self.length,
            end_tokens=frozenset(end_tokens(policy.model, policy.tokenizer)),
            policy_law=self.policy_law,
            actor_law=self.actor_law,
            log_probs=self.log_probs,
            batch_size=self.batch_size,
            rows=self.rows,
            stored_topk=self.stored_topk,
        )

        def ascent(learning_rate: float, batch: int) -> RolloutAscent:
            return RolloutAscent(policy.model, setup, reward, learning_rate, batch, generator("ascent"))

        positions = max(map(len, ids)) + self.length
        setting = Setting(
            policy.model,
            generator,
            other=other,
            positions=positions,
            ascent=ascent,
            temperature=self.temperature,
            name=self.policy,
            tokenizer=policy.tokenizer,
        )
        pairs = self.actor.actors(setting)

        def actors(knob: float) -> tuple[CausalLM, Engine]:
            policy, actor = pairs(knob)
            # No mixture of two models: mixtures are of tiny ones.
            return policy, shared(actor) if isinstance(actor, CausalLM) else cast("Engine", actor)

        @cache
        def shared(scorer: CausalLM) -> SharingEngine:
            return engine if engine.would_read(scorer) else SharingEngine(scorer)

        def setup_at(knob: float) -> Setup:
            return replace(setup, actor_law=self.actor.sampling(self.actor_law, knob))

        uniforms = generator("kl").random((len(ids) * POLICY_ROLLOUTS, self.length))
        prompt = np.repeat(np.arange(len(ids)), POLICY_ROLLOUTS)

        @cache  # most actors leave the policy as it is
        def written_by(policy: CausalLM) -> Written:
            return setup.fitting(lambda setup: setup.write(shared(policy), "policy", prompt, uniforms))

        @cache
        def kl_at(knob: float) -> tuple[float, float]:
            policy, actor = actors(knob)
            if not isinstance(actor, LawEngine):
                raise ValueError("target_kl needs the actor's whole laws, which this one does not show: give its knob")
            return setup_at(knob).fitting(lambda setup: setup.kl(shared(policy), actor, written_by(policy)))

        def solved(target_kl: float) -> float:
            label = f"{self.target_divergence} of {self.actor.kind}"
            target = Target(label, target_kl, lambda knob: kl_at(knob)[0], TARGET_TOLERANCE)
            with enclosing(Stage.SOLVING):
                return self.actor.solve(target, setting)

        knob = self.actor.resolved(solved)
        reference, actor = actors(knob)

        @cache
        def mean_rewards() -> Floats:
            own = written_by(reference)
            return mean_of_each(reward(prompt, own.tokens, own.mask).reshape(len(ids), -1))

        return RealisedRollouts(
            setup=setup_at(knob),
            vocab=vocab,
            knob=float(knob),
            target_kl=self.target_kl,
            divergence=partial(kl_at, knob),
            policy_engine=shared(reference),
            actor=actor,
            reward=reward,
            mean_rewards=mean_rewards,
            block=self.block,
        )

    def _reward(
        self, texts: Sequence[Prompt], tokenizer: Tokenizer, vocab: int, generator: Callable[..., np.random.Generator]
    ) -> RewardAfter:
        """The reward of completions: the one configured, or the default for these prompts."""
        answers = [text.answer for text in texts if text.answer is not None]
        chosen = self.reward or (AnswerReward() if len(answers) == len(texts) else DistinctShareReward())
        if not isinstance(chosen, AnswerReward):
            return lambda prompt, tokens, mask: chosen.of(tokens, mask, vocab, generator("reward"))
        if len(answers) < len(texts):
            raise ValueError(
                f"reward answer needs an answer with every prompt: {len(answers)} of {len(texts)} have one"
            )

        if blank := sum(not answer.strip() for answer in answers):
            raise ValueError(f"reward answer: {blank} of {len(texts)} answers are blank, and any completion has that")

        def of(prompt: Ints, tokens: Ints, mask: Flags) -> Floats:
            rows = [row[live] for row, live in zip(tokens, mask, strict=True)]
            completions = tokenizer.batch_decode(rows, skip_special_tokens=True)
            return chosen.of_texts(completions, [answers[each] for each in prompt])

        return of


def mean_of_each(rewards: Floats) -> Floats:
    """The mean of each row of rewards (prompts, n), (prompts,): exactly their value where all of a row are equal.

    So rounding alone makes no advantage.
    """
    check_reals(rewards, "rewards", "prompts", "n")
    least = rewards.min(axis=-1)
    return np.asarray(least + np.mean(rewards - least[:, None], axis=-1))
