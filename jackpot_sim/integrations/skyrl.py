"""Corrections in SkyRL, as a policy loss in its registry.

In the script that starts training, before Ray does, with the name that `trainer.algorithm.policy_loss_type` asks for:

    from jackpot_sim.integrations.skyrl import register
    register("jackpot", "{kind: jackpot, c1: 3}")

The loss is that of SkyRL's `regular` with m·w on each token. SkyRL puts its `loss_reduction` into the advantages, and
counts rejected tokens in it; `divisor` of the correction divides beside it, over the microbatch. Ẑ is the mean
acceptance probability of the microbatch: SkyRL's engines give the log-prob of the token alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from jackpot_sim.core.checks import check_reals, check_same_shape
from jackpot_sim.integrations.corrected import Loss, Settings, agreement, metrics, policy_loss, uniforms
from jackpot_sim.integrations.versions import warn_untested
from jackpot_sim.requirements import RequirementError
from jackpot_sim.training.objective import Proposed, TokenPass

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "jackpot_sim/"
"""Put before the names of figures in SkyRL's log."""


def register(name: str = "jackpot", correction: object = "jackpot", **own: object) -> None:
    """Puts a correction into SkyRL's registry of policy losses, from which its workers take it.

    Args:
        name: the value of `trainer.algorithm.policy_loss_type`.
        correction: as `Settings.of`.
        **own: likewise.

    Raises:
        RequirementError: SkyRL is not installed.
        ValueError: as `corrected_policy_loss`, or the name is taken.

    Warns:
        UntestedVersionWarning: SkyRL has another version than those that were tested.
    """
    loss = corrected_policy_loss(correction, **own)
    warn_untested("skyrl")
    try:
        registry = import_module("skyrl.backends.skyrl_train.utils.ppo_utils").PolicyLossRegistry
    except ModuleNotFoundError as error:
        raise RequirementError(f"SkyRL cannot be imported ({error}): pip install skyrl, on Python 3.12") from error
    registry.register(name, loss)


def corrected_policy_loss(correction: object = "jackpot", **own: object) -> CorrectedPolicyLoss:
    """SkyRL's policy loss under a correction.

    Args:
        correction: as `Settings.of`.
        **own: likewise.

    Raises:
        ValueError: as `Settings.of`, or the correction needs the actor's likeliest tokens, which SkyRL has not.
    """
    settings = Settings.of(correction, **own)  # type: ignore[arg-type]
    if settings.correction.subtracts_mean:
        raise ValueError(
            f"{settings.correction.name} needs the actor's likeliest tokens, which SkyRL does not hand over"
        )
    return CorrectedPolicyLoss(settings)


@dataclass(frozen=True)
class CorrectedPolicyLoss:
    """SkyRL's policy loss under a correction: a function that its workers can be sent."""

    settings: Settings
    """The correction."""

    def __call__(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        config: object,
        loss_mask: Tensor | None = None,
        rollout_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a microbatch, a sum over its tokens, and figures.

        Args:
            log_probs: log p of each token with its graph, (n, length), nats.
            old_log_probs: log p_ref, likewise.
            advantages: A over SkyRL's divisor, likewise.
            config: SkyRL's `trainer.algorithm`.
            loss_mask: 1 on the tokens that count; None: all do.
            rollout_logprobs: log q, likewise.

        Raises:
            TypeError: log-probs or advantages are no real floating numbers.
            ValueError: SkyRL hands over no log-probs of its engine, or corrects by itself too, or a shape differs.
        """
        import torch

        if rollout_logprobs is None:
            raise ValueError("SkyRL hands over no rollout_logprobs: set generator.sampling_params.logprobs=1")
        _refuse_own_correction(config)
        beside = {"old_log_probs": old_log_probs, "advantages": advantages, "rollout_logprobs": rollout_logprobs}
        for name, values in ({"log_probs": log_probs} | beside).items():
            check_same_shape(log_probs, check_reals(values, name), "log_probs", name)
        if loss_mask is not None:
            check_same_shape(log_probs, loss_mask, "log_probs", "loss_mask")
        shares = torch.ones_like(advantages) if loss_mask is None else loss_mask.to(advantages.dtype)
        mask = shares > 0
        if not bool(mask.any()):
            return 0.0 * log_probs.sum(), _named(agreement(self.settings), 0.0)
        drawn = uniforms(rollout_logprobs, mask, self.settings.seed, name="rollout_logprobs")
        given = Proposed(*(rollout_logprobs, old_log_probs, mask, advantages, None, None, drawn), overlap_of_batch=True)
        low, high = (getattr(config, name) for name in ("eps_clip_low", "eps_clip_high"))
        loss, corrected = policy_loss(
            self.settings, given, TokenPass(log_probs), Loss(clip=low, clip_high=high), shares
        )
        clipped = 0.0 if corrected.clipped is None else float(corrected.clipped[mask].double().mean())
        return loss.to(log_probs.dtype), _named(metrics(corrected, given), clipped)


def _named(figures: dict[str, float], clip_ratio: float) -> dict[str, float]:
    """Figures by names of which SkyRL takes the largest (`_max`), the smallest (`_min`) or the mean."""
    return {"clip_ratio": clip_ratio} | {PREFIX + name.replace("/", "_"): value for name, value in figures.items()}


OWN_CORRECTION = (
    *("tis_ratio_type", "sequence_mask_metric", "outlier_token_is_threshold_low", "outlier_token_is_threshold_high"),
    *("token_mask_is_threshold_low", "token_mask_is_threshold_high"),
)
"""The options of SkyRL's own correction."""


def _refuse_own_correction(config: object) -> None:
    own = getattr(config, "off_policy_correction", None)
    for name in OWN_CORRECTION:
        if getattr(own, name, None) is not None:
            raise ValueError(
                f"trainer.algorithm.off_policy_correction.{name} would correct beside this policy loss, which does "
                "not use it: set it to null"
            )
