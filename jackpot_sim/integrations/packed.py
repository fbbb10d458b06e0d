"""Corrections where rollouts are packed one behind the other, as slime and miles have them: lists of 1-D tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.integrations.corrected import (
    Corrected,
    Loss,
    Settings,
    agreement,
    correct,
    metrics,
    padded,
    policy_loss,
    uniforms,
    unpadded,
)
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
        ValueError: log-probs are missing, or the correction needs more than this hook sees.
    """
    import torch

    settings = settings_of(args)
    if settings.target is UpdateTarget.POLICY or "advantages" in settings.correction.needs:
        missing = "p_new" if settings.target is UpdateTarget.POLICY else "the advantages"
        raise ValueError(
            f"--custom-tis-function-path does not see {missing}, which {settings.correction.name} needs here: "
            "use --custom-loss-function-path"
        )
    old, actor = _rows(train_log_probs, "log_probs"), _rows(rollout_log_probs, "rollout_log_probs")
    with torch.no_grad():
        mask = padded(list(loss_masks)) > 0
        if not bool(mask.any()):
            return pg_loss, _of_tokens(agreement(settings), pg_loss)
        p_ref, q = padded(layout.whole(old)), padded(layout.whole(actor))
        given = _proposed(settings, q, p_ref, mask, torch.ones_like(q[:, 0]), None, None)
        corrected = correct(settings, given, TokenPass(p_ref))
        lengths = [len(each) for each in loss_masks]
        factor = torch.cat(layout.part(unpadded(corrected.factor, lengths))).to(pg_loss.dtype)
    figures = _of_tokens(metrics(corrected, given), pg_loss)
    if not getattr(args, "use_tis", True):
        return pg_loss, figures
    # The loss of a token that counts for nothing may be infinite.
    return torch.where(factor == 0, torch.zeros_like(pg_loss), pg_loss) * factor, figures


