"""Rollouts of TRL's GRPOTrainer, recorded as they are generated; training goes on as without.

    from trl import GRPOTrainer
    from jackpot_sim.record import Recorder
    from jackpot_sim.record.trl import RecordsRollouts

    class RecordingTrainer(RecordsRollouts, GRPOTrainer):
        recorder = Recorder("rollouts")

The policy's log-probs are `old_per_token_logps`; where TRL does not compute them, one more forward pass does. With vLLM
the actor's are those that vLLM returned. Without it TRL keeps none, and they are taken from the law from which
`generate` draws each token, after temperature, top-k and top-p. With `topk` the actor's likeliest tokens are recorded
too, from either; a `rollout_func` may return them beside its `logprobs`, as `topk_ids` and `topk_logprobs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jackpot_sim.record.foreign import Passed, Trainer
from jackpot_sim.record.recorder import Recorder
from jackpot_sim.record.trl_states import Pair, Stored, asking, noting, places

if TYPE_CHECKING:
    import torch


class RecordsRollouts:
    """A mixin that stands before GRPOTrainer among the bases of a trainer.

    Attributes:
        recorder: the recorder.
        topk: the actor's likeliest tokens that are kept at each state; 0 keeps none.
    """

    recorder: Recorder
    topk: int = 0
    _rewards: torch.Tensor | None = None
    _noted = False
    _stored = Stored()
    _places: list[list[int]] | None = None

    def _generate_single_turn(self, *args: object, **kwargs: object) -> tuple[object, object]:
        engine = getattr(self, "vllm_generation", None)
        with noting(self.topk) as law, asking(engine, self.topk, self._stored, self._vocab):
            ids, log_probs = self._above()._generate_single_turn(*args, **kwargs)
        if log_probs is None and law.calls:
            self._noted = True
            return ids, law.of(ids, self._stored)
        return ids, log_probs

    def _generate(self, *args: object, **kwargs: object) -> Passed:
        self._stored, self._places = Stored(), None
        found = self._above()._generate(*args, **kwargs)
        log_probs, of_rollout_func = found[4], found[5]
        if log_probs is not None:
            self._places = places(log_probs)
        ids, on_topk = (of_rollout_func.pop(name, None) for name in ("topk_ids", "topk_logprobs"))
        if self.topk and not (ids is None and on_topk is None):
            self._places = self._stored.fill(ids, on_topk, [*map(len, found[1])], self.topk, self._vocab)
        return found

    def _actor_topk(self, length: int) -> Pair | None:
        """The actor's likeliest tokens at each state of the completions, (B, length, k); None where none are kept."""
        device = self._trainer.accelerator.device
        return None if self._places is None else self._stored.at(self._places, length, device)

    def _calculate_rewards(self, *args: object, **kwargs: object) -> torch.Tensor:
        self._rewards = self._above()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, *args: object, **kwargs: object) -> dict[str, Any]:
        self._noted = False
        output: dict[str, Any] = self._above()._generate_and_score_completions(*args, **kwargs)
        self._finish(output)
        if self._noted:
            # Without vLLM TRL expects none, and one of its options would compute something else with them.
            output.pop("sampling_per_token_logps", None)
        return output

    @property
    def _vocab(self) -> int:
        """The tokens of the policy."""
        return int(self._trainer.model.config.get_text_config().vocab_size)

    def _above(self) -> Trainer:
        """The trainer's methods behind this mixin."""
        return super()

    @property
    def _trainer(self) -> Trainer:
        """This object as the trainer that it is."""
        return self

    def _finish(self, output: dict[str, Any]) -> None:
        """Sees a batch of completions, with the actor's log-probs, before it is shuffled and split."""
        if self._trainer.model.training:
            self._record(output)

    def _record(self, output: Mapping[str, Any]) -> None:
        trainer = self._trainer
        present = output["completion_mask"]
        tools = output.get("tool_mask")
        step = int(trainer.state.global_step)
        length = output["completion_ids"].shape[1]
        self.recorder.write(
            step,
            mask=present if tools is None else present * tools,
            present=present,
            tokens=output["completion_ids"],
            actor_log_probs=output.get("sampling_per_token_logps"),
            policy_log_probs=self._policy_log_probs(output),
            advantages=output["advantages"],
            rewards=self._own_rewards(len(present)),
            weight_version=step,
            actor_topk=self._actor_topk(length),
        )

    def _policy_log_probs(self, output: Mapping[str, Any]) -> torch.Tensor | None:
        """The policy's log-probs of the completions, (B, T); None where pictures would have to be prepared anew."""
        import torch

        trainer = self._trainer
        found: torch.Tensor | None = output.get("old_per_token_logps")
        if found is not None or "num_images" in output:
            return found
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attended = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        length, rows = output["completion_ids"].shape[1], trainer.args.per_device_train_batch_size
        with torch.no_grad():
            scored = trainer._get_per_token_logps_and_entropies(trainer.model, ids, attended, length, rows)
        log_probs: torch.Tensor = scored[0]
        return log_probs

    def _own_rewards(self, rows: int) -> torch.Tensor | None:
        """The weighted rewards of this process's completions, (B,), out of those of all processes."""
        if self._rewards is None:
            return None
        trainer = self._trainer
        weights = trainer.reward_weights.to(self._rewards.device)
        first = trainer.accelerator.process_index * rows
        own: torch.Tensor = (self._rewards * weights).nansum(dim=1)[first : first + rows]
        return own
