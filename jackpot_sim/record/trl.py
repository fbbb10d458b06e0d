"""Rollouts of TRL's GRPOTrainer, recorded as they are generated; training goes on as without.

    from trl import GRPOTrainer
    from jackpot_sim.record import Recorder
    from jackpot_sim.record.trl import RecordsRollouts

    class RecordingTrainer(RecordsRollouts, GRPOTrainer):
        recorder = Recorder("rollouts")

The policy's log-probs are `old_per_token_logps`; where TRL does not compute them, one more forward pass does. With vLLM
the actor's are those that vLLM returned. Without it TRL keeps none, and they are taken from the law from which
`generate` draws each token, after temperature, top-k and top-p.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from jackpot_sim.record.recorder import Recorder

if TYPE_CHECKING:
    import torch


class RecordsRollouts:
    """A mixin that stands before GRPOTrainer among the bases of a trainer.

    Attributes:
        recorder: the recorder.
    """

    recorder: Recorder
    _rewards: torch.Tensor | None = None
    _noted = False

    def _generate_single_turn(self, *args: object, **kwargs: object) -> tuple[object, object]:
        with _noting() as law:
            ids, log_probs = self._above()._generate_single_turn(*args, **kwargs)
        if log_probs is None and law.calls:
            self._noted = True
            return ids, law.of(ids)
        return ids, log_probs

    def _calculate_rewards(self, *args: object, **kwargs: object) -> torch.Tensor:
        self._rewards = self._above()._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, *args: object, **kwargs: object) -> dict[str, Any]:
        self._noted = False
        output: dict[str, Any] = self._above()._generate_and_score_completions(*args, **kwargs)
        trainer: Any = self
        if trainer.model.training:
            self._record(output)
        if self._noted:
            # Without vLLM TRL expects none, and one of its options would compute something else with them.
            output.pop("sampling_per_token_logps", None)
        return output

    def _above(self) -> Any:
        """The trainer's methods behind this mixin."""
        return super()

    def _record(self, output: Mapping[str, Any]) -> None:
        trainer: Any = self
        present = output["completion_mask"]
        tools = output.get("tool_mask")
        step = int(trainer.state.global_step)
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
        )

    def _policy_log_probs(self, output: Mapping[str, Any]) -> torch.Tensor | None:
        """The policy's log-probs of the completions, (B, T); None where pictures would have to be prepared anew."""
        import torch

        trainer: Any = self
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
        trainer: Any = self
        weights = trainer.reward_weights.to(self._rewards.device)
        first = trainer.accelerator.process_index * rows
        own: torch.Tensor = (self._rewards * weights).nansum(dim=1)[first : first + rows]
        return own


class _Law:
    """A processor of logits that stands behind all others: it sees the laws that `generate` draws from.

    One law is held at a time. The token drawn from it is seen with the next, and that of the last in the completion.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._last: torch.Tensor | None = None
        self._drawn: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._last is not None:
            self._drawn.append(self._last.gather(1, input_ids[:, -1:]))
        self._last = scores.float().log_softmax(dim=-1)
        self.calls += 1
        return scores

    def of(self, completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-prob of each token of the completions."""
        import torch

        if self._last is None:
            return []
        ends = torch.tensor([completion[-1:] or [0] for completion in completions], device=self._last.device)
        # One column for each token that was drawn while others went on, and one for the last law.
        seen = torch.cat([*self._drawn, self._last.gather(1, ends)], dim=1).tolist()
        return [own[: len(completion)] for own, completion in zip(seen, completions, strict=True)]


@contextmanager
def _noting() -> Iterator[_Law]:
    """A processor of logits at work in all generations of transformers that run inside; it changes nothing."""
    from transformers import GenerationMixin

    law, mixin = _Law(), cast("Any", GenerationMixin)
    built = getattr(mixin, "_get_logits_processor", None)
    if built is None:  # of another version: the actor's side is left out
        yield law
        return

    def with_law(*args: Any, **kwargs: Any) -> Any:
        processors = built(*args, **kwargs)
        processors.append(law)
        return processors

    mixin._get_logits_processor = with_law
    try:
        yield law
    finally:
        mixin._get_logits_processor = built
