"""The target of the advice: what a correction must keep, and what of the mismatch it may leave.

All three figures are of the tokens that the actor wrote, with r = p/q, accept probability a, weight w and advantage A
(1 where the dump has none). For corrections of sequences e^S stands in the place of r.

keep   Σ min(a·w, r)|A| / Σ r|A|: the share of the signal of exact importance weights that the update still has.
       Tokens that are dropped and weights that are cut count alike.
ess    (Σ a·w)² / (N · Σ a·w²): the effective share of the tokens.
bias   ½ Σ |r̄ − v̄| with r̄ = r/Σr and v̄ = a·w/Σa·w: the total variation between the policy's law and the effective
       law q_w ∝ q·E[m·w], which the update samples, estimated on the actor's tokens. Without a correction it is the
       TV of both policies, and with exact weights 0. The expected update is off by at most twice that times the
       largest term of a token. It is of tokens at the prefixes that the actor visits, whose law no correction of
       tokens mends.
"""

from __future__ import annotations

from dataclasses import dataclass

KEEP = 0.95
"""The share of the signal to keep, unless another is asked for."""
ESS = 0.5
"""The effective share of the tokens, likewise: above it the variance of an update is at most doubled."""


@dataclass(frozen=True)
class Target:
    """The figures that a correction must reach; those not given have their defaults, and the bias has no bound.

    Attributes:
        keep: the smallest share of the signal kept, in (0, 1].
        ess: the smallest effective share of the tokens, in (0, 1].
        bias: the largest bias left, in (0, 1].

    Raises:
        ValueError: a number is out of its range.
    """

    keep: float | None = None
    ess: float | None = None
    bias: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must lie above 0 and be at most 1, got {value:g}")

    @property
    def limits(self) -> tuple[float, float, float]:
        """The smallest keep and ess, and the largest bias."""
        return (
            KEEP if self.keep is None else self.keep,
            ESS if self.ess is None else self.ess,
            1.0 if self.bias is None else self.bias,
        )

    @property
    def sentence(self) -> str:
        """The target in words."""
        keep, ess, bias = self.limits
        whose = " (the default)" if self == Target() else ""
        said = f"keep at least {keep:.3g} of the signal at an effective sample size of at least {ess:.3g}"
        return said + (f", with a bias of at most {bias:.3g}" if self.bias is not None else whose)
