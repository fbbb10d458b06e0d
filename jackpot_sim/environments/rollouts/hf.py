"""Any Hugging Face causal language model as the policy, and an actor that differs from it in a known way.

Prompts come from a file; actor and policy each write completions, and both are scored at every token written:
the laws over the whole vocabulary, not the sampled token alone. What follows from them is exact at every state
that was visited; which states are visited is sampled.

Everything runs alike on CPU and CUDA. On a CPU torch keeps to `threads` threads, so that the same configuration
gives the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.environments.fields import BY_KIND, FORBID_EXTRA, check_count, check_positive
from jackpot_sim.environments.knobs import Divergence
from jackpot_sim.environments.language_models.build import check_model, check_same_vocabulary
from jackpot_sim.environments.language_models.checkpoints import Loaded, Precision, load, resolved_device
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import end_tokens
from jackpot_sim.environments.language_models.prompts import (
    Prompt,
    PromptDataset,
    PromptFile,
    encoded,
    left_padded,
)
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.rollouts.answers import AnswerReward
from jackpot_sim.environments.rollouts.ascent import RolloutAscent
from jackpot_sim.environments.rollouts.built import RealisedRollouts, RewardAfter, Setup
from jackpot_sim.environments.sequences.reward import DistinctShareReward, Reward
from jackpot_sim.environments.sources.actor_source import Setting
from jackpot_sim.environments.sources.real_models import AnotherCheckpoint, RealActor, from_name, with_knob
from jackpot_sim.environments.targets import Target
from jackpot_sim.requirements import require

POLICY_ROLLOUTS = 8
"""Completions of each prompt, by the policy, behind the KL that a knob is solved for, and behind the baseline."""
TARGET_TOLERANCE = 1e-2
"""How near a target KL is met, relatively: the standard error of a mean KL over rollouts is seldom smaller."""

LOG = logging.getLogger(__name__)
"""Says at level INFO what a long build is at."""


@dataclass(frozen=True, kw_only=True)
class HuggingFace:
    """An environment of real models; `actor` says how the actor differs from the policy.

    Attributes:
        policy: the policy's checkpoint: a folder as `save_pretrained` leaves it, or a hub id.
        actor: where the actor comes from.
        prompts: where prompts come from.
        chat: whether prompts go through the tokenizer's chat template; None: where it has one.
        length: the most new tokens.
        temperature: of both policies: logits are divided by it before anything else.
        top_k: the actor samples from its so many likeliest tokens; None: from all.
        top_p: the actor samples from its nucleus of this mass.
        log_probs: what the actor says of its tokens: `processed` log-probs, those of the law that it sampled
            from, or `raw` ones, of the model at temperature 1 before any cut, which is a mistake to study. What
            follows from ratios (weights, k1, Z, …) is then what a trainer would see; the KLs between laws and
            what corrections do to them stay those of the law that was sampled from.
        reward: what a completion is worth; None: the prompts' answers where all carry one, else the share of
            different tokens. The advantage is R − b, b being the mean reward after the prompt of rollouts of the
            policy that enter no gradient.
        precision: in which the models are kept and computed.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: sequences that go through a model at once.
        rows: states whose laws over the vocabulary are held at once.
        block: the parameters in whose space gradients are measured, a pattern of their names as a shell has
            them; None: the last vector of parameters, the final norm's gain.
        gradients: from every sequence's own gradient, from those of whole batches, which is faster, or off.
        threads: torch's threads on a CPU.

    Raises:
        ValueError: a number is out of range.
    """

    kind: Literal["hf"] = "hf"
    policy: str
    actor: RealActor = field(metadata=BY_KIND)
    prompts: PromptFile | PromptDataset = field(metadata=BY_KIND)
    chat: bool | None = None
    length: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    log_probs: Literal["processed", "raw"] = "processed"
    reward: Reward | AnswerReward | None = field(default=None, metadata=BY_KIND)
    precision: Precision = Precision.FP32
    device: str = "auto"
    batch_size: int = 16
    rows: int = 16
    block: str | None = None
    gradients: Literal["sequences", "batches", "off"] = "sequences"
    threads: int = 1

    RUN_BY: ClassVar[tuple[str, ...]] = ("batch_size", "rows")
    """How it is run, which is no part of what it is: a run that ran out of memory goes on with smaller ones."""

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))
        for name, least in (("length", 1), ("batch_size", 1), ("rows", 1), ("threads", 1)):
            check_count(name, getattr(self, name), least)
        check_positive("temperature", self.temperature)
        self.actor_law  # noqa: B018  # its checks
        if self.target_kl is not None and (self.top_k is not None or self.top_p < 1):
            raise ValueError("target_kl cannot be met with top_k or top_p: an actor that is cut has an infinite KL")

    @property
    def actor_law(self) -> SamplingLaw:
        """What the actor makes of its logits."""
        return SamplingLaw(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    @property
    def policy_law(self) -> SamplingLaw:
        """What the policy makes of its logits: the temperature, which frameworks give to both, and no cut."""
        return SamplingLaw(temperature=self.temperature)

    @property
    def family(self) -> str:
        """What sets the actor apart, as records name it."""
        return self.actor.kind

    @property
    def base_kind(self) -> str:
        """Where the policies come from, as records name it."""
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

    def files(self) -> tuple[Path, ...]:
        """Every file that this names: prompts, and checkpoints and data sets that are folders; not those of a hub."""
        named = [self.policy, *([self.actor.path] if isinstance(self.actor, AnotherCheckpoint) else [])]
        if isinstance(self.prompts, PromptDataset):
            named.append(self.prompts.name)
        folders = [folder for each in named if (folder := Path(each).expanduser()).is_dir()]
        prompts = [self.prompts.path] if isinstance(self.prompts, PromptFile) else []
        return (*prompts, *(path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()))

    def build(self, seed: int) -> RealisedRollouts:
        """The models and prompts that this configuration and `seed` determine.

        Raises:
            ValueError: torch or transformers is not installed; a checkpoint or the prompts cannot be read; the
                tokenizers differ; prompts and new tokens do not fit the context; the device is not there or
                its memory too small; or `target_kl` is unattainable.
        """
        require("torch", "transformers", purpose=self.kind)
        device = resolved_device(self.device)
        texts = self.prompts.read()
        with torch_threads(self.threads):
            LOG.info("loading %s", self.policy)
            policy = load(self.policy, precision=self.precision, device=device)
            ids = self._encoded(texts, policy)
            other = self._other(policy, device, max(map(len, ids)))
            return self._realised(seed, policy, other, texts, ids)

    def _encoded(self, texts: Sequence[Prompt], policy: Loaded) -> list[Ints]:
        if policy.tokenizer is None:
            raise ValueError(f"{self.policy}: there is no tokenizer beside the model, and prompts are text: save one")
        ids = encoded(texts, policy.tokenizer, chat=self.chat)
        check_model(policy.model, self.policy, positions=max(map(len, ids)) + self.length)
        return ids

    def _other(self, policy: Loaded, device: str, longest: int) -> Any:
        """The actor's own model, where it has one."""
        if not isinstance(self.actor, AnotherCheckpoint):
            return None
        LOG.info("loading %s", self.actor.path)
        other = load(self.actor.path, precision=self.actor.precision or self.precision, device=device)
        check_model(other.model, self.actor.path, positions=longest + self.length)
        check_same_vocabulary(policy.model, other.model, policy.tokenizer, other.tokenizer)
        return other.model

    def _realised(
        self, seed: int, policy: Loaded, other: Any, texts: Sequence[Prompt], ids: list[Ints]
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
            believes_raw=self.log_probs == "raw",
            batch_size=self.batch_size,
            rows=self.rows,
        )

        def ascent(learning_rate: float, batch: int) -> RolloutAscent:
            return RolloutAscent(policy.model, setup, reward, learning_rate, batch, generator("ascent"))

        setting = Setting(
            base=policy.model,
            other=other,
            prompts=left_padded(ids)[0],
            tree=PrefixTree(vocab, self.length),
            reward=lambda tokens, mask: reward(np.zeros(len(tokens), dtype=np.int64), tokens, mask),
            generator=generator,
            ascent=ascent,
        )
        # Both are models here: mixtures are of tiny ones.
        actors = cast("Callable[[Any], tuple[CausalLM, CausalLM]]", self.actor.actors(setting))
        uniforms = generator("kl").random((len(ids) * POLICY_ROLLOUTS, self.length))
        prompt = np.repeat(np.arange(len(ids)), POLICY_ROLLOUTS)

        @cache  # most actors leave the policy as it is
        def written_by(policy: CausalLM) -> Written:
            return setup.fitting(lambda setup: setup.write(policy, "policy", prompt, uniforms))

        @cache
        def kl_at(knob: float) -> tuple[float, float]:
            policy, actor = actors(knob)
            return setup.fitting(lambda setup: setup.kl(policy, actor, written_by(policy)))

        knob = self.actor.knob
        if self.target_kl is not None:
            LOG.info("solving %s for a KL of %g", self.knob_name, self.target_kl)
            label = f"{self.target_divergence} of {self.actor.kind}"
            target = Target(label, self.target_kl, lambda knob: kl_at(knob)[0], TARGET_TOLERANCE)
            knob = self.actor.solve(target, setting, _no_laws)
        reference, actor = actors(knob)
        achieved, error = kl_at(knob)
        own = written_by(reference)
        return RealisedRollouts(
            setup=setup,
            vocab=vocab,
            knob=float(knob),
            target_kl=self.target_kl,
            achieved=achieved,
            achieved_se=error,
            policy=reference,
            actor=actor,
            reward=reward,
            baseline=mean_of_each(reward(prompt, own.tokens, own.mask).reshape(len(ids), -1)),
            block=self.block,
        )

    def _reward(
        self, texts: Sequence[Prompt], tokenizer: Any, vocab: int, generator: Callable[..., np.random.Generator]
    ) -> RewardAfter:
        """(prompts, tokens, mask) → R of shape (n,)."""
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
            rows = [row[there] for row, there in zip(tokens, mask, strict=True)]
            completions = tokenizer.batch_decode(rows, skip_special_tokens=True)
            return chosen.of_texts(completions, [answers[each] for each in prompt])

        return of


