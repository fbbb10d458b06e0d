"""The project's whole policy loss of packed rollouts, for the custom losses of slime and miles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_integers, check_reals, check_same_shape, check_same_states
from jackpot_sim.core.topk import TopK
from jackpot_sim.estimators import UpdateTarget
from jackpot_sim.integrations.corrected import Loss, Settings, agreement, metrics, policy_loss
from jackpot_sim.integrations.packed import (
    Layout,
    check_as_many,
    check_rows_of_tokens,
    of_tokens,
    padded,
    proposed,
    rows_of,
    settings_of,
)
from jackpot_sim.training.objective import Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor


def whole_loss(
    args: object,
    layout: Layout,
    batch: Mapping[str, object],
    logits: Tensor,
    sum_of_sample_mean: Callable[[Tensor], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The project's own loss of a microbatch under the trainer's divisors, and its figures.

    Raises:
        TypeError: an array holds numbers of another kind.
        ValueError: the arguments ask for a term that this loss does not have, or log-probs are missing or of other
            tokens.
    """
    import torch

    settings = settings_of(args)
    _refuse_other_terms(args, layout)
    new = layout.log_probs(batch, logits)
    flat = torch.cat(new)
    given, on_topk = _given(settings, layout, args, batch, logits, new)
    if given is None:
        loss, figures = 0.0 * flat.sum() + 0.0 * logits.sum(), agreement(settings)
    else:
        shares = padded(list(torch.split(_slope(sum_of_sample_mean, flat), [len(each) for each in new])))
        around = Loss(clip=getattr(args, "eps_clip", None), clip_high=getattr(args, "eps_clip_high", None))
        total, corrected = policy_loss(settings, given, TokenPass(padded(new), on_topk), around, shares)
        loss, figures = total.to(flat.dtype), metrics(corrected, given)
    with torch.no_grad():
        reported = {name: loss.detach().clone() for name in ("loss", "pg_loss")}
        logged = of_tokens(figures, flat.detach())
        return loss, reported | {name: sum_of_sample_mean(each) for name, each in logged.items()}


def _given(
    settings: Settings,
    layout: Layout,
    args: object,
    batch: Mapping[str, object],
    logits: Tensor,
    new: Sequence[Tensor],
) -> tuple[Proposed | None, Tensor | None]:
    """The microbatch, None without a token, and log p_new of the actor's top-k.

    Without log-probs from before the update, p_ref is the policy under way, as the trainer's own loss has it.
    """
    names = ("rollout_log_probs", "advantages", "loss_masks")
    actor, advantages, masks = (rows_of(batch.get(name), name) for name in names)
    before = batch.get("log_probs")
    old = rows_of(before, "log_probs") if before else [each.detach() for each in new]
    check_rows_of_tokens(masks, rollout_log_probs=actor, advantages=advantages, log_probs=old, logits=new)
    mask = padded(masks) > 0
    if not bool(mask.any()):
        return None, None
    topk, on_topk = _on_topk(settings, layout, args, batch, logits)
    needed = settings.target is UpdateTarget.REFERENCE or settings.correction.subtracts_mean
    if topk is not None and before and needed:
        raise ValueError(
            "the batch holds no log-probs of p_ref for the actor's top-k: write topk: 0 or target: p_new, or, if the "
            "correction is centred, pass --use-rollout-logprobs"
        )
    reference = None if on_topk is None or before else on_topk.detach()
    return proposed(settings, padded(actor), padded(old), mask, padded(advantages), topk, reference), on_topk


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


def _on_topk(
    settings: Settings, layout: Layout, args: object, batch: Mapping[str, object], logits: Tensor
) -> tuple[TopK | None, Tensor | None]:
    """The actor's likeliest tokens and log p_new of these with its graph; None where unused, or not in the batch."""
    import torch

    if not settings.needs_topk or batch.get("rollout_topk_token_ids") is None:
        return None, None
    if getattr(args, "tensor_model_parallel_size", 1) > 1:
        raise ValueError("log-probs of the actor's top-k need whole rows of logits: write topk: 0, or leave out TP")
    k, id_name, name = settings.topk, "rollout_topk_token_ids", "rollout_topk_log_probs"
    ids, actor = rows_of(batch[id_name], id_name), rows_of(batch.get(name), name)
    masks, logits_of = rows_of(batch["loss_masks"], "loss_masks"), layout.logits(batch, logits)
    check_as_many(masks, ids, id_name)
    check_as_many(masks, actor, name)
    for mask, id_, log_prob in zip(masks, ids, actor, strict=True):
        check_same_states(mask[:, None], check_integers(id_, id_name), "loss_masks[:, None]", id_name)
        check_same_shape(id_, check_reals(log_prob, name), id_name, name)
        if bool((id_ >= (vocab := logits.shape[-1])).any()):
            raise ValueError(f"{id_name} must be below {vocab}, the policy's vocabulary, and below 0 for no token")
    ids, actor = [each[:, :k].long() for each in ids], [each[:, :k] for each in actor]
    unused = [(id_ < 0) | log_prob.isneginf() for id_, log_prob in zip(ids, actor, strict=True)]
    ids = [each.masked_fill(place, 0) for each, place in zip(ids, unused, strict=True)]
    # Response by response, since rows of logits are large; in float32, as the trainer's own log-probs are.
    new = [
        (row.gather(-1, id_).float() - row.float().logsumexp(-1, keepdim=True)).masked_fill(place, -torch.inf)
        for row, id_, place in zip(logits_of, ids, unused, strict=True)
    ]
    stored = [each.float().masked_fill(place, -torch.inf) for each, place in zip(actor, unused, strict=True)]
    return TopK(padded(ids).int(), padded(stored)), padded(new)


def _slope(linear: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The share of each token in a weighted sum of tokens: its slope."""
    import torch

    with torch.enable_grad():
        values = torch.zeros_like(at, requires_grad=True)
        (slope,) = torch.autograd.grad(linear(values), values)
    return slope
