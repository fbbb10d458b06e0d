"""What TRL computes of the batches, by its own code; runs where TRL is installed.

The importance ratio of the sampler stands inside `_generate_and_score_completions`: the block that computes it is
taken from the method's source and run on the batches. The losses come from `_compute_loss` with a stand-in for self.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer

from tests.frameworks.batches import batches

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
DEFAULTS = {name: field.default for name, field in GRPOConfig.__dataclass_fields__.items()}
CLIP = {name: DEFAULTS[f"vllm_importance_sampling_clip_{name}"] for name in ("min", "max")}
LOSSES: dict[str, dict[str, Any]] = {
    "cispo": {"epsilon_high": 5.0},
    "sapo": {},
    "vespo": {},
    "luspo": {"importance_sampling_level": "sequence", "epsilon_low": 0.2, "epsilon_high": 0.2},
}


def values() -> dict[str, Any]:
    """All that TRL computes, as JSON has it."""
    given = batches()
    return {
        "framework": "trl",
        "version": version("trl"),
        "clip": CLIP,
        "batches": given,
        "ratios": {mode: {name: _ratio(batch, mode) for name, batch in given.items()} for mode in MODES},
        "off_policy_mask": {name: _off_policy_mask(batch) for name, batch in given.items()},
        "losses": {loss: {name: _gradient(batch, loss) for name, batch in given.items()} for loss in LOSSES},
    }


def _block() -> str:
    """The statements of TRL's method that make `vllm_importance_sampling_ratio`."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("self.vllm_importance_sampling_correction"):
            body = "\n".join(ast.unparse(each) for each in node.body)
            if "per_token_logps_diff =" in body:
                return body
    raise ValueError("TRL computes its ratio elsewhere: look it up in _generate_and_score_completions")


def _tensors(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(batch[name], dtype=torch.float64) for name in ("policy", "actor", "advantage", "mask")}


def _ratio(batch: Mapping[str, Any], mode: str) -> list[list[float]]:
    """(rows, length), or (rows, 1) for the modes of sequences."""
    given = _tensors(batch)
    names: dict[str, Any] = {
        "self": SimpleNamespace(
            vllm_importance_sampling_mode=mode,
            vllm_importance_sampling_clip_min=CLIP["min"],
            vllm_importance_sampling_clip_max=CLIP["max"],
        ),
        "completion_mask": given["mask"],
        "tool_mask": None,
        "old_per_token_logps": given["policy"],
        "sampling_per_token_logps": given["actor"],
        "torch": torch,
        "math": math,
    }
    exec(_block(), names)
    return _rounded(names["vllm_importance_sampling_ratio"])


def _off_policy_mask(batch: Mapping[str, Any]) -> list[list[float]]:
    given = _tensors(batch)
    return _rounded(
        GRPOTrainer.get_off_policy_mask(
            given["advantage"][:, None], given["policy"], given["actor"], given["mask"], off_policy_threshold=1e-4
        )
    )


def _gradient(batch: Mapping[str, Any], loss: str) -> list[list[float]]:
    """The gradient of a loss in log p_new, with the actor in the place of TRL's old policy."""
    given = _tensors(batch)
    log_probs = given["policy"].clone().requires_grad_()
    settings = {"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2} | LOSSES[loss]

    class StandIn:
        """What `_compute_loss` asks of the trainer before it has a loss."""

        args = SimpleNamespace(**DEFAULTS)
        model = SimpleNamespace(training=False)
        accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x)
        aux_loss_enabled = use_vllm = vllm_importance_sampling_correction = _entropy_bonus_enabled = False
        off_policy_mask_threshold = None
        top_entropy_quantile, beta = 1.0, 0.0
        current_gradient_accumulation_steps = 1
        loss_type = loss
        get_gamma_weights = staticmethod(GRPOTrainer.get_gamma_weights)

        def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[Any, Any, Any]:
            return log_probs, torch.zeros_like(log_probs), None

        def __getattr__(self, name: str) -> Any:
            if name in settings:
                return settings[name]
            raise _Finished(name)

    count = given["mask"].sum()
    inputs = {
        "prompt_ids": torch.zeros(len(log_probs), 1),
        "prompt_mask": torch.ones(len(log_probs), 1),
        "completion_ids": torch.zeros_like(log_probs),
        "completion_mask": given["mask"],
        "advantages": given["advantage"],
        "old_per_token_logps": given["actor"],
        "num_items_in_batch": count,
    }
    (gradient,) = torch.autograd.grad(_loss_of(StandIn(), inputs), log_probs)
    return _rounded(gradient)


class _Finished(Exception):
    """The method has a loss, and asks for what only its log needs."""


def _loss_of(stand_in: Any, inputs: Mapping[str, Any]) -> Any:
    """The policy's loss, from the frame of `_compute_loss` if it goes on to its log."""
    try:
        return GRPOTrainer._compute_loss(stand_in, None, inputs)
    except _Finished as finished:
        frame = finished.__traceback__
        while frame is not None:
            if frame.tb_frame.f_code.co_name == "_compute_loss":
                return frame.tb_frame.f_locals["loss"]
            frame = frame.tb_next
        raise


def _rounded(values: torch.Tensor) -> list[list[float]]:
    return [[float(f"{x:.10g}") for x in row] for row in values.tolist()]
