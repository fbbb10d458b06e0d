"""Closed forms for a Gaussian log-ratio: the effect of logit noise in a large vocabulary.

Under the actor ℓ ~ N(−σ²/2, σ²), so that E_q[e^ℓ] = 1, and under the policy ℓ ~ N(σ²/2, σ²). Then, at λ = 1,

    KL(p‖q) = σ²/2,    Z = 2Φ(−σ/2),    KL(p‖q̃) = log Z + σφ(σ/2) + (σ²/2)Φ(σ/2).

For small σ the acceptance rate is 1 − √(KL/π) and rejection lowers the KL only to
1/2 − 1/(2π) ≈ 0.34 of its value (ours).

Functions are elementwise: σ and the results have the same shape.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, gammainc, log_ndtr, ndtr

from jackpot_sim.core.numerics import exp_remainder

SMALL_NOISE_KL_RATIO = 0.5 - 0.5 / math.pi
"""lim KL(p‖q̃) / KL(p‖q) as σ → 0."""


def kl(sigma: ArrayLike) -> NDArray[np.float64]:
    """KL(p‖q) = σ²/2, nats."""
    return np.asarray(np.square(_scale(sigma)) / 2)


def overlap(sigma: ArrayLike) -> NDArray[np.float64]:
    """Z(1) = 2Φ(−σ/2)."""
    return np.asarray(2 * ndtr(-_scale(sigma) / 2))


def total_variation(sigma: ArrayLike) -> NDArray[np.float64]:
    """TV(p, q) = 1 − Z(1) = erf(σ/√8), to its last digit even where Z rounds to 1."""
    return np.asarray(erf(_scale(sigma) / math.sqrt(8)))


def kl_accepted(sigma: ArrayLike) -> NDArray[np.float64]:
    """KL(p‖q̃) at λ = 1, nats."""
    sigma = _scale(sigma)
    density = np.exp(-np.square(sigma) / 8) / math.sqrt(2 * math.pi)
    plain = math.log(2) + log_ndtr(-sigma / 2) + sigma * density + np.square(sigma) / 2 * ndtr(sigma / 2)
    # For small σ with E = erf(σ/√8) = 1 − Z the terms of order σ cancel: σφ(σ/2) − E = −γ(3/2, σ²/8)/Γ(3/2), and
    # log Z + E is the remainder of the exponential at log Z, with another sign.
    small = np.minimum(sigma, 1)
    missing = erf(small / math.sqrt(8))
    cancelled = gammainc(1.5, np.square(small) / 8) + np.asarray(exp_remainder(np.asarray(np.log1p(-missing))))
    near_one = np.square(small) / 4 * (1 + missing) - cancelled
    return np.asarray(np.where(sigma < 1, near_one, plain))


def _scale(sigma: ArrayLike) -> NDArray[np.float64]:
    scale = np.asarray(sigma, dtype=np.float64)
    if not np.all((scale >= 0) & np.isfinite(scale)):
        raise ValueError(f"sigma must be finite and not negative, got {scale}")
    return scale
