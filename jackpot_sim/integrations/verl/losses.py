"""The policy losses of verl's bypass mode, in which old_log_prob is the rollout's."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_reals, check_same_shape
from jackpot_sim.integrations import corrected
from jackpot_sim.integrations.corrected import Loss
from jackpot_sim.integrations.verl.batches import figures, mask_of
from jackpot_sim.integrations.verl.options import options_of
from jackpot_sim.record.foreign import Config
from jackpot_sim.training.objective import Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Config = None,
    rollout_is_weights: Tensor | None = None,
    *,
    named: str | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The project's loss of a micro-batch with p_new in the place of p_ref, divided as verl's `agg_loss` does.

    A correction with weights takes the place of PPO's ratio, and nothing is clipped; one that only masks leaves PPO's
    clipped ratio p_new/q, or with `loss_type` reinforce the gradient of log p_new. Ẑ is the mean acceptance
    probability of the micro-batch: verl gives a loss no likeliest tokens.

    Args:
        old_log_prob: log q in bypass mode, (n, length), nats.
        log_prob: log p_new with its graph, likewise.
        advantages: A of each token, likewise.
        response_mask: 1 on tokens, likewise.
        loss_agg_mode: verl's name of the way from tokens to one loss.
        config: verl's ActorConfig; its `policy_loss.rollout_correction` holds the options.
        rollout_is_weights: weights that the batch has already; none in bypass mode.
        named: the correction, where the name of the loss holds it.

    Raises:
        ValueError: the run is not in bypass mode, or as `options_of` and `corrected.policy_loss`; one sentence.
    """
    found = None if config is None else config.policy_loss.get("rollout_correction")
    asked: Config = {} if found is None else found
    if not asked.get("bypass_mode"):
        raise ValueError(
            "verl's policy losses see no log-probs of the rollout outside bypass mode: set "
            "algorithm.rollout_correction.bypass_mode=True and "
            "+actor_rollout_ref.actor.policy_loss.rollout_correction='${algorithm.rollout_correction}'"
        )
    if rollout_is_weights is not None:
        raise ValueError("the batch has rollout_is_weights, which this loss would weigh again: use loss_mode=vanilla")
    options = options_of(asked, named)
    mask = mask_of(response_mask)
    for name, values in (("old_log_prob", old_log_prob), ("log_prob", log_prob), ("advantages", advantages)):
        check_same_shape(mask, check_reals(values, name), "response_mask", name)
    actor = old_log_prob.detach().float()
    given = Proposed(
        actor_log_probs=actor,
        reference_log_probs=actor,
        mask=mask,
        advantage=advantages.detach().float(),
        topk=None,
        reference_on_topk=None,
        uniforms=corrected.uniforms(actor, mask, options.settings.seed, name="old_log_prob"),
        overlap_of_batch=True,
    )
    low, high = (_first(config.get(f"clip_ratio_{side}"), config.clip_ratio) for side in ("low", "high"))
    loss = Loss(clip=low, clip_high=high, bypass=True) if options.clips else Loss(clip=None, bypass=True)
    shares = _shares(actor, mask, loss_agg_mode, config)
    total, done = corrected.policy_loss(options.settings, given, TokenPass(log_prob.float()), loss, shares)
    return total, figures(done, given)


def _shares(like: Tensor, mask: Tensor, mode: str, config: Config) -> Tensor:
    """The share of each token in verl's loss, (n, length): its `agg_loss` is linear, and these are its coefficients."""
    import torch

    agg_loss = importlib.import_module("verl.trainer.ppo.core_algos").agg_loss
    with torch.enable_grad():
        each = torch.zeros_like(like, dtype=torch.float64, requires_grad=True)
        total = agg_loss(loss_mat=each, loss_mask=mask, loss_agg_mode=mode, **config.global_batch_info)
        (found,) = torch.autograd.grad(total, each)
    return found


def _first(value: float | None, otherwise: float) -> float:
    return float(otherwise if value is None else value)
