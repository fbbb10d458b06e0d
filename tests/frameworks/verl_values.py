"""What verl computes of the batches, by its own functions; runs where verl is installed.

The rollout corrections of all its presets and rejection options, and the gradients of its policy losses in the
log-probs, from which weights and divisors follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from verl.trainer.config.algorithm import RolloutCorrectionConfig
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
from verl.workers.config.actor import ActorConfig, PolicyLossConfig

from tests.frameworks.batches import CLAMPED, batches

CORRECTIONS: dict[str, dict[str, Any]] = {
    "token-normalized": {"rollout_is": "token", "rollout_is_batch_normalize": True},
    "sequence-normalized": {"rollout_is": "sequence", "rollout_is_batch_normalize": True},
    "token_k1": {"rollout_rs": "token_k1", "rollout_rs_threshold": "0.6_1.4"},
    "token_k2": {"rollout_rs": "token_k2", "rollout_rs_threshold": 0.1},
    "token_k3": {"rollout_rs": "token_k3", "rollout_rs_threshold": 0.1},
    "seq_sum_k1": {"rollout_rs": "seq_sum_k1", "rollout_rs_threshold": "0.3_3.0"},
    "seq_mean_k1": {"rollout_rs": "seq_mean_k1", "rollout_rs_threshold": "0.85_1.1"},
    **{
        f"seq_{how}_{kind}": {"rollout_rs": f"seq_{how}_{kind}", "rollout_rs_threshold": bound}
        for kind in ("k2", "k3")
        for how, bound in (("sum", 0.4), ("mean", 0.1), ("max", 0.3))
    },
    "several": {
        "rollout_is": "token",
        "rollout_is_batch_normalize": True,
        "rollout_rs": "token_k1,seq_max_k2",
        "rollout_rs_threshold": "0.5_2.0,0.9",
    },
}
"""Corrections beside the presets, by our name for them."""

LOSSES: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "dppo_tv": {"clip_ratio_c": 1e6},
    "dppo_kl": {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 1e6},
    "sapo": {},
    "cispo": {},
    "gspo": {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
    "geo_mean": {},
}
"""Policy losses, and what their actor's configuration changes."""
MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum")


METRICS = (
    *("kl", "k3_kl", "chi2_token", "chi2_seq", "log_ppl_diff", "ppl_ratio"),
    *(f"rollout_is_{name}" for name in ("mean", "min", "max", "eff_sample_size", "oob_ratio", "batch_norm_factor")),
    *("rollout_is_ratio_fraction_high", "rollout_is_ratio_fraction_low"),
    *("rollout_rs_masked_fraction", "rollout_rs_seq_masked_fraction"),
)
"""The metrics that we have too."""


def values() -> dict[str, Any]:
    """All that verl computes, as JSON has it."""
    given = batches()
    tensors = {name: _tensors(batch) for name, batch in given.items()}
    return {
        "framework": "verl",
        "version": version("verl"),
        "batches": given,
        "presets": {
            preset: {
                "config": _config_of(preset),
                **{name: _correction(batch, _options(_config_of(preset))) for name, batch in tensors.items()},
            }
            for preset in presets()
        },
        "corrections": {
            key: {name: _correction(batch, options) for name, batch in tensors.items()}
            for key, options in CORRECTIONS.items()
        },
        "losses": {
            loss: {name: _loss(loss, "token-mean", batch, changes) for name, batch in tensors.items()}
            for loss, changes in LOSSES.items()
        },
        "bypass": {
            preset: {name: _loss("bypass_mode", "token-mean", batch, {}, preset) for name, batch in tensors.items()}
            for preset in presets()
            if preset.startswith("bypass")
        },
        "aggregation": {
            mode: {name: _aggregated(batch, mode) for name, batch in tensors.items() if name != CLAMPED}
            for mode in MODES
        },
    }


def presets() -> list[str]:
    """The names of verl's own presets."""
    return [name for name in vars(RolloutCorrectionConfig) if name.startswith(("decoupled", "bypass_p", "disabled"))]


def _config_of(preset: str) -> dict[str, Any]:
    config = getattr(RolloutCorrectionConfig, preset)()
    fields = ("rollout_is", "rollout_is_threshold", "rollout_is_batch_normalize", "rollout_rs", "rollout_rs_threshold")
    return {name: getattr(config, name) for name in (*fields, "bypass_mode", "loss_type")}


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name.startswith("rollout")}


def _tensors(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    out = {name: torch.tensor(batch[name], dtype=torch.float64) for name in ("policy", "actor", "advantage")}
    out["mask"] = torch.tensor(batch["mask"])
    out["advantage"] = out["advantage"][:, None].expand_as(out["policy"])
    return out


def _correction(batch: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    weights, mask, metrics = compute_rollout_correction_and_rejection_mask(
        batch["policy"], batch["actor"], batch["mask"], **options
    )
    return {
        "weights": None if weights is None else _rounded(weights.batch["rollout_is_weights"]),
        "mask": mask.int().tolist(),
        "metrics": {name: float(f"{metrics[f'rollout_corr/{name}']:.10g}") for name in _shown(metrics, options)},
    }


def _shown(metrics: Mapping[str, float], options: Mapping[str, Any]) -> list[str]:
    """The metrics that are stored: those that look at no correction once, where there is none."""
    off = options.get("rollout_is") is None and options.get("rollout_rs") is None
    return [name for name in METRICS if f"rollout_corr/{name}" in metrics and (off or name.startswith("rollout"))]


def _loss(
    name: str, mode: str, batch: Mapping[str, torch.Tensor], changes: Mapping[str, Any], preset: str | None = None
) -> dict[str, Any]:
    """The gradient of a loss in the log-probs, and its clipped shares."""
    policy_loss = PolicyLossConfig()
    if preset is not None:
        policy_loss = PolicyLossConfig(rollout_correction=getattr(RolloutCorrectionConfig, preset)())
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=policy_loss, **changes
    )
    # verl's trainers give the counts of the whole minibatch, before any mask that the loss itself makes.
    mask = batch["mask"]
    config.global_batch_info.update(dp_size=1, batch_num_tokens=int(mask.sum()), global_batch_size=len(mask))
    log_prob = batch["policy"].clone().requires_grad_()
    loss, metrics = get_policy_loss_fn(name)(
        old_log_prob=batch["actor"],
        log_prob=log_prob,
        advantages=batch["advantage"],
        response_mask=mask,
        loss_agg_mode=mode,
        config=config,
    )
    loss.backward()
    shares = {key: float(f"{float(metrics[key]):.10g}") for key in metrics if "clipfrac" in key}
    return {"loss": float(loss.detach()), "gradient": _rounded(log_prob.grad), "metrics": shares}


def _aggregated(batch: Mapping[str, torch.Tensor], mode: str) -> dict[str, float]:
    """The aggregate of the losses −A after verl has taken the tokens with k2 > 0.1 out of the mask.

    With the count of sequences of the whole batch, which its trainers give, and without.
    """
    _, kept, _ = compute_rollout_correction_and_rejection_mask(
        batch["policy"], batch["actor"], batch["mask"], rollout_rs="token_k2", rollout_rs_threshold=0.1
    )
    losses = -batch["advantage"] * (1 + batch["actor"])
    whole = {"batch_num_tokens": int(kept.sum()), "global_batch_size": len(kept)}
    return {
        "kept": float(agg_loss(losses, kept, mode)),
        "whole": float(agg_loss(losses, kept, mode, **whole)),
    }


def _rounded(values: torch.Tensor | None) -> list[list[float]]:
    assert values is not None
    return [[float(f"{x:.10g}") for x in row] for row in values.tolist()]
