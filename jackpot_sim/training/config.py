"""The configuration of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from jackpot_sim.environments.language_models.build import TinyQwen3
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.estimators.corrections import presets
from jackpot_sim.estimators.corrections.presets import Preset
from jackpot_sim.studies.estimator_spec import EstimatorSpec, Frozen
from jackpot_sim.training.actors import Actor, OnPolicy, Served, SmallActor
from jackpot_sim.training.loop.closed_loop import Budget
from jackpot_sim.training.models.adapters import Lora
from jackpot_sim.training.objective import Aggregation, Divisor, Overlap, Standardisation
from jackpot_sim.training.tasks import AnyTask
from jackpot_sim.training.tasks.addition import Addition

Count: TypeAlias = Annotated[int, Field(ge=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MixedPrecision(StrEnum):
    """The part of a pass that is computed in 16 bits, beside weights of 32."""

    AUTOCAST = "autocast"
    """Products of matrices, as `torch.autocast` chooses; sums and norms are in fp32."""
    PARAM_DTYPE = "param_dtype"
    """All of it: a pass uses a copy of the weights in 16 bits, as FSDP's mixed precision does; gradients are added up,
    and applied, in fp32."""


class Taught(Frozen):
    """A policy with random weights, supervised on right solutions until a share of its completions is right."""

    kind: Literal["taught"] = "taught"
    model: TinyQwen3 = TinyQwen3(hidden=96, layers=3, heads=3, kv_heads=3, initial_scale=5.0)
    """The size of the model."""
    accuracy: Annotated[float, Field(gt=0, le=1)] = 0.3
    """The share of right completions, sampled at temperature 1, at which teaching stops."""
    learning_rate: Positive = 2e-3
    """AdamW's learning rate while teaching."""
    most_steps: Count = 20_000
    """Steps after which teaching fails if the accuracy is not reached."""


class Given(Frozen):
    """A policy from a checkpoint: a folder, a GGUF file, a name such as smollm2, or one on the Hugging Face hub."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """The folder, the file, or the name of a model that a package carries or of one on the hub."""
    lora: Lora | None = None
    """Adapters of low rank, which alone are trained and kept in checkpoints; None: all weights are trained."""


class Sampling(Frozen):
    """The batch of rollouts of every step."""

    prompts: Count = 32
    """Prompts in a batch; a task with fewer repeats some of them."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Rollouts of each prompt: the size of GRPO's groups."""
    length: Count | None = None
    """The most new tokens; None: as many as the task's longest solution needs."""
    temperature: Positive = 1.0
    """The temperature of actor and policy: both laws are those of logits / temperature."""
    top_k: Count | None = None
    """The number of likeliest tokens from which the actor samples; None: all. Not `topk`, the number stored."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The mass of the nucleus from which the actor samples."""
    log_probs: Literal["processed", "support"] = "processed"
    """The trainer's view of a sampler that cuts: `processed`, the whole policy against what the actor sampled from.

    Then r = S·(p/S)/q at every token, S the policy's mass on the tokens kept. An actor that cuts the policy itself
    has r = S, and exact KLs of whole laws are inf. With `support` these tokens are recorded, and p_ref, p_new and a
    trained actor are renormalised on them, in ratios, losses, distillation and KLs. Gradients are then those of the
    renormalised law: training goes after the reward of the policy as it was cut, a biased target for the whole policy,
    which is the one that is tested.
    """
    topk: Annotated[int, Field(ge=0)] = 20
    """The number of the actor's likeliest tokens that are stored at every state: for the overlap Z, and to centre.

    A server gives at most its own topk.
    """
    batch_size: Count = 256
    """Sequences that are written at a time; the results do not depend on it."""


