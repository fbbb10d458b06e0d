"""Functions that hold to the signatures of verl 0.9.1, for tests where it is not installed.

`test_verl_package` compares them with verl's own. Only what our modules and their tests call is here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

POLICY_LOSS_REGISTRY: dict[str, Any] = {}


def register_policy_loss(name: str) -> Callable[[Any], Any]:
    def decorator(func: Any) -> Any:
        POLICY_LOSS_REGISTRY[name] = func
        return func

    return decorator


def get_policy_loss_fn(name: Any) -> Any:
    if name not in POLICY_LOSS_REGISTRY:
        raise ValueError(f"Unsupported loss mode: {name}")
    return POLICY_LOSS_REGISTRY[name]


def agg_loss(
    loss_mat: Tensor,
    loss_mask: Tensor,
    loss_agg_mode: str,
    dp_size: int = 1,
    batch_num_tokens: int | None = None,
    global_batch_size: int | None = None,
    loss_scale_factor: int | None = None,
) -> Tensor:
    kept = torch.where(loss_mask.bool(), loss_mat, 0.0)
    counts = loss_mask.sum(-1)
    if loss_agg_mode == "token-mean":
        return kept.sum() / (counts.sum() if batch_num_tokens is None else batch_num_tokens) * dp_size
    rows = (counts > 0).sum() if global_batch_size is None else global_batch_size
    of_rows = kept.sum(-1)
    if loss_agg_mode == "seq-mean-token-mean":
        of_rows = of_rows / (counts + 1e-8)
    total = of_rows.sum() / rows * dp_size
    if loss_agg_mode == "seq-mean-token-sum-norm":
        total = total / (loss_mask.shape[-1] if loss_scale_factor is None else loss_scale_factor)
    return total


def compute_policy_loss_vanilla(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Without the dual clip, which no ratio of these tests reaches."""
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), {}


def compute_rollout_corr_metrics_from_logprobs(
    log_prob: Tensor, rollout_log_prob: Tensor, response_mask: Tensor
) -> dict[str, float]:
    return {"rollout_corr/kl": float((rollout_log_prob - log_prob)[response_mask.bool()].mean())}


def compute_rollout_correction_and_add_to_batch(batch: Any, rollout_corr_config: Any) -> tuple[Any, dict[str, Any]]:
    return batch, {"rollout_corr/kl": 0.0}


def validate_config(config: Any, use_reference_policy: bool, use_critic: bool) -> None: ...


def actor_config(policy_loss: dict[str, Any], **changes: Any) -> Any:
    """What our losses read of verl's ActorConfig."""
    fields = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2} | changes
    return Fields(policy_loss=policy_loss, global_batch_info={}, **fields)


class Fields(SimpleNamespace):
    """An object with fields and `get`, as verl's configurations are."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


MODULES: dict[str, tuple[str, ...]] = {
    "verl.trainer.ppo.core_algos": (
        *("POLICY_LOSS_REGISTRY", "register_policy_loss", "get_policy_loss_fn", "agg_loss"),
        "compute_policy_loss_vanilla",
    ),
    "verl.trainer.ppo.rollout_corr_helper": (
        "compute_rollout_corr_metrics_from_logprobs",
        "compute_rollout_correction_and_add_to_batch",
    ),
    "verl.utils.config": ("validate_config",),
}
"""The names of verl's that are stood in for, by module."""


def modules() -> dict[str, ModuleType]:
    """Modules of verl that hold the stand-ins, by their paths."""
    found: dict[str, ModuleType] = {}
    for path, names in MODULES.items():
        module = ModuleType(path)
        for name in names:
            setattr(module, name, globals()[name])
        found[path] = module
    return found
