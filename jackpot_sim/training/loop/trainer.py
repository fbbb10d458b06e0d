"""The training loop: a batch of rollouts by the actor, updates of the policy, and of the actor where it learns.

No random state is kept: the draws of a step are keyed by the seed and the step. So methods see the same prompts and
draws, and a run that goes on from a checkpoint does what it would have done without the break.

An update with a zero gradient is made too: where all rewards of a batch are equal, AdamW's momentum still moves the
weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np

from jackpot_sim.core.topk import TopK
from jackpot_sim.environments.language_models.build import Model
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.language_models.together import writes_together
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.estimators import Correction
from jackpot_sim.training import objective
from jackpot_sim.training.actors import JointActor, Served
from jackpot_sim.training.config import Given, MixedPrecision, Training
from jackpot_sim.training.errors import DivergedError, LawError
from jackpot_sim.training.loop.closed_loop import lam_at
from jackpot_sim.training.loop.evaluation import Scores, evaluated, held_out
from jackpot_sim.training.loop.measures import Means, kl_to_actor, mismatch
from jackpot_sim.training.loop.packing import packs
from jackpot_sim.training.loop.passes import PaddedSequences, computing_in, model_pass, rounded_weights
from jackpot_sim.training.loop.reference import reference, samples_from_p_ref, sampling_law
from jackpot_sim.training.loop.rewards import RewardOf, checked_rewards
from jackpot_sim.training.models.adapters import Weights, restore, trained_weights
from jackpot_sim.training.models.serving import Server, ServerState
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.objective import ModelPass, Overlap, Proposed
from jackpot_sim.training.tasks.base import Problem

if TYPE_CHECKING:
    from torch import Tensor
    from torch.amp import GradScaler
    from torch.optim import Optimizer

Row: TypeAlias = dict[str, float]
"""The figures that are recorded of one step, by column."""


class TrainerState(TypedDict):
    """The state on which the next step depends, as tensors and numbers."""

    step: int
    policy: Weights
    optimizer: dict[str, Any]
    actor: Weights | None
    actor_optimizer: dict[str, Any] | None
    server: ServerState
    scaler: dict[str, Any] | None
    """The scale of the loss, None where it is not scaled."""
    strengths: list[float]
    """The weight of the distillation and the rejected share, nan where there is none."""


class Trainer:
    """Policy, actor and optimisers after some number of steps.

    Attributes:
        seconds: the wall-clock seconds of the parts of the last step, by column of the records.
    """

    def __init__(
        self,
        config: Training,
        texts: Texts,
        policy: Model,
        actor: Model | None,
        seed: int,
        reward: RewardOf | None = None,
    ) -> None:
        """Takes the models over, and changes them.

        Args:
            config: the settings of the run.
            texts: the task in the policy's tokens.
            policy: the model that is trained, in eval mode.
            actor: the model of a frozen or joint actor, else None.
            seed: the seed of all draws.
            reward: a reward function in place of the task's own.
        """
        self.config, self.texts, self.seed, self.step = config, texts, seed, 0
        self.seconds: Row = {}
        self.policy, name = policy, config.policy.path if isinstance(config.policy, Given) else ""
        self._server = Server(config.actor, policy, actor, seed, name=name, tokenizer=texts.tokenizer)
        self._reward = texts.task.rewards if reward is None else reward
        self._optimizer = self._adamw(policy, config.update.learning_rate)
        self._scaler = _scaler(policy.device.type) if config.precision is Precision.FP16 else None
        self._joint = config.actor if isinstance(config.actor, JointActor) else None
        self._actor_optimizer = None
        self.distillation_weight = self.rejected = math.nan
        if self._joint is not None:
            assert actor is not None
            self._actor_optimizer = self._adamw(actor, self._joint.learning_rate)
            self.distillation_weight = self._joint.distillation.weight if self._joint.distillation else 0.0
        if config.budget is not None:
            self.rejected = config.budget.rejected
        trained = [policy] if self._joint is None else [policy, self._own]
        own = policy if self._own is None else self._own  # a stale actor is the policy as it was
        self._together = not isinstance(config.actor, Served) and writes_together(own)
        self._samples = config.rollout.samples if all(packs(model) for model in trained) else 1

    @staticmethod
    def _adamw(model: Model, learning_rate: float) -> Optimizer:
        import torch

        trained = [weight for weight in model.parameters() if weight.requires_grad]
        return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)

    def state(self) -> TrainerState:
        """The state after this step; its tensors are those in use, no copies."""
        return {
            "step": self.step,
            "policy": trained_weights(self.policy),
            "optimizer": self._optimizer.state_dict(),
            "actor": None if self._joint is None else self._own.state_dict(),
            "actor_optimizer": None if self._actor_optimizer is None else self._actor_optimizer.state_dict(),
            "server": self._server.state(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "strengths": [self.distillation_weight, self.rejected],
        }

    def restore(self, state: TrainerState) -> None:
        """Goes back, or on, to the step at which `state` was taken; its tensors are taken over, and change later."""
        self.step = state["step"]
        restore(self.policy, state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._actor_optimizer is not None:
            assert state["actor_optimizer"] is not None
            self._own.load_state_dict(state["actor"])
            self._actor_optimizer.load_state_dict(state["actor_optimizer"])
        if self._scaler is not None:
            assert state["scaler"] is not None
            self._scaler.load_state_dict(state["scaler"])
        self._server.restore(state["server"])
        self.distillation_weight, self.rejected = state["strengths"]

    def check_weights(self) -> None:
        """Refuses weights that are not finite.

        Raises:
            DivergedError: a weight is NaN or inf.
        """
        import torch

        for model in (self.policy, self._own):
            if model is not None and not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
                raise DivergedError(self.step, "a weight is NaN or inf")

    def evaluate(self) -> Scores:
        """The policy's scores on held-out problems.

        Raises:
            DivergedError: the policy gives NaN or inf.
        """
        samples, temperature = self.config.evaluation.samples, self.config.rollout.temperature
        try:
            with self._computing(self.policy):
                return evaluated(self.policy, self.texts, self._held_out, samples, temperature, self.seed)
        except LawError as error:
            raise DivergedError(self.step, str(error)) from error

    def advance(self) -> Row:
        """One batch of rollouts and its updates.

        Raises:
            RewardError: a reward cannot be computed, or is not finite.
            DivergedError: a law, a loss or a gradient is not finite; the weights are those before that update.
            StudyError: a prompt does not fit into the model.
            ValueError: the task has no problems, or no λ meets the budget.
        """
        began = time.perf_counter()
        first, *others = self._minibatches()
        sequences, proposed, new, row = self._rolled_out(first)
        rolled_out = time.perf_counter()
        row |= mismatch(proposed, self.vocab)
        correction, row["lam"] = self._correction(proposed)
        means = Means()
        self._updated(sequences.take(first, whole_groups=True), proposed.take(first), correction, means, new)
        del new  # with its graph, which an update needs room for
        for rows in others:
            self._updated(sequences.take(rows, whole_groups=True), proposed.take(rows), correction, means)
        row |= means.means()
        row |= {"distillation_weight": self.distillation_weight, "rejected_budget": self.rejected}
        self._adapt(row["kl_policy_actor"])
        self.seconds = {"seconds_rollouts": rolled_out - began, "seconds_update": time.perf_counter() - rolled_out}
        self.step += 1
        return row

    def _rolled_out(self, first: Tensor) -> tuple[PaddedSequences, Proposed, ModelPass | None, Row]:
        """A batch of rollouts with advantages and p_ref, the pass for the rows of the first update, and its figures."""
        import torch

        config = self.config.rollout
        problems = self.texts.task.problems(self._generator("problems"), config.prompts)
        try:
            with computing_in(self.config.precision, self.policy):
                actor = self._server.actor()
            with self._computing(*self._server.models):
                prompts, written = self.texts.written(
                    actor,
                    problems,
                    config.samples,
                    self._generator("rollouts"),
                    sampling=sampling_law(config),
                    topk=self.vocab if self.config.overlap is Overlap.EXACT else config.topk,
                    support=config.log_probs == "support",
                    together=self._together,
                )
        except LawError as error:
            raise DivergedError(self.step, str(error)) from error
        repeated = [problem for problem in problems for _ in range(config.samples)]
        rewards = checked_rewards(self._reward, self.texts.completions(written), repeated, self.step)
        device = self.policy.device
        sequences = PaddedSequences.of(
            prompts, written.prompt, written.tokens, written.mask, device, self._samples, written.kept
        )
        length = sequences.mask.shape[1]
        uniforms = self._generator("masks").random(written.mask.shape)[:, :length]
        topk = None
        if written.topk is not None:
            parts = (written.topk.ids[:, :length], written.topk.log_probs[:, :length])
            topk = TopK(*(torch.as_tensor(part, device=device) for part in parts))
        actor_log_probs = torch.as_tensor(written.log_probs[:, :length], device=device)
        before, on_topk, new = self._reference(sequences, actor_log_probs, topk, first)
        proposed = Proposed(
            actor_log_probs=actor_log_probs,
            reference_log_probs=before,
            mask=sequences.mask,
            advantage=objective.advantages(
                torch.as_tensor(rewards, device=device), config.samples, self.config.update.standardisation
            ),
            topk=topk,
            reference_on_topk=on_topk,
            uniforms=torch.as_tensor(uniforms, device=device),
            overlap=self.config.overlap,
        )
        groups = rewards.reshape(-1, config.samples)
        row = {
            "reward": float(rewards.mean()),
            "equal_groups": float((groups == groups[:, :1]).all(-1).mean()),
            "tokens": float(written.mask.sum()),
            "length": float(written.mask.sum(-1).mean()),
        }
        return sequences, proposed, new, row

    @cached_property
    def _held_out(self) -> Sequence[Problem]:
        """The problems on which the policy is tested."""
        return held_out(self.texts.task, self.config.evaluation.problems)

    @property
    def _own(self) -> Model:
        """The actor's own model; None where the policy, or a copy of it, writes."""
        return self._server.model

    @property
    def vocab(self) -> int:
        """The number of tokens of the policy's head."""
        return int(self.policy.config.get_text_config().vocab_size)

    def _reference(
        self, sequences: PaddedSequences, written: Tensor, topk: TopK | None, first: Tensor
    ) -> tuple[Tensor, Tensor | None, ModelPass | None]:
        """log p_ref before the update, see `reference.reference`; its arguments are those."""
        import torch

        batch_size = self.config.update.batch_size
        return reference(
            partial(self._pass, self.policy),
            sequences,
            written,
            topk,
            first,
            dtype=torch.promote_types(self.policy.dtype, torch.float32),
            at_once=batch_size is None or batch_size >= len(first),
            batch_size=self.config.rollout.batch_size,
            told=samples_from_p_ref(self.config),
        )

    def _computing(self, *models: Model) -> AbstractContextManager[object]:
        """A context in which models compute in the precision of the run."""
        if self.config.mixed_precision is MixedPrecision.PARAM_DTYPE:
            return rounded_weights(self.config.precision, *models)
        return computing_in(self.config.precision, self.policy)

    def _pass(self, model: Model, sequences: PaddedSequences) -> ModelPass:
        with self._computing(model):
            result = model_pass(model, sequences, self.config.rollout.temperature)
        if bool(result.log_probs.detach()[sequences.mask].isnan().any()):
            raise DivergedError(self.step, "a log-prob is NaN")
        return result

    def _correction(self, proposed: Proposed) -> tuple[Correction, float]:
        """The correction of this batch, and its λ; nan for a correction without λ."""
        spec = self.config.correction
        if self.config.budget is not None:
            log_ratio = proposed.reference_log_probs - proposed.actor_log_probs
            lam = lam_at(self.rejected, log_ratio, proposed.mask)
            return spec.model_copy(update={"parameters": {**spec.parameters, "lam": lam}}).correction(), lam
        correction = spec.correction()
        return correction, float(correction.parameters().get("lam", math.nan))

    def _minibatches(self) -> Iterator[Tensor]:
        """The rows of each update: whole groups, in a new order every epoch, in parts of nearly equal size."""
        import torch

        prompts, samples = self.config.rollout.prompts, self.config.rollout.samples
        for epoch in range(self.config.update.epochs):
            order = self._generator("order", epoch).permutation(prompts)
            for groups in np.array_split(order, self.config.update.minibatches):
                rows = (groups[:, None] * samples + np.arange(samples)).ravel()
                yield torch.as_tensor(rows, device=self.policy.device)

    def _updated(
        self,
        sequences: PaddedSequences,
        proposed: Proposed,
        correction: Correction,
        means: Means,
        read: ModelPass | None = None,
    ) -> None:
        """One update of the policy, and of an actor that learns; `read` is the policy's pass, if it was made before."""
        import torch

        update, target = self.config.update, self.config.correction.target
        shares = objective.token_shares(proposed.mask, update.aggregation)
        loss_sum = 0.0
        weights: list[tuple[Tensor, Tensor]] = []
        actor_losses: list[tuple[float, float]] = []
        self._optimizer.zero_grad()
        if self._actor_optimizer is not None:
            self._actor_optimizer.zero_grad()
        for rows, part in sequences.parts(update.batch_size or len(sequences)):
            given, new = proposed.take(rows), self._pass(self.policy, part) if read is None else read
            policy = objective.policy_loss(correction, target, given, new, update, shares[rows])
            torch.autograd.backward(self._scaled(policy.loss))
            loss_sum += float(policy.loss.detach())
            weights.append((policy.accepted, policy.factor))
            if self._joint is not None:
                actor_losses.append(self._actor_backward(self._joint, part, given, new, shares[rows]))
            on_topk = None if given.topk is None else new.on(given.topk)
            kl = kl_to_actor(given, new.log_probs.detach(), on_topk, self.vocab)
            means.tokens(policy, kl, given.mask, given.advantage)
        accepted, factor = (torch.cat(each) for each in zip(*weights, strict=True))
        divisor = objective.divisor(update.denominator, accepted, factor, proposed.mask, correction.unit)
        norm = self._norm(self._optimizer, loss_sum, 1 / divisor)
        means.update(loss=loss_sum / divisor)
        self._skips(means, "grad_norm", norm)
        if self._actor_optimizer is not None:
            total, kl = (sum(each) for each in zip(*actor_losses, strict=True))
            means.update(actor_loss=total, distillation_kl=kl)
            self._skips(means, "actor_grad_norm", self._norm(self._actor_optimizer, total, 1.0))
        for optimizer in (self._actor_optimizer, self._optimizer):
            if optimizer is None:
                continue
            if self._scaler is None:
                optimizer.step()
            else:
                self._scaler.step(optimizer)
        if self._scaler is not None:
            self._scaler.update()

    def _skips(self, means: Means, name: str, norm: float) -> None:
        """Adds the norm of a gradient to the figures; with a scaled loss also whether it overflows, and is skipped."""
        overflows = not math.isfinite(norm)
        if not overflows:
            means.update(**{name: norm})
        if self._scaler is not None:
            means.update(skipped_updates=float(overflows), loss_scale=self._scaler.get_scale())

    def _actor_backward(
        self, joint: JointActor, sequences: PaddedSequences, given: Proposed, new: ModelPass, shares: Tensor
    ) -> tuple[float, float]:
        """Gradients of a jointly trained actor over some sequences; its loss and the KL of its distillation."""
        import torch

        loss, kl = objective.actor_loss(
            given,
            new,
            self._pass(self._own, sequences),
            self.config.update,
            shares,
            ppo=joint.ppo,
            direction=joint.distillation.direction if joint.distillation is not None else None,
            weight=self.distillation_weight,
        )
        torch.autograd.backward(self._scaled(loss))
        return float(loss.detach()), float(kl.detach())

    def _scaled(self, loss: Tensor) -> Tensor:
        """The loss times its scale; itself where it is not scaled."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def _norm(self, optimizer: Optimizer, loss: float, scale: float) -> float:
        """Scales the gradients of what an optimiser trains and clips them; the norm between the two.

        Raises:
            DivergedError: the loss or the norm is not finite; where gradients overflow under a scale of the loss above
                1, the norm is inf or nan, and the scaler skips the update.
        """
        import torch

        skipped = False
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
            # Not told by the norm: what `scale` makes infinite would not be skipped.
            found = self._scaler._found_inf_per_device(optimizer)
            skipped = self._scaler.get_scale() > 1 and any(bool(each) for each in found.values())
        weights = optimizer.param_groups[0]["params"]
        if scale != 1.0:
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], scale)
        limit = self.config.update.max_grad_norm
        norm = float(torch.nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit))
        if not (math.isfinite(loss) and (math.isfinite(norm) or skipped)):
            raise DivergedError(self.step, f"loss {loss:g}, gradient norm {norm:g}")
        return norm

    def _adapt(self, kl: float) -> None:
        """Sets the strengths of the next step."""
        if self._joint is not None and self._joint.distillation is not None:
            feedback = self._joint.distillation.feedback
            if feedback is not None:
                self.distillation_weight = feedback.next(self.distillation_weight, kl)
        budget = self.config.budget
        if budget is not None and budget.feedback is not None:
            self.rejected = budget.feedback.next(self.rejected, kl)

    def _generator(self, *key: str | int) -> np.random.Generator:
        return keyed_generator(self.seed, "training", self.step, *key)


def _scaler(device: str) -> GradScaler:
    """The dynamic scale of the loss: halved where gradients overflow, doubled after 2000 updates without.

    Raises:
        ValueError: torch has none for the device.
    """
    import torch

    scaler = torch.amp.GradScaler(device)
    if not scaler.is_enabled():
        raise ValueError(f"precision fp16 needs torch's GradScaler, which {device} has not: give bf16 or fp32")
    return scaler
