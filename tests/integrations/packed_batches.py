"""A batch in the form of slime and miles, and the calls of their hooks: what tests and real files share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from jackpot_sim.integrations import miles
from jackpot_sim.integrations.corrected import Loss
from jackpot_sim.training.objective import Aggregation
from tests.integrations.parity import CORRECTIONS, Case

PROMPT = 2
REDUCTIONS = {"samples": Aggregation.SEQUENCE_MEAN, "tokens": Aggregation.TOKEN_MEAN}
AT_REFERENCE = [name for name in CORRECTIONS if CORRECTIONS[name].get("target") != "p_new"]


@dataclasses.dataclass(frozen=True)
class Packed:
    """A batch as slime packs it: a prompt before each response, and a masked token behind it where there is room."""

    batch: Case

    @property
    def lengths(self) -> list[int]:
        return [min(int(row.nonzero().max()) + 2, len(row)) for row in self.batch.mask]

    @property
    def masks(self) -> list[Tensor]:
        return self.rows(self.batch.mask.int())

    def rows(self, values: Tensor) -> list[Tensor]:
        return [row[:length] for row, length in zip(values, self.lengths, strict=True)]

    def at_tokens(self, law: Tensor) -> list[Tensor]:
        """A law at the tokens; at masked ones too, as trainers have it."""
        return self.rows(law.gather(-1, self.batch.ids[..., None])[..., 0])

    @property
    def logits(self) -> Tensor:
        """(1, all tokens, vocab): each state is one place before its token."""
        around = self.batch.logits.new_zeros((PROMPT, self.batch.logits.shape[-1]))
        rows = [torch.cat([around[1:], row, around[:1]]) for row in self.rows(self.batch.logits)]
        return torch.cat(rows)[None]

    def reducer(self, reduction: str) -> Callable[[Tensor], Tensor]:
        def reduced(x: Tensor) -> Tensor:
            parts = zip(x.split(self.lengths), self.masks, strict=True)
            if reduction == "tokens":
                return sum((part * mask).sum() for part, mask in parts)  # type: ignore[return-value]
            return sum((part * mask).sum() / mask.sum().clamp_min(1) for part, mask in parts)  # type: ignore[return-value]

        return reduced

    def count(self, reduction: str) -> int:
        """What the trainer divides by afterwards."""
        return int(self.batch.mask.sum()) if reduction == "tokens" else len(self.batch.mask)

    @property
    def term(self) -> Tensor:
        """PPO's loss of each token, with its graph: what a trainer hands its TIS function."""
        new, old = (torch.cat(self.at_tokens(law)) for law in (self.batch.logits.log_softmax(-1), self.batch.before))
        gain, ratio = torch.cat(self.advantages), (new - old).exp()
        return torch.maximum(-ratio * gain, -ratio.clamp(0.8, 1.28) * gain)

    @property
    def advantages(self) -> list[Tensor]:
        return self.rows(self.batch.advantage[:, None].expand(self.batch.mask.shape))

    def arguments(self, **own: Any) -> SimpleNamespace:
        return SimpleNamespace(jackpot_sim=self.batch.settings, use_tis=True, eps_clip=0.2, eps_clip_high=0.28, **own)

    def tis(self, trainer: Any, **own: Any) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The trainer's call."""
        given = {
            "args": self.arguments(),
            "pg_loss": self.term,
            "train_log_probs": self.at_tokens(self.batch.before),
            "rollout_log_probs": self.at_tokens(self.batch.actor),
            "loss_masks": self.masks,
            "total_lengths": [PROMPT + length for length in self.lengths],
            "response_lengths": self.lengths,
        }
        if trainer is miles:
            given |= {"parallel_state": SimpleNamespace(cp=SimpleNamespace(size=1)), "max_seq_lens": None}
        return trainer.tis_function(**(given | own))  # type: ignore[no-any-return]

    def fields(self, **own: Any) -> dict[str, Any]:
        """The batch of the trainer's loss."""
        return {
            "unconcat_tokens": [torch.cat([ids.new_zeros(PROMPT), ids]) for ids in self.rows(self.batch.ids)],
            "total_lengths": [PROMPT + length for length in self.lengths],
            "response_lengths": self.lengths,
            "loss_masks": self.masks,
            "advantages": self.advantages,
            "log_probs": self.at_tokens(self.batch.before),
            "rollout_log_probs": self.at_tokens(self.batch.actor),
        } | own

    def stored(self) -> dict[str, Any]:
        """The actor's top-k as newer rollouts store it: nothing at tokens that are not trained."""
        topk = self.batch.topk
        assert topk is not None
        ids, log_probs = (torch.as_tensor(each) for each in (topk.ids, topk.log_probs))
        masked = ~self.batch.mask[..., None]
        return {
            "rollout_topk_token_ids": self.rows(ids.masked_fill(masked, -1)),
            "rollout_topk_log_probs": self.rows(log_probs.masked_fill(masked, -torch.inf)),
        }

    def custom(self, trainer: Any, reduction: str = "samples", **own: Any) -> tuple[Tensor, dict[str, Tensor]]:
        args = self.arguments()
        args.use_tis = False
        return trainer.custom_loss(args, self.fields(**own), self.logits, self.reducer(reduction))  # type: ignore[no-any-return]


def expected(packed: Packed, reduction: str) -> tuple[float, Tensor]:
    return packed.batch.own(Loss(REDUCTIONS[reduction], clip=0.2, clip_high=0.28))


def on_policy(batch: Case) -> Case:
    """The batch in its first update: p_ref is the policy under way."""
    return dataclasses.replace(batch, before=batch.logits.detach().log_softmax(-1))


def with_observations(batch: Case) -> Case:
    """The batch with tokens in the middle of rollouts that no policy wrote, as tools' answers are."""
    places = torch.arange(batch.mask.shape[1])
    return dataclasses.replace(batch, mask=batch.mask & (places % 3 != 1))