def spelt_out(environment: Any) -> Any:
    """An `hf` environment in which a bare actor, prompts file or reward has become the configuration that it means."""
    if not isinstance(environment, Mapping) or environment.get("kind") != "hf":
        return environment
    out = dict(environment)
    if "actor" in out:
        out["actor"] = with_knob(from_name(out["actor"]) if isinstance(out["actor"], str) else out["actor"])
    if out.get("gradients") is False:  # what YAML makes of off
        out["gradients"] = "off"
    if isinstance(out.get("prompts"), str | Path):
        out["prompts"] = {"kind": "file", "path": out["prompts"]}
    if isinstance(out.get("reward"), str):
        out["reward"] = {"kind": out["reward"]}
    for name in ("actor", "prompts"):
        if isinstance(out.get(name), Mapping) and "kind" not in out[name]:
            out[name] = {"kind": "file" if name == "prompts" else "checkpoint", **out[name]}
    return out


def mean_of_each(rewards: Floats) -> Floats:
    """The mean of each row, (prompts,), exactly the one value where all are equal: no advantage out of rounding."""
    least = rewards.min(axis=-1)
    return np.asarray(least + np.mean(rewards - least[:, None], axis=-1))


def _no_laws() -> Floats:
    raise AssertionError("no actor of a real model is solved for from a table of laws")
