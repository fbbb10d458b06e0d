"""Closed forms when the log-ratio is Gaussian: what logit noise does in a large vocabulary.

Under the actor ℓ ~ N(−σ²/2, σ²), so that E_q[e^ℓ] = 1, and under the policy ℓ ~ N(σ²/2, σ²). Then, at λ = 1,

    KL(p‖q) = σ²/2,    Z = 2Φ(−σ/2),    KL(p‖q̃) = log Z + σφ(σ/2) + (σ²/2)Φ(σ/2).

For small σ the acceptance rate is 1 − √(KL/π) and rejection lowers the KL only to
1/2 − 1/(2π) ≈ 0.34 of what it was (ours).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, log_ndtr, ndtr

SMALL_NOISE_KL_RATIO = 0.5 - 0.5 / math.pi
"""lim KL(p‖q̃) / KL(p‖q) as σ → 0."""


def kl(sigma: ArrayLike) -> NDArray[np.float64]:
    """KL(p‖q) = σ²/2, nats."""
    return np.asarray(np.square(_scale(sigma)) / 2)


def overlap(sigma: ArrayLike) -> NDArray[np.float64]:
    """Z(1) = 2Φ(−σ/2)."""
    return np.asarray(2 * ndtr(-_scale(sigma) / 2))


def kl_accepted(sigma: ArrayLike) -> NDArray[np.float64]:
    """KL(p‖q̃) at λ = 1, nats."""
    sigma = _scale(sigma)
    density = np.exp(-np.square(sigma) / 8) / math.sqrt(2 * math.pi)
    # Z = 1 − erf(σ/√8): the log of a Z rounded near 1 would drown the σ² that is left of a small σ.
    near_one = np.log1p(-erf(np.minimum(sigma, 1) / math.sqrt(8)))
    log_z = np.where(sigma < 1, near_one, math.log(2) + log_ndtr(-sigma / 2))
    return np.asarray(log_z + sigma * density + np.square(sigma) / 2 * ndtr(sigma / 2))


def _scale(sigma: ArrayLike) -> NDArray[np.float64]:
    scale = np.asarray(sigma, dtype=np.float64)
    if not np.all((scale >= 0) & np.isfinite(scale)):
        raise ValueError(f"sigma must be finite and not negative, got {scale}")
    return scale
