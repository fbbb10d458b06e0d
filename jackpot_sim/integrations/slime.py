"""Corrections in slime, by its arguments `--custom-tis-function-path` and `--custom-loss-function-path`.

The correction stands in a YAML file that `--custom-config-path` names, as `jackpot_sim: {kind: jackpot, c1: 3}`.

`tis_function` multiplies each token's loss by m·w. slime's loss keeps its clip, its other terms and its divisors, which
count rejected tokens; `divisor` of the correction divides beside them, over the microbatch. Ẑ is the mean acceptance
probability of the microbatch. Under context parallelism, log-probs are gathered, so that all processes that share a
sequence draw the same masks and see the whole of it.

`custom_loss` makes the whole policy loss from logits: for the target p_new, for corrections that look at advantages,
and, where the batch carries `rollout_topk_token_ids` and `rollout_topk_log_probs`, for Ẑ from the actor's top-k and
for centred corrections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_reals, check_shape
from jackpot_sim.integrations import packed
from jackpot_sim.integrations.packed_loss import whole_loss
from jackpot_sim.integrations.versions import warn_untested

if TYPE_CHECKING:
    from torch import Tensor


def tis_function(
    args: object,
    *,
    pg_loss: Tensor,
    train_log_probs: Sequence[Tensor],
    rollout_log_probs: Sequence[Tensor],
    loss_masks: Sequence[Tensor],
    total_lengths: Sequence[int],
    response_lengths: Sequence[int],
    **kwargs: object,
) -> tuple[Tensor, Sequence[Tensor], dict[str, Tensor]]:
    """slime's TIS function: the corrected loss of each token, the masks as they were, and figures.

    Args:
        args: slime's arguments, with `jackpot_sim`.
        pg_loss: the loss of each token with its graph, packed, (tokens,).
        train_log_probs: log p_ref of each response's tokens, nats.
        rollout_log_probs: log q of these, likewise.
        loss_masks: 1 on the tokens that count, of each response.
        total_lengths: the tokens of each prompt and its response.
        response_lengths: those of each response.
        **kwargs: what else slime hands over.

    Raises:
        ValueError: as `packed.corrected_term`.
    """
    warn_untested("slime")
    layout = Slime(args, total_lengths, response_lengths)
    loss, figures = packed.corrected_term(args, layout, pg_loss, train_log_probs, rollout_log_probs, loss_masks)
    return loss, loss_masks, figures


def custom_loss(
    args: object,
    batch: Mapping[str, object],
    logits: Tensor,
    sum_of_sample_mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """slime's custom loss: −Σ share·m·w·min(rA, clip(r)A) with its centring, and figures.

    Args:
        args: slime's arguments, with `jackpot_sim`.
        batch: the microbatch, with `rollout_log_probs`.
        logits: of the packed sequences, (1, tokens, vocab).
        sum_of_sample_mean: slime's weighted sum of the numbers of tokens.

    Raises:
        ValueError: as `packed_loss.whole_loss`.
    """
    warn_untested("slime")
    return whole_loss(args, Slime.of(args, batch), batch, logits, sum_of_sample_mean)


@dataclass(frozen=True)
class Slime:
    """The places at which slime keeps the tokens of a microbatch."""

    args: object
    """slime's arguments."""
    total_lengths: Sequence[int]
    """The tokens of each prompt and its response."""
    response_lengths: Sequence[int]
    """Those of each response."""

    @classmethod
    def of(cls, args: object, batch: Mapping[str, object]) -> Slime:
        """The places of a microbatch."""
        return cls(args, batch["total_lengths"], batch["response_lengths"])  # type: ignore[arg-type]

    @property
    def shards(self) -> int:
        """The number of processes that share each sequence."""
        return int(getattr(self.args, "context_parallel_size", 1))

    def whole(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The tokens of each response, gathered from the processes that share it."""
        return self._moved("all_gather_with_cp", parts)

    def part(self, wholes: Sequence[Tensor]) -> list[Tensor]:
        """The part of each response that this process holds."""
        return self._moved("slice_log_prob_with_cp", wholes)

    def _moved(self, function: str, rows: Sequence[Tensor]) -> list[Tensor]:
        if self.shards == 1:
            return list(rows)
        move = getattr(import_module("slime.backends.megatron_utils.cp_utils"), function)
        return [move(*each) for each in zip(rows, self.total_lengths, self.response_lengths, strict=True)]

    def log_probs(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        """log p of each response's tokens with its graph, by slime's own function."""
        loss = import_module("slime.backends.megatron_utils.loss")
        replayed = loss.get_rollout_top_p_logprob_kwargs(self.args, batch)
        _, found = loss.get_log_probs_and_entropy(logits, **self._named(batch, logits), **replayed)
        return list(found["log_probs"])

    def logits(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        """The logits of each response's states, by slime's own function."""
        loss = import_module("slime.backends.megatron_utils.loss")
        return [chunk for chunk, _ in loss.get_responses(logits, **self._named(batch, logits))]

    def _named(self, batch: Mapping[str, object], logits: Tensor) -> dict[str, object]:
        """The arguments beside logits, which are refused where the trainer's own functions would cut them short."""
        tokens = batch["unconcat_tokens"]
        namespace(logits, *tokens)  # type: ignore[misc]
        check_reals(logits, "logits", "rows", "tokens", "vocab")
        if self.shards == 1 and getattr(self.args, "qkv_format", "thd") == "thd":
            states = max(logits.shape[1], sum(self.total_lengths))  # there may be padding behind them
            check_shape(logits, (1, states, logits.shape[2]), "logits", "the states of all packed sequences")
        return {
            "args": self.args,
            "unconcat_tokens": tokens,
            "total_lengths": self.total_lengths,
            "response_lengths": self.response_lengths,
        }
