"""The mixin that corrects the rollouts of a GRPOTrainer.

A token's advantage is multiplied by m·w over the divisor, after the pass that scores it and before TRL's loss reads it.
Every loss of TRL is linear in the advantage's size, so that its own term is multiplied and all else, the KL to a
reference model and the denominators included, stays as it is.

p_ref is `old_per_token_logps`, or the pass's own log-probs where TRL needs none since the policy has not moved. No pass
is added, no random state moves, and what belongs to a token goes through TRL's shuffles and splits with it.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import Correction, UpdateTarget
from jackpot_sim.integrations.corrected import Settings, correct, metrics, uniforms
from jackpot_sim.integrations.trl import batches, processes
from jackpot_sim.integrations.trl.states import FusedHead, OnTopK
from jackpot_sim.record import Recorder
from jackpot_sim.record.foreign import CausalModel, Passed
from jackpot_sim.record.trl import RecordsRollouts
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.training.objective import Divisor, TokenPass

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)

LOSSES = frozenset({"grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"})
"""TRL's losses, of which each is linear in the size of the advantage."""
NO_LOG_PROBS = (
    "the rollouts came without the log-probs of the engine that wrote them: let TRL generate or set use_vllm, leave "
    "use_transformers_continuous_batching off, and return logprobs from a rollout_func"
)