class Update(Frozen):
    """The updates of the policy that are made from a batch of rollouts."""

    minibatches: Count = 4
    """Updates per batch and epoch, each from whole groups: the staleness that Table 3 of the paper counts."""
    epochs: Count = 1
    """Passes over the batch."""
    learning_rate: Positive = 3e-4
    """AdamW's learning rate; its betas are 0.9 and 0.999, and it has no weight decay."""
    clip: Positive | None = 0.2
    """PPO's ε below 1, and above it unless `clip_high` is given; None: no clipping."""
    clip_high: Positive | None = None
    """PPO's ε above 1."""
    max_grad_norm: Positive | None = 1.0
    """The norm to which larger gradients are scaled down; None scales none."""
    standardisation: Standardisation = Standardisation.GROUP
    """The divisor of the advantages."""
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    """The way from tokens to the loss."""
    denominator: Divisor = Divisor.PROPOSED
    """The divisor of the weighted sum: proposed (all tokens), accepted (those kept), kept_sequences (the sequences of
    which a token is kept) or batch_normalized (mean weight)."""
    bypass: bool = False
    """Bypass mode: the rollout's log-probs in the place of p_ref's. PPO's ratio is p_new/q, and a correction may only
    mask; without a clip the correction, at p_new/q, is all that multiplies the advantage."""
    batch_size: Count | None = None
    """Sequences that go through the model at once; None: a whole minibatch. Estimates of Z are calibrated on these."""

    @field_validator("denominator", mode="before")
    @classmethod
    def _not_of_each_prompt(cls, value: object) -> object:
        if value == "self_normalized":
            raise ValueError(
                "self_normalized divides each prompt's update by its own weights, which training does not do: "
                "give batch_normalized, which divides by the mean weight of the minibatch"
            )
        return value

    @model_validator(mode="after")
    def _clipped_twice(self) -> Update:
        if self.clip is None and self.clip_high is not None:
            raise ValueError("clip_high is given without clip: give both, or neither")
        if self.aggregation is Aggregation.KEPT_MEAN and self.denominator is Divisor.ACCEPTED:
            raise ValueError(
                "aggregation kept-mean divides by the tokens kept, and so does denominator accepted: give proposed or "
                "kept_sequences"
            )
        return self


def settings_of(preset: Preset) -> dict[str, object]:
    """The fields of `Update` that a preset sets."""
    own: dict[str, object] = {"denominator": Divisor.of(preset.denominator).value}
    if preset.aggregation is not None:
        own["aggregation"] = preset.aggregation
    return own | ({"bypass": True, "clip": None} if preset.bypass else {})


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower()


class Evaluation(Frozen):
    """The tests of the policy, on problems that training never sees."""

    every: Count = 5
    """Steps between tests; the first test is before any step, the last after all."""
    problems: Count = 128
    """The most held-out problems of a test, the same in every test of every run; a task may hold out fewer."""
    samples: Annotated[int, Field(ge=0)] = 4
    """k of Mean@k and Pass@k; 0: greedy accuracy alone."""


