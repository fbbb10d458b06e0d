"""Our step in the place of verl's rollout correction, where log q and log p_ref are both in the batch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jackpot_sim.core import backend
from jackpot_sim.core.checks import check_axes, check_integers, check_reals, check_same_shape
from jackpot_sim.core.topk import TopK
from jackpot_sim.integrations import corrected
from jackpot_sim.integrations.corrected import Settings
from jackpot_sim.integrations.verl.options import LOG_PROBS, Rejected, options_of
from jackpot_sim.record.foreign import Batch
from jackpot_sim.training.objective import Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "rollout_corr/jackpot_sim/"
"""The head of our figures' names in verl's logs."""
IDS, LOG_PROBS_ON, REFERENCE_ON = "rollout_topk_ids", "rollout_topk_log_probs", "old_topk_log_probs"
"""The fields of a batch with the engine's likeliest tokens, log q of these and log p_ref of these, (n, length, k)."""


def correct_batch(batch: Batch, rollout_corr_config: Mapping[str, Any]) -> tuple[Any, dict[str, float]]:
    """Weights a batch, and may take rejected tokens out of it, as verl's function of the same signature does.

    Ẑ is taken from the engine's likeliest tokens where the batch has `rollout_topk_ids`, `rollout_topk_log_probs` and
    `old_topk_log_probs`, and is else the mean acceptance probability of the batch; `overlap/of_batch` in the log says
    which.

    Args:
        batch: a DataProto with old_log_probs, rollout_log_probs and response_mask, each (n, length).
        rollout_corr_config: `algorithm.rollout_correction`, in which `correction` is given.

    Returns:
        The batch with `rollout_is_weights` (n, length), and our figures beside verl's own of the mismatch.

    Raises:
        ValueError: a field is missing, or as `options_of` and `corrected.correct`; one sentence.
    """
    helper = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
    options = options_of(rollout_corr_config)
    given = proposed(batch.batch, options.settings)
    old = given.reference_log_probs
    found = corrected.correct(options.settings, given, TokenPass(old))
    response_mask = batch.batch["response_mask"]
    shown = helper.compute_rollout_corr_metrics_from_logprobs(old, given.actor_log_probs, response_mask)
    batch.batch["rollout_is_weights"] = found.factor
    if options.rejected is Rejected.MASK:
        batch.batch["response_mask"] = found.accepted.to(response_mask.dtype)
    return batch, shown | figures(found, given)


def proposed(fields: Batch, settings: Settings) -> Proposed:
    """A batch of verl, by the names of its fields, as the objective takes it; advantages are 0.

    Raises:
        ValueError: a field is missing or of another shape.
    """
    import torch

    for name, way in (
        ("response_mask", "verl makes it of the responses"),
        ("rollout_log_probs", LOG_PROBS),
        ("old_log_probs", "verl's trainer computes them before its rollout correction"),
    ):
        if name not in fields:
            raise ValueError(f"the batch has no {name}: {way}")
    mask = mask_of(fields["response_mask"])
    for name in ("rollout_log_probs", "old_log_probs"):
        check_same_shape(mask, check_reals(fields[name], name), "response_mask", name)
    actor = fields["rollout_log_probs"].float()
    topk, on_topk = _topk(fields, settings)
    return Proposed(
        actor_log_probs=actor,
        reference_log_probs=fields["old_log_probs"].float(),
        mask=mask,
        advantage=torch.zeros_like(actor),
        topk=topk,
        reference_on_topk=on_topk,
        uniforms=corrected.uniforms(actor, mask, settings.seed, name="rollout_log_probs"),
        overlap_of_batch=topk is None,
    )


def mask_of(response_mask: Tensor) -> Tensor:
    """A response mask as booleans.

    Raises:
        ValueError: it has other numbers than 0 and 1, or is not (n, length).
    """
    check_axes(response_mask, "response_mask", "n", "length")
    mask = response_mask != 0
    if not bool((response_mask[mask] == 1).all()):
        raise ValueError("response_mask has numbers besides 0 and 1: weights have their place in rollout_is_weights")
    return mask


def _topk(fields: Batch, settings: Settings) -> tuple[TopK | None, Tensor | None]:
    """The engine's likeliest tokens and log p_ref of these, where the correction uses them and the batch has them."""
    import torch

    present = [name for name in (IDS, LOG_PROBS_ON, REFERENCE_ON) if name in fields]
    if not settings.needs_topk or not present:
        return None, None
    for name in (IDS, LOG_PROBS_ON, REFERENCE_ON):
        if name not in fields:
            raise ValueError(
                f"the batch has {present[0]} and no {name}, which verl does not compute itself: put it in, or give the "
                "correction topk: 0"
            )
    ids, log_probs, on_topk = (fields[name] for name in (IDS, LOG_PROBS_ON, REFERENCE_ON))
    check_integers(ids, IDS)
    check_same_shape(ids, check_reals(log_probs, LOG_PROBS_ON), IDS, LOG_PROBS_ON)
    check_same_shape(ids, check_reals(on_topk, REFERENCE_ON), IDS, REFERENCE_ON)
    values, order = backend.topk(log_probs.float(), settings.topk)
    order = torch.as_tensor(order)
    topk = TopK(ids.gather(-1, order).int(), values)
    return topk, on_topk.gather(-1, order).float()


def figures(found: corrected.Corrected, given: Proposed) -> dict[str, float]:
    """Figures for verl's log; `overlap/of_batch` is 1 where Ẑ is the batch's mean acceptance probability, and else 0.

    They are NaN where no token is in the mask: verl wants the same names from every process.
    """
    import dataclasses

    import torch

    live = bool(given.mask.any())
    if not live:
        given = dataclasses.replace(given, mask=torch.ones_like(given.mask))
    shown = corrected.metrics(found, given)
    if found.tokens.overlap is not None:
        shown["overlap/of_batch"] = float(given.topk is None)
    return {f"{PREFIX}{name}": value if live else float("nan") for name, value in shown.items()}
