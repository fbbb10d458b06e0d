"""Figures of simulated updates from their inner products, and jackknife errors over replicates.

‖mean − g‖² of a sample is biased upwards by its variance. The squared bias here is the mean inner product of the
errors of two *independent* replicates. This estimate is unbiased, and so may come out negative: then `bias` is
nan, and `bias_sq` with its standard error gives a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.checks import check_floats, check_shape
from jackpot_sim.estimators.statistics import mean_squared_error, mean_squared_error_rescaled


@dataclass(frozen=True)
class Sampled:
    """Sampled figures, by the names of `Moments` and `bias_sq`, and the standard error of each."""

    value: dict[str, float]
    standard_error: dict[str, float]
    n_samples: int
    replicates: int


def gradient_figures(
    *, own: float, others: float, dot: float, signal: float, on_policy_variance: float, n_samples: int
) -> dict[str, float]:
    """Bias and variance from the inner products of simulated updates, by the names of `Moments`.

    Args:
        own: the mean ‖X_r‖² of an update.
        others: the mean ⟨X_r, X_r'⟩ of two independent updates.
        dot: the mean ⟨X_r, g⟩.
        signal: ‖g‖².
        on_policy_variance: the variance of one proposal of the policy.
        n_samples: the number of proposals in an update.
    """
    signal, on_policy_variance = np.float64(signal or math.nan), np.float64(on_policy_variance)
    bias_sq = (others - 2 * dot + signal) / signal
    variance = n_samples * (own - others) / on_policy_variance
    noise_to_signal = on_policy_variance / signal
    size = others / signal + variance * noise_to_signal / n_samples
    return {
        "bias_sq": float(bias_sq),
        "bias": math.sqrt(bias_sq) if bias_sq >= 0 else math.nan,
        "direction_bias": float(1 - dot / np.sqrt(others * signal)),
        "gain": float(dot / signal),
        "variance": float(variance),
        "mse": float(mean_squared_error(bias_sq, variance, noise_to_signal, n_samples)),
        "mse_rescaled": float(mean_squared_error_rescaled(dot / signal, size)),
    }


def off_diagonal(gram: Floats) -> float:
    """The mean inner product of two different replicates, from a matrix (replicates, replicates).

    Raises:
        ValueError: the matrix is not square, or of fewer than 2 replicates.
    """
    replicates = np.shape(gram)[0] if np.ndim(gram) else 0
    check_floats(gram, (replicates, replicates), "gram", "one inner product for each two replicates")
    if replicates < 2:
        raise ValueError(f"gram has shape {gram.shape}: it must hold at least 2 replicates")
    return float((gram.sum() - np.trace(gram)) / (replicates * (replicates - 1)))


def jackknife(left_out: list[float]) -> float:
    """The delete-one standard error, from a figure with each replicate left out; nan if one is not finite."""
    values = np.array(left_out)
    check_shape(values, (len(left_out),), "left_out", "one figure per replicate")
    if not np.isfinite(values).all():
        return math.nan
    return math.sqrt((len(values) - 1) * float(values.var()))


class Gram:
    """Inner products of replicates, shape (replicates, replicates), and their means with one left out."""

    def __init__(self, replicates: int) -> None:
        self.products = np.zeros((replicates, replicates))

    @cached_property
    def _sums(self) -> tuple[float, float, Floats]:
        """The total, the trace, and each replicate's share of the total, shape (replicates,)."""
        products = self.products
        of_each = products.sum(axis=0) + products.sum(axis=1) - np.diagonal(products)
        return float(products.sum()), float(np.trace(products)), of_each

    def means(self, without: int | None) -> tuple[float, float]:
        """The mean product of a replicate with itself, and that of two different ones, `without` one of them."""
        (total, own, of_each), count = self._sums, len(self.products)
        if without is not None:
            total, own, count = total - of_each[without], own - self.products[without, without], count - 1
        return own / count, (total - own) / (count * (count - 1))
