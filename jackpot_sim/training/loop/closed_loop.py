"""Closed loops: strengths that follow the measured KL between actor and policy, and the λ of a rejection budget.

The paper sees instability return beyond 500 steps and proposes to adapt the strength of the alignment ([J] §8).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from jackpot_sim.core.checks import check_per_token
from jackpot_sim.studies.estimator_spec import Frozen

if TYPE_CHECKING:
    from torch import Tensor

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Feedback(Frozen):
    """A loop that moves a strength x against the KL.

    x ← x · exp(gain · clip(log(KL / target_kl), −1, 1)), held between `least` and `most`.

    The KL is that between policy and actor, KL(p_ref‖q) per token of the batch at hand, before its updates.
    """

    target_kl: _Positive
    """The KL that the loop aims at, nats per token."""
    gain: _Positive = 0.1
    """The largest change of log x in a step."""
    least: _Positive
    """The lower bound of x."""
    most: _Positive
    """The upper bound of x."""

    @model_validator(mode="after")
    def _ordered(self) -> Feedback:
        if self.least > self.most:
            raise ValueError(f"least must be at most most, got {self.least} and {self.most}")
        return self

    def next(self, strength: float, kl: float) -> float:
        """The strength of the next step.

        Args:
            strength: x of this step.
            kl: the KL measured in this step, nats; inf counts as far above the target, and 0 as far below it.

        Raises:
            ValueError: the KL is NaN.
        """
        if math.isnan(kl):
            raise ValueError("the measured KL is NaN: no strength can follow it")
        ratio = kl / self.target_kl
        far = math.log(ratio) if 0 < ratio < math.inf else math.copysign(1.0, kl - self.target_kl)
        return min(max(strength * math.exp(self.gain * min(max(far, -1.0), 1.0)), self.least), self.most)


class Budget(Frozen):
    """The share of tokens that OBRS rejects, in place of λ: the mean of 1 − min(1, r/λ) over the tokens of a batch.

    λ is solved for once in each batch, with r = p_ref/q. Where the target is p_new, the share moves with the updates.
    """

    rejected: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The share; with feedback, its first value."""
    feedback: Feedback | None = None
    """The loop that lets the share follow the measured KL; None keeps the share fixed."""

    @model_validator(mode="after")
    def _shares(self) -> Budget:
        if self.feedback is not None and self.feedback.most >= 1:
            raise ValueError(f"feedback.most is a share of rejected tokens: give less than 1, got {self.feedback.most}")
        return self


def lam_at(rejected: float, log_ratio: Tensor, mask: Tensor) -> float:
    """The λ at which the mean of 1 − min(1, r/λ) over the tokens of a batch is `rejected`.

    In μ = 1/λ the mean acceptance Σ min(1, μ r)/n is piecewise linear: sorted by r, with the k largest at 1, it is
    (k + μ Σ_rest r)/n.

    Args:
        rejected: a share in (0, 1).
        log_ratio: log p/q of the tokens, (n, length), nats; one of −inf is rejected at any λ.
        mask: True on tokens, (n, length).

    Raises:
        TypeError: the mask is not boolean, or the log-ratios are no real floating numbers.
        ValueError: a shape differs; no λ rejects so few, since the policy gives probability 0 to a larger share of the
            tokens; no λ rejects so many, since e^ℓ of a larger share than is left is infinite; or there is no token.
    """
    import torch

    check_per_token(mask, log_ratio=log_ratio)
    ratio = torch.sort(torch.exp(log_ratio[mask].double())).values
    if not len(ratio):
        raise ValueError("mask is False everywhere: there is no token whose rejection lam could set")
    accepted = (1 - rejected) * len(ratio)
    below = torch.cumsum(ratio, 0)  # Σ of the k smallest
    ones = torch.arange(len(ratio) - 1, -1, -1, dtype=torch.float64, device=ratio.device)
    # With the smallest k below the bend and the others at 1, the root is μ = (accepted − ones)/below.
    root = (accepted - ones) / below
    fits = torch.nonzero((root * ratio <= 1) & (root > 0))  # the k-th is below the bend indeed
    if not len(fits):
        beyond, endless = int((ratio == 0).sum()), int(torch.isinf(ratio).sum())
        if beyond >= rejected * len(ratio):
            raise ValueError(
                f"no lam rejects as few as {rejected:g} of the tokens: {beyond} of {len(ratio)} are "
                "beyond the policy, and rejected at any lam; give a larger share"
            )
        raise ValueError(
            f"no lam rejects as many as {rejected:g} of the tokens: {endless} of {len(ratio)} have an infinite "
            "importance ratio, and are kept at any lam; give a smaller share"
        )
    return float(1 / root[int(fits[-1])])
