"""Corrections where rollouts are packed one behind the other, as slime and miles have them: lists of 1-D tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_reals, check_same_shape, check_shape
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.integrations.corrected import Settings, agreement, correct, metrics, uniforms
from jackpot_sim.training.objective import Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor

OPTION = "jackpot_sim"
"""The name of the correction among the trainer's arguments."""
PREFIX = "jackpot_sim/"
"""Put before the names of figures in the trainer's log."""


class Layout(Protocol):
    """The places at which a trainer keeps the tokens of a microbatch."""

    @property
    def shards(self) -> int:
        """The number of processes that share each sequence."""

    def whole(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The tokens of each response, from the parts that the processes hold."""

    def part(self, wholes: Sequence[Tensor]) -> list[Tensor]:
        """The part of each response that this process holds."""

    def log_probs(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        """log p of each response's tokens with its graph, nats."""

    def logits(self, batch: Mapping[str, object], logits: Tensor) -> list[Tensor]:
        """The logits of each response's states, (length, vocab), divided by the temperature."""


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one batch, (n, longest, …), with 0 (or False) behind their ends, and their graph.

    Args:
        rows: tensors that differ in the length of their first axis alone.

    Raises:
        TypeError: rows are no tensors, or of several dtypes.
        ValueError: there is no row, or they differ in another axis.
    """
    import torch

    if not rows:
        raise ValueError("a batch needs at least one rollout, and there is none")
    namespace(*rows)
    for row in rows:
        if row.dtype != rows[0].dtype:
            raise TypeError(f"rows have dtypes {rows[0].dtype} and {row.dtype}: they must be the same")
        one = tuple(row.shape[:1]) or (1,)
        check_shape(row, (*one, *rows[0].shape[1:]), "one of rows", "only their first axes may differ")
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def unpadded(values: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The rows of a batch (n, longest, …) without what is behind their ends: the inverse of `padded`.

    Raises:
        TypeError: the batch is no tensor.
        ValueError: it has another number of rows, or of places, than these lengths.
    """
    namespace(values)
    shape = (len(lengths), max(lengths), *values.shape[2:])
    check_shape(values, shape, "values", "as many rows as lengths, as long as the longest")
    return [row[:length] for row, length in zip(values, lengths, strict=True)]


def settings_of(args: object) -> Settings:
    """The correction that the trainer's arguments name.

    Raises:
        ValueError: they name none, or as `Settings.of`.
    """
    named = getattr(args, OPTION, None)
    if named is None:
        raise ValueError(f"no correction is named: write {OPTION}: jackpot into a YAML file for --custom-config-path")
    return Settings.of(named)


def corrected_term(
    args: object,
    layout: Layout,
    pg_loss: Tensor,
    train_log_probs: Sequence[Tensor] | None,
    rollout_log_probs: Sequence[Tensor] | None,
    loss_masks: Sequence[Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each token's loss times its factor m·w, and the figures of the microbatch, one number for each token.

    Without `--use-tis` the loss stays as it is: then the trainer asks for the figures alone.

    Args:
        args: the trainer's arguments.
        layout: the places of the tokens.
        pg_loss: the loss of each token with its graph, packed, (tokens,).
        train_log_probs: log p_ref of each response's tokens, nats.
        rollout_log_probs: log q of these, likewise.
        loss_masks: 1 on the tokens that count, of each whole response.

    Raises:
        TypeError: the loss or log-probs are no real floating numbers.
        ValueError: log-probs are missing or of other tokens, or the correction needs more than this hook sees.
    """
    import torch

    settings = settings_of(args)
    if settings.target is UpdateTarget.POLICY or "advantages" in settings.correction.needs:
        missing = "p_new" if settings.target is UpdateTarget.POLICY else "the advantages"
        raise ValueError(
            f"--custom-tis-function-path does not see {missing}, which {settings.correction.name} needs here: "
            "use --custom-loss-function-path"
        )
    old, actor = rows_of(train_log_probs, "log_probs"), rows_of(rollout_log_probs, "rollout_log_probs")
    with torch.no_grad():
        old, actor = layout.whole(old), layout.whole(actor)
        check_rows_of_tokens(loss_masks, train_log_probs=old, rollout_log_probs=actor)
        mask = padded(list(loss_masks)) > 0
        if not bool(mask.any()):
            return pg_loss, of_tokens(agreement(settings), pg_loss)
        p_ref, q = padded(old), padded(actor)
        given = proposed(settings, q, p_ref, mask, torch.ones_like(q[:, 0]), None, None)
        corrected = correct(settings, given, TokenPass(p_ref))
        lengths = [len(each) for each in loss_masks]
        factor = torch.cat(layout.part(unpadded(corrected.factor, lengths)))
        check_same_shape(factor, check_reals(pg_loss, "pg_loss"), "the packed loss_masks", "pg_loss")
        factor = factor.to(pg_loss.dtype)
    figures = of_tokens(metrics(corrected, given), pg_loss)
    if not getattr(args, "use_tis", True):
        return pg_loss, figures
    # The loss of a token that counts for nothing may be infinite.
    return torch.where(factor == 0, torch.zeros_like(pg_loss), pg_loss) * factor, figures


def rows_of(found: object, name: str) -> list[Tensor]:
    """A field of the batch, one 1-D tensor for each response."""
    if not found:
        hint = " (the rollout stores them in Sample.rollout_log_probs)" if name == "rollout_log_probs" else ""
        raise ValueError(f"the batch holds no {name}{hint}: a correction needs them")
    return list(found)  # type: ignore[call-overload, no-any-return]


def check_rows_of_tokens(loss_masks: Sequence[Tensor], **fields: Sequence[Tensor]) -> None:
    """Refuses fields of real floating numbers that have not one for each token of each response.

    Padding would hide a row that is too short.

    Raises:
        TypeError: their numbers are of another kind, or libraries differ.
        ValueError: there are more or fewer responses, or tokens.
    """
    for name, rows in fields.items():
        check_as_many(loss_masks, rows, name)
        for mask, row in zip(loss_masks, rows, strict=True):
            check_same_shape(mask, check_reals(row, name), "a row of loss_masks", f"that of {name}")


def check_as_many(loss_masks: Sequence[Tensor], rows: Sequence[Tensor], name: str) -> None:
    """Refuses a field that has not one row for each response."""
    if len(rows) != len(loss_masks):
        raise ValueError(f"{name} has {len(rows)} rows, loss_masks has {len(loss_masks)}: one for each response")


def proposed(
    settings: Settings,
    actor: Tensor,
    reference: Tensor,
    mask: Tensor,
    advantage: Tensor,
    topk: TopK | None,
    reference_on_topk: Tensor | None,
) -> Proposed:
    """A microbatch as the objective takes it, with uniforms of its own, and Ẑ of the microbatch without a top-k."""
    drawn = uniforms(actor, mask, settings.seed, name="rollout_log_probs")
    return Proposed(actor, reference, mask, advantage, topk, reference_on_topk, drawn, overlap_of_batch=topk is None)


def of_tokens(figures: Mapping[str, float], like: Tensor) -> dict[str, Tensor]:
    """Figures as trainers sum them: one number for each token, all the same."""
    check_reals(like, "like")
    return {PREFIX + name: like.new_full(like.shape, value).detach() for name, value in figures.items()}
