"""A batch of TRL, with what the mixin puts into it, as the objective takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jackpot_sim.core.checks import check_per_token
from jackpot_sim.core.topk import TopK
from jackpot_sim.training.objective import Proposed

if TYPE_CHECKING:
    from torch import Tensor


def trained(batch: Mapping[str, Any]) -> Tensor:
    """True on the tokens that are trained on, (B, T)."""
    present, tools = batch["completion_mask"], batch.get("tool_mask")
    mask: Tensor = (present if tools is None else present * tools).bool()
    return mask


def topk_of(batch: Mapping[str, Any]) -> TopK | None:
    """The actor's likeliest tokens of a batch, if they are stored."""
    ids = batch.get("actor_topk_ids")
    return None if ids is None else TopK(ids, batch["actor_topk_log_probs"])


def proposed(batch: Mapping[str, Any], mask: Tensor, reference: Tensor, reference_on_topk: Tensor | None) -> Proposed:
    """A batch of TRL as the objective takes it."""
    check_per_token(mask, actor_log_probs=batch["actor_log_probs"])
    topk = topk_of(batch)
    return Proposed(
        actor_log_probs=batch["actor_log_probs"].masked_fill(~mask, 0.0),
        reference_log_probs=reference,
        mask=mask,
        advantage=batch["advantages"],
        topk=topk,
        reference_on_topk=None if topk is None else reference_on_topk,
        uniforms=batch["correction_uniforms"],
        overlap_of_batch=topk is None,
    )