def whole_loss(
    args: object,
    layout: Layout,
    batch: Mapping[str, object],
    logits: Tensor,
    sum_of_sample_mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The project's own loss of a microbatch under the trainer's divisors, and its figures.

    Raises:
        ValueError: the arguments ask for a term that this loss does not have, or log-probs are missing.
    """
    import torch

    settings = settings_of(args)
    _refuse_other_terms(args, layout)
    new = layout.log_probs(batch, logits)
    actor = _rows(batch.get("rollout_log_probs"), "rollout_log_probs")
    advantages = _rows(batch.get("advantages"), "advantages")
    masks, lengths = _rows(batch.get("loss_masks"), "loss_masks"), [len(each) for each in new]
    # Without log-probs from before the update, the policy has not moved yet: the trainer's own loss says so too.
    old = [each.detach() for each in new] if batch.get("log_probs") is None else _rows(batch["log_probs"], "log_probs")
    flat, mask = torch.cat(new), padded(masks) > 0
    if not bool(mask.any()):
        loss, figures = 0.0 * flat.sum() + 0.0 * logits.sum(), agreement(settings)
    else:
        topk, on_topk = _on_topk(settings, layout, args, batch, logits)
        given = _proposed(
            *(settings, padded(actor), padded(old), mask, padded(advantages), topk),
            None if on_topk is None or batch.get("log_probs") is not None else on_topk.detach(),
        )
        if topk is not None and given.reference_on_topk is None and settings.target is UpdateTarget.REFERENCE:
            raise ValueError(
                "the batch holds no log-probs of p_ref for the actor's top-k: write topk: 0, or target: p_new"
            )
        shares = padded(list(torch.split(_slope(sum_of_sample_mean, flat), lengths)))
        low, high = (getattr(args, name, None) for name in ("eps_clip", "eps_clip_high"))
        corrected: Corrected
        loss, corrected = policy_loss(
            settings, given, TokenPass(padded(new), on_topk), Loss(clip=low, clip_high=high), shares
        )
        loss, figures = loss.to(flat.dtype), metrics(corrected, given)
    reported = {"loss": loss.detach().clone(), "pg_loss": loss.detach().clone()}
    with torch.no_grad():
        return loss, reported | {
            name: sum_of_sample_mean(each) for name, each in _of_tokens(figures, flat.detach()).items()
        }


_OTHER_TERMS: tuple[tuple[str, str, Callable[[object], bool]], ...] = (
    ("entropy_coef", "--entropy-coef", bool),
    ("use_kl_loss", "--use-kl-loss", bool),
    ("use_opsm", "--use-opsm", bool),
    ("use_tis", "--use-tis", bool),
    ("eps_clip_c", "--eps-clip-c", lambda value: value is not None),
    ("advantage_estimator", "--advantage-estimator gspo or cispo", lambda value: value in ("gspo", "cispo")),
)
"""The options of the trainer's own loss that a custom loss would ignore."""


def _refuse_other_terms(args: object, layout: Layout) -> None:
    for name, option, is_set in _OTHER_TERMS:
        if is_set(getattr(args, name, None)):
            raise ValueError(
                f"{option} has no part in this custom loss: leave it out, or use --custom-tis-function-path, "
                "which keeps the trainer's own loss"
            )
    if layout.shards > 1:
        raise ValueError(
            "a custom loss sees a part of each sequence under context parallelism: "
            "set --context-parallel-size 1, or use --custom-tis-function-path"
        )


def _rows(found: object, name: str) -> list[Tensor]:
    """A field of the batch, one 1-D tensor for each response."""
    if not found:
        hint = " (the rollout stores them in Sample.rollout_log_probs)" if name == "rollout_log_probs" else ""
        raise ValueError(f"the batch holds no {name}{hint}: a correction needs them")
    return list(found)  # type: ignore[call-overload, no-any-return]


def _proposed(
    settings: Settings,
    actor: Tensor,
    reference: Tensor,
    mask: Tensor,
    advantage: Tensor,
    topk: TopK | None,
    reference_on_topk: Tensor | None,
) -> Proposed:
    drawn = uniforms(actor, mask, settings.seed)
    return Proposed(actor, reference, mask, advantage, topk, reference_on_topk, drawn, overlap_of_batch=topk is None)


def _on_topk(
    settings: Settings, layout: Layout, args: object, batch: Mapping[str, object], logits: Tensor
) -> tuple[TopK | None, Tensor | None]:
    """The actor's likeliest tokens and log p_new of these with its graph; None where unused, or not in the batch."""
    import torch

    if not settings.needs_topk or batch.get("rollout_topk_token_ids") is None:
        return None, None
    if getattr(args, "tensor_model_parallel_size", 1) > 1:
        raise ValueError("log-probs of the actor's top-k need whole rows of logits: write topk: 0, or leave out TP")
    k = settings.topk
    ids = padded([each[:, :k] for each in _rows(batch["rollout_topk_token_ids"], "rollout_topk_token_ids")])
    actor = padded([each[:, :k] for each in _rows(batch.get("rollout_topk_log_probs"), "rollout_topk_log_probs")])
    rows = padded(layout.logits(batch, logits))
    unused = (ids < 0) | actor.isneginf()
    new = rows.gather(-1, ids.long().masked_fill(unused, 0)) - rows.logsumexp(-1, keepdim=True)
    topk = TopK(ids.int().masked_fill(unused, 0), actor.float().masked_fill(unused, -torch.inf))
    return topk, new.masked_fill(unused, -torch.inf)


def _slope(linear: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The share of each token in a weighted sum of tokens: its slope."""
    import torch

    with torch.enable_grad():
        values = torch.zeros_like(at, requires_grad=True)
        (slope,) = torch.autograd.grad(linear(values), values)
    return slope


def _of_tokens(figures: Mapping[str, float], like: Tensor) -> dict[str, Tensor]:
    """Figures as trainers sum them: one number for each token, all the same."""
    return {PREFIX + name: like.new_full(like.shape, value).detach() for name, value in figures.items()}