class CorrectsRollouts(RecordsRollouts):
    """A mixin that stands before GRPOTrainer, or a subclass that keeps its loss, among the bases of a trainer.

    Attributes:
        settings: the correction and its settings.
        linear_loss: True in a trainer of one's own whose `_compute_loss` is linear in advantages (B, T).
    """

    settings: Settings
    linear_loss = False
    _head: FusedHead | None = None
    _batch: dict[str, Any] | None = None
    _passes: list[tuple[Tensor, Tensor]] | None = None

    def __init__(
        self,
        *args: Passed,
        correction: Settings | Correction | EstimatorSpec | Mapping[str, object] | str = "jackpot",
        divisor: Divisor | str | None = None,
        topk: int | None = None,
        seed: int | None = None,
        record: str | Path | None = None,
        **kwargs: Passed,
    ) -> None:
        """Takes what the trainer takes, and a correction.

        Args:
            *args: as the trainer's.
            correction: an object, a name, a preset or a mapping, see `Settings.of`.
            divisor: the divisor beside TRL's own denominator, over the micro-batch of all processes.
            topk: the actor's likeliest tokens that are kept for Ẑ; 0: Ẑ is the micro-batch's mean acceptance.
            seed: the seed of the masks.
            record: a folder that takes the rollouts as `python -m jackpot_sim.diagnose` reads them.
            **kwargs: as the trainer's.

        Raises:
            TypeError: the correction, or `record`, is of another type.
            ValueError: no such correction, or one, or a loss, that TRL's loss has no place for; or `record` cannot be
                written.
        """
        given = {"divisor": divisor, "topk": topk, "seed": seed}
        self.settings = Settings.of(correction, **{name: each for name, each in given.items() if each is not None})
        if self.settings.correction.subtracts_mean:
            name = self.settings.correction.name
            raise ValueError(
                f"{name} subtracts a mean from each token, for which TRL's loss has no place: leave it out"
            )
        self._written = None if record is None else Recorder(record)  # refused before a model is loaded
        super().__init__(*args, **kwargs)
        self._require_its_loss()
        self._switch_off_its_own()
        self.topk = self.settings.topk if self.settings.needs_topk else 0
        if self.topk:
            self._head = FusedHead.of(self._trainer.model)
        self._said: set[str] = set()

    def _require_its_loss(self) -> None:
        """Refuses a trainer whose loss a factor on advantages does not correct."""
        trainer, grpo = self._trainer, importlib.import_module("trl").GRPOTrainer
        if not isinstance(self, grpo):
            raise ValueError(f"{type(self).__name__} is no GRPOTrainer: the correction has no place in another's loss")
        behind = next(
            each for each in type(self).__mro__ if "_compute_loss" in vars(each) and each is not CorrectsRollouts
        )
        if behind is not grpo and not self.linear_loss:
            raise ValueError(
                f"{behind.__name__} has a loss of its own: set linear_loss = True if it is linear in advantages of "
                "shape (B, T), read after the log-probs"
            )
        if trainer.loss_type not in LOSSES and not self.linear_loss:
            raise ValueError(f"loss_type {trainer.loss_type!r} is none of {', '.join(sorted(LOSSES))}")
        if getattr(trainer, "use_transformers_continuous_batching", False):
            raise ValueError(NO_LOG_PROBS)

    def _switch_off_its_own(self) -> None:
        """Leaves one correction at work: TRL's ratio of vLLM's log-probs goes."""
        trainer = self._trainer
        if trainer.use_vllm and trainer.vllm_importance_sampling_correction:
            trainer.vllm_importance_sampling_correction = False
            _LOG.warning(
                "vllm_importance_sampling_correction is switched off, since %s corrects the same mismatch.",
                self.settings.correction.name,
            )

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said and self._trainer.accelerator.is_main_process:
            _LOG.warning(sentence)
        self._said.add(sentence)

    # --- Rollouts -----------------------------------------------------------------------------------------------------

    @override
    def _generate(self, *args: object, **kwargs: object) -> Passed:
        found = super()._generate(*args, **kwargs)
        completions, log_probs = found[1], found[4]
        if log_probs is None:
            raise ValueError(NO_LOG_PROBS)
        for row, (ids, own) in enumerate(zip(completions, log_probs, strict=True)):
            if len(ids) != len(own):
                raise ValueError(f"completion {row} has {len(ids)} tokens and {len(own)} logprobs: return one for each")
        return found

    @override
    def _generate_and_score_completions(self, *args: object, **kwargs: object) -> dict[str, Any]:
        self._passes = []
        try:
            return super()._generate_and_score_completions(*args, **kwargs)
        finally:
            self._passes = None

    @override
    def _finish(self, output: dict[str, Any]) -> None:
        import torch

        actor = output["sampling_per_token_logps"]
        mask = batches.trained(output)
        missing = mask & (actor.isnan() | actor.isneginf())
        if bool(missing.any()):
            self._say_once(
                f"The engine gave no log-prob for {int(missing.sum())} of {int(mask.sum())} tokens: such tokens are "
                "masked, see correction/missing_share."
            )
        output["actor_log_probs"] = actor
        output["correction_uniforms"] = uniforms(actor, mask & ~missing, self.settings.seed, name="logprobs")
        topk = self._actor_topk(actor.shape[1]) if self.topk else None
        if topk is not None:
            output["actor_topk_ids"], output["actor_topk_log_probs"] = topk
        elif self.settings.correction.overlap_lam is not None:
            self._say_once(
                "The engine's likeliest tokens are not known, or not asked for: the overlap of every state is the mean "
                "acceptance probability of its micro-batch."
            )
        old = output.get("old_per_token_logps")
        for log_probs, on_topk in self._passes or ():
            if log_probs is old:
                output["reference_on_topk"] = on_topk
        if self._written is not None and self._trainer.model.training:
            output["recorded_version"] = torch.full((len(actor),), int(self._trainer.state.global_step))
            if (rewards := self._own_rewards(len(actor))) is not None:
                output["recorded_rewards"] = rewards

    # --- Passes -------------------------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self, model: CausalModel, ids: Tensor, attended: Tensor, length: int, *args: Passed, **kwargs: Passed
    ) -> Passed:
        import torch

        batch, score = self._batch, self._above()._get_per_token_logps_and_entropies
        scoring = self._scoring(model, ids[:, -length:], attended[:, -length:])
        if scoring is None:
            found, on_topk = score(model, ids, attended, length, *args, **kwargs), None
        else:
            with scoring.seen(self._trainer.accelerator.unwrap_model(model)):
                found = score(model, ids, attended, length, *args, **kwargs)
            on_topk = scoring.log_probs(found[0].detach())
        if batch is not None:
            with torch.no_grad():
                self._weigh(batch, found[0].detach(), on_topk)
        elif self._passes is not None and on_topk is not None:
            self._passes.append((found[0], on_topk))
        return found

    def _scoring(self, model: CausalModel, tokens: Tensor, attended: Tensor) -> OnTopK | None:
        """The reader of log p on the actor's top-k in a pass that needs it: of p_ref, or p_new where it is the aim."""
        batch, to_new = self._batch, self.settings.target is UpdateTarget.POLICY
        if batch is not None:
            wanted = to_new or "old_per_token_logps" not in batch
            topk, mask = batches.topk_of(batch), batches.trained(batch)
        else:  # before training, by the policy, and not by a reference model
            wanted = self._passes is not None and not to_new and model is self._trainer.model
            pair = self._actor_topk(tokens.shape[1]) if wanted and self.topk else None
            topk, mask = None if pair is None else TopK(*pair), attended.bool()
        if not wanted or topk is None or self._head is None:
            return None
        return OnTopK(self._head, tokens, topk, mask)

    # --- The loss -----------------------------------------------------------------------------------------------------

    def _compute_loss(self, model: CausalModel, inputs: dict[str, Any]) -> Tensor:
        self._batch = dict(inputs)
        try:
            loss: Tensor = self._above()._compute_loss(model, self._batch)
            if self._batch["advantages"] is inputs["advantages"]:
                raise ValueError(f"{type(self).__name__} scores no tokens as GRPOTrainer does: it cannot be corrected")
        finally:
            self._batch = None
        inputs.pop("recorded_version", None)  # later epochs write nothing anew
        return loss

    def _weigh(self, batch: dict[str, Any], new: Tensor, on_topk: Tensor | None) -> None:
        """Multiplies the advantages of a batch by the correction's factor."""
        old = batch.get("old_per_token_logps")
        reference = new if old is None else old
        self._write(batch, reference)
        trained = batches.trained(batch)
        mask = trained & batch["actor_log_probs"].isfinite()
        given = batches.proposed(batch, mask, reference, on_topk if old is None else batch.get("reference_on_topk"))
        found = correct(self.settings, given, TokenPass(new, on_topk))
        found = processes.divided(self._trainer.accelerator, self.settings, found, mask)
        figures = {"missing_share": 1 - float(mask.sum() / trained.sum().clamp(min=1))}
        if bool(mask.any()):
            figures |= metrics(found, given)
        advantages = batch["advantages"]
        batch["advantages"] = (advantages if advantages.ndim == 2 else advantages[:, None]) * found.factor
        self._log_figures(figures)

    def _log_figures(self, figures: Mapping[str, float]) -> None:
        trainer = self._trainer
        logged = trainer._metrics["train" if trainer.model.training else "eval"]
        for name, value in processes.figures_of_all(trainer.accelerator, figures).items():
            logged[f"correction/{name}"].append(value)

    def _write(self, batch: Mapping[str, Any], reference: Tensor) -> None:
        """Records a batch that is seen for the first time."""
        if self._written is None or "recorded_version" not in batch:
            return
        topk = batches.topk_of(batch)
        self._written.write(
            int(self._trainer.state.global_step),
            mask=batches.trained(batch),
            present=batch["completion_mask"],
            tokens=batch["completion_ids"],
            actor_log_probs=batch["actor_log_probs"],
            policy_log_probs=reference,
            advantages=batch["advantages"],
            rewards=batch.get("recorded_rewards"),
            weight_version=batch["recorded_version"],
            actor_topk=None if topk is None else (topk.ids, topk.log_probs),
        )