class Training(Frozen):
    """One run: a task, a policy, an actor, a correction, and the settings of training."""

    task: Annotated[AnyTask, Field(discriminator="kind")] = Addition()
    """The task that the policy learns."""
    policy: Annotated[Taught | Given, Field(discriminator="kind")] = Taught()
    """The model that is trained."""
    actor: Actor = OnPolicy()
    """The model that writes the rollouts."""
    correction: EstimatorSpec = EstimatorSpec(kind="none")
    """The correction that makes the factor m·w of the policy's loss."""
    overlap: Overlap = Overlap.CALIBRATED
    """The way to the overlap Z of every state, for corrections that weigh by it: calibrated, topk, kappa or exact.

    exact stores the actor's whole law, 8 bytes for each token of the vocabulary at every token of the rollouts.
    """
    budget: Budget | None = None
    """A share of rejected tokens that sets the correction's λ; None: the λ is given."""
    steps: Count = 300
    """Batches of rollouts."""
    rollout: Sampling = Sampling()
    """The batch of rollouts of each step."""
    update: Update = Update()
    """The updates from each batch."""
    evaluation: Evaluation = Evaluation()
    """The tests on held-out problems."""
    precision: Precision = Precision.FP32
    """The precision in which models compute: fp64, fp32, bf16, or fp16 with a dynamic scale of the loss (GradScaler).

    With bf16 and fp16 weights and AdamW's small steps stay in fp32.
    """
    mixed_precision: MixedPrecision = MixedPrecision.AUTOCAST
    """The part of a pass that bf16 and fp16 round."""
    device: str = "cpu"
    """The device: cpu, cuda or auto."""
    checkpoint_every: Count | None = 50
    """Steps between checkpoints; None: the clock alone decides."""
    checkpoint_minutes: Positive = 10.0
    """Minutes after which a step is followed by a checkpoint, whatever its number."""
    stop_after_collapse: Count | None = None
    """The number of steps for which the accuracy stays collapsed before a run stops; None never stops early."""

    @property
    def weights(self) -> Precision:
        """The precision of the weights and of what AdamW remembers."""
        return Precision.FP32 if self.is_half else self.precision

    @property
    def is_half(self) -> bool:
        """True where models compute in 16 bits, beside weights of 32."""
        return self.precision in (Precision.BF16, Precision.FP16)

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, value: object) -> object:
        """The update's settings that a preset brings with it; other ones beside it are refused."""
        if not isinstance(value, Mapping):
            return value
        correction, update = value.get("correction"), value.get("update") or {}
        kind = correction.get("kind") if isinstance(correction, Mapping) else correction
        preset = presets.named(kind) if isinstance(kind, str) else None
        if preset is None or not isinstance(update, Mapping):
            return value
        own = settings_of(preset)
        for name, wanted in own.items():
            if name in update and str(update[name]).lower() != str(wanted).lower():
                raise ValueError(
                    f"{preset.name} has update.{name} {_shown(wanted)}, and {_shown(update[name])} is given: leave it "
                    f"out, or give the correction by its parts, {preset.becomes}"
                )
        return {**value, "update": {**update, **own}}

    @model_validator(mode="after")
    def _bypassing(self) -> Training:
        if self.update.bypass and self.correction.target is not UpdateTarget.REFERENCE:
            raise ValueError("update.bypass leads corrections to p_new by itself: give no correction.target")
        if self.update.bypass and self.correction.centred:
            raise ValueError(f"{self.correction.label} has no form for update.bypass: leave out one of the two")
        if self.update.bypass and self.update.clip is not None and self.correction.correction().weighs:
            raise ValueError(
                f"with update.bypass PPO's ratio is p_new/q, which {self.correction.label} would weigh a second time: "
                "give update.clip null, or a correction that only masks"
            )
        return self

    @model_validator(mode="after")
    def _fitting(self) -> Training:
        if self.mixed_precision is MixedPrecision.PARAM_DTYPE:
            if not self.is_half:
                raise ValueError(f"mixed_precision param_dtype rounds to 16 bits, and precision is {self.precision}")
            if isinstance(self.actor, Served):
                raise ValueError("a served actor rounds its own weights: give mixed_precision autocast")
        if self.rollout.length is not None and self.task.characters and self.rollout.length < self.task.max_new_tokens:
            raise ValueError(
                f"rollout.length is {self.rollout.length}, and solutions of {self.task.kind} take up to "
                f"{self.task.max_new_tokens} tokens with their end: give that many, or none"
            )
        if self.rollout.prompts < self.update.minibatches:
            raise ValueError(
                f"update.minibatches is {self.update.minibatches}, and a batch has {self.rollout.prompts} prompts, "
                "whose rollouts stay together: give fewer minibatches, or more rollout.prompts"
            )
        if isinstance(self.policy, Taught) and self.task.characters is None:
            raise ValueError(
                f"a policy cannot be taught the task {self.task.kind}, which has no alphabet of its own: give "
                "policy.kind checkpoint and policy.path, a folder with a tokenizer"
            )
        own = self.actor.model if isinstance(self.actor, SmallActor) else None
        if isinstance(self.policy, Given) and isinstance(own, TinyQwen3):
            raise ValueError("the policy is a checkpoint, and the actor is not: give actor.model as a checkpoint too")
        correction = self.correction.correction()
        if self.correction.acceptance_rate is not None:
            raise ValueError("correction.acceptance_rate needs whole laws: give budget.rejected, a share of the batch")
        if self.budget is not None and "lam" not in correction.parameters():
            raise ValueError(f"{self.correction.label} has no lam that a budget could set: give obrs or jackpot")
        if self.budget is not None and "lam" in self.correction.parameters:
            raise ValueError("give budget or the correction's lam, not both")
        if correction.overlap_lam is None and self.overlap is not Overlap.CALIBRATED:
            raise ValueError(f"{self.correction.label} looks at no overlap: leave overlap out, or give jackpot")
        tells = self.overlap is Overlap.EXACT or self.rollout.topk >= 1
        if correction.overlap_lam is not None and not tells:
            raise ValueError(f"{self.correction.label} needs the overlap: give rollout.topk of at least 1")
        if correction.subtracts_mean and not tells:
            raise ValueError(f"{self.correction.label} needs the actor's law: give rollout.topk of at least 1")
        if correction.looks_at_batch and self.update.batch_size is not None:
            raise ValueError(f"{self.correction.label} looks at the whole minibatch: give no update.batch_size")
        return self


LATER = {name: Training.model_fields[name].default for name in ("mixed_precision", "overlap")}
"""The fields that are part of a study's hash only where they are not at these defaults."""
