"""Rollouts of verl's RayPPOTrainer, recorded when the actor is updated; training goes on as without.

    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from jackpot_sim.record import Recorder
    from jackpot_sim.record.verl import RecordsRollouts

    class RecordingTrainer(RecordsRollouts, RayPPOTrainer):
        recorder = Recorder("rollouts")

verl keeps the actor's log-probs with `actor_rollout_ref.rollout.calculate_log_probs=True`. In bypass mode its old
log-probs are those of the rollout, bit for bit, and nothing of the mismatch is left to record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jackpot_sim.core.arrays import Array
from jackpot_sim.record.foreign import Batch, Passed, Trainer
from jackpot_sim.record.recorder import Recorder


class RecordsRollouts:
    """A mixin that stands before RayPPOTrainer among the bases of a trainer.

    Attributes:
        recorder: the recorder.
    """

    recorder: Recorder
    _response_mask: Any = None

    def _compute_old_log_prob(self, batch: Batch) -> Passed:
        # A rejection takes tokens out of this mask later on, and they are those that a diagnosis must see.
        self._response_mask = batch.batch["response_mask"].clone()
        return self._above()._compute_old_log_prob(batch)

    def _update_actor(self, batch: Batch) -> Passed:
        trainer: Trainer = self
        record(self.recorder, batch, trainer.global_steps, mask=self._response_mask)
        self._response_mask = None
        return self._above()._update_actor(batch)

    def _above(self) -> Trainer:
        """The trainer's methods behind this mixin."""
        return super()


def record(recorder: Recorder, data: Batch, step: int, *, mask: Array | None = None) -> Path | None:
    """Writes a DataProto, for trainers with a loop of their own.

    Args:
        recorder: the recorder.
        data: the batch, with responses, response_mask, old_log_probs, and rollout_log_probs where verl keeps them.
        step: the training step.
        mask: the response mask before any rejection, (B, T); None: as it stands in the batch.

    Returns:
        The file; None where no token is in the mask.

    Raises:
        KeyError: the batch has no responses, response_mask or old_log_probs.
    """
    fields = {str(name): value for name, value in data.batch.items()}
    scores = fields.get("token_level_scores")
    return recorder.write(
        step,
        mask=fields["response_mask"] if mask is None else mask,
        tokens=fields["responses"],
        actor_log_probs=fields.get("rollout_log_probs"),
        policy_log_probs=fields["old_log_probs"],
        advantages=fields.get("advantages"),
        rewards=None if scores is None else scores.sum(-1),
    )
