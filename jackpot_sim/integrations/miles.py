"""Corrections in miles, by its arguments `--custom-tis-function-path` and `--custom-loss-function-path`.

All is as in `slime`: miles calls both functions alike, and hands over where a sequence is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from typing_extensions import override

from jackpot_sim.integrations import packed
from jackpot_sim.integrations.packed_loss import whole_loss
from jackpot_sim.integrations.slime import Slime
from jackpot_sim.integrations.versions import warn_untested

if TYPE_CHECKING:
    from torch import Tensor


def tis_function(
    args: object,
    *,
    pg_loss: Tensor,
    train_log_probs: Sequence[Tensor] | None,
    rollout_log_probs: Sequence[Tensor] | None,
    loss_masks: Sequence[Tensor],
    total_lengths: Sequence[int],
    response_lengths: Sequence[int],
    max_seq_lens: Sequence[int] | None = None,
    **kwargs: object,
) -> tuple[Tensor, Sequence[Tensor], dict[str, Tensor]]:
    """The TIS function of miles: the corrected loss of each token, the masks as they were, and figures.

    Args:
        args: the arguments of miles, with `jackpot_sim`.
        pg_loss: the loss of each token with its graph, packed, (tokens,).
        train_log_probs: log p_ref of each response's tokens, nats.
        rollout_log_probs: log q of these, likewise.
        loss_masks: 1 on the tokens that count, of each response.
        total_lengths: the tokens of each prompt and its response.
        response_lengths: those of each response.
        max_seq_lens: the padded lengths, where sequences are not packed.
        **kwargs: what else miles hands over.

    Raises:
        ValueError: as `packed.corrected_term`.
    """
    warn_untested("miles")
    layout = Miles(args, total_lengths, response_lengths, max_seq_lens)
    loss, figures = packed.corrected_term(args, layout, pg_loss, train_log_probs, rollout_log_probs, loss_masks)
    return loss, loss_masks, figures


def custom_loss(
    args: object,
    batch: Mapping[str, object],
    logits: Tensor,
    sum_of_sample_mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The custom loss of miles; arguments, result and errors as `slime.custom_loss`."""
    warn_untested("miles")
    return whole_loss(args, Miles.of(args, batch), batch, logits, sum_of_sample_mean)


_PROCESSORS = "miles.backends.training_utils.loss_hub.logit_processors"


@dataclass(frozen=True)
class Miles(Slime):
    """The places at which miles keeps the tokens of a microbatch."""

    max_seq_lens: Sequence[int] | None = None
    """The padded lengths, where sequences are not packed."""

    @classmethod
    @override
    def of(cls, args: object, batch: Mapping[str, object]) -> Miles:
        at = Slime.of(args, batch)
        return cls(args, at.total_lengths, at.response_lengths, batch.get("max_seq_lens"))  # type: ignore[arg-type]

    @override
    def _moved(self, function: str, rows: Sequence[Tensor]) -> list[Tensor]:
        if self.shards == 1:
            return list(rows)
        move = getattr(import_module("miles.backends.training_utils.cp_utils"), function)
        form = getattr(self.args, "qkv_format", "thd")
        padded = [None] * len(rows) if self.max_seq_lens is None else self.max_seq_lens
        given = zip(rows, self.total_lengths, self.response_lengths, padded, strict=True)
        return [move(row, total, response, form, longest) for row, total, response, longest in given]

    @override
    def log_probs(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        found = import_module(_PROCESSORS).get_log_probs_and_entropy(logits, **self._named(batch, logits))
        return list(found["log_probs"])

    @override
    def logits(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        return [chunk for chunk, _ in import_module(_PROCESSORS).get_responses(logits, **self._named(batch, logits))]

    @override
    def _named(self, batch: Mapping[str, object], logits: Tensor) -> dict[str, object]:
        return super()._named(batch, logits) | {"max_seq_lens": self.max_seq_lens}
