"""The moments of a correction over a cell of states, from one row of statistics per state.

Proposals are made at each state: tokens at an independent state, sequences after a prompt. Every exact method
gives a row of `StateStatistics` for each state, and `combine` turns the rows into the moments of the cell, as
ratios of means over states, never means of ratios. The exact moments, the path, the enumeration and the
bootstrap all use `combine`, so that each formula stands once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, cast

import numpy as np
from typing_extensions import TypeVar

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.core.backend import namespace
from jackpot_sim.core.checks import check_alike, check_axes, check_floats
from jackpot_sim.core.log_ratios import ess_fraction

Figure: TypeAlias = float | Floats
"""A figure of one cell, or an array with one for each of several cells, resamples or thresholds."""

F = TypeVar("F", float, Floats, default=float)
A = TypeVar("A", bound=Array)


class Denominator(StrEnum):
    """The divisor of the weighted sum over tokens; ĝ is the expected gradient.

    PROPOSED: all proposals. ĝ = g_w.
    ACCEPTED: the share of tokens kept, over the whole batch. ĝ_s = g_w / (Σ_s E[kept] / Σ_s E[tokens]).
    SELF_NORMALIZED: the state's own weights, a mean over tokens or, for corrections of whole sequences,
        over sequences. ĝ = g_w / E[mw]; for a token E_{q_w}[f].
    """

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    SELF_NORMALIZED = "self_normalized"


def divisor(denominator: Denominator, acceptance_rate: A, weight_mean: A) -> A:
    """D, the divisor of an update's weighted sum besides the number of proposals; the shape of the arguments.

    Args:
        denominator: the rule.
        acceptance_rate: the share of tokens kept, over the whole batch; any shape.
        weight_mean: E[Σ mw] / E[units] of the state, the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    check_alike(acceptance_rate=acceptance_rate, weight_mean=weight_mean)
    if denominator is Denominator.PROPOSED:
        return cast("A", namespace(weight_mean).ones_like(weight_mean))
    return acceptance_rate if denominator is Denominator.ACCEPTED else weight_mean


@dataclass(frozen=True)
class StateStatistics:
    """The statistics of each state; every field has shape (..., states), float64.

    Raises:
        TypeError: a field is not a numpy array of real floating numbers.
        ValueError: the shapes differ, or are ().
    """

    acceptance_rate: Floats
    """E[kept tokens] / E[tokens]; for a single token E_q[a]."""
    weight_mean: Floats
    """E[Σ mw] / E[units]; a unit is a token, or a sequence for corrections of whole sequences."""
    weight_square: Floats
    """E[Σ mw²] / E[units]."""
    grad_norm_sq: Floats
    """‖g‖², advantage²."""
    on_policy_variance: Floats
    """The variance of one proposal of the policy itself, advantage²; for a single token Σ p‖f‖² − ‖g‖²."""
    divisor: Floats
    """D of ĝ = g_w/D: 1, the batch's acceptance rate, or weight_mean."""
    error_sq: Floats
    """‖ĝ − g‖², from the difference of laws, so that a small bias keeps its digits."""
    error_dot: Floats
    """⟨ĝ − g, g⟩."""
    estimate_sq: Floats
    """‖ĝ‖². It and ⟨ĝ, g⟩ are stored too, since for a short ĝ they would follow from the errors with few digits."""
    estimate_dot: Floats
    """⟨ĝ, g⟩."""
    second_moment: Floats
    """E‖X‖² of one weighted proposal X; for SELF_NORMALIZED of X with the noise of its divisor."""
    kl_accepted: Floats
    """KL(p‖q̃) of the accepted tokens' law q̃ ∝ q·a, nats; for sequences, of visits to (prefix, token)."""
    kl_effective: Floats
    """KL(p‖q_w) of the law that the weighted update samples, q_w ∝ q·E[mw], nats; for sequences, of visits."""
    kl_prefix: Floats
    """The part of kl_effective that comes from the law of the prefixes; 0 for independent states."""
    length: Floats
    """E[tokens], 1 for a single token."""
    units: Floats
    """E[units], the units of weight_mean."""
    kept_dot_cov: Floats
    """Cov(⟨X, g_w⟩, kept tokens), the covariance of the update with the divisor of ACCEPTED."""
    length_dot_cov: Floats
    """Cov(⟨X, g_w⟩, tokens)."""
    kept_var: Floats
    """Var(kept tokens)."""
    kept_length_cov: Floats
    """Cov(kept tokens, tokens)."""
    length_var: Floats
    """Var(tokens)."""

    def __post_init__(self) -> None:
        shape = np.shape(self.acceptance_rate)
        for name, values in vars(self).items():
            check_floats(values, shape, name, "one number per state, as acceptance_rate has")
        if not shape:
            raise ValueError("acceptance_rate has shape (): it must be (..., states)")


def of_single_tokens(acceptance_rate: A, weighted_sq: A) -> dict[str, A]:
    """The columns that are trivial where a proposal is one token, from E[a] and ‖g_w‖², arrays of one shape."""
    check_alike(acceptance_rate=acceptance_rate, weighted_sq=weighted_sq)
    one, zero = acceptance_rate * 0 + 1.0, acceptance_rate * 0
    columns = {
        "kl_prefix": zero,
        "length": one,
        "units": one,
        "kept_dot_cov": weighted_sq * (1 - acceptance_rate),
        "length_dot_cov": zero,
        "kept_var": acceptance_rate * (1 - acceptance_rate),
        "kept_length_cov": zero,
        "length_var": zero,
    }
    return cast("dict[str, A]", columns)


@dataclass(frozen=True)
class Moments(Generic[F]):
    """The moments of a correction over a cell of states; see `combine` for each formula.

    A path gives arrays of shape (thresholds,), `Moments[Floats]`; all else gives floats, `Moments[float]`.
    """

    acceptance_rate: F
    kl_accepted: F
    kl_effective: F
    kl_prefix: F
    grad_norm_sq: F
    on_policy_variance: F
    bias: F
    direction_bias: F
    gain: F
    variance: F
    noise_to_signal: F
    n_samples: int | None
    mse: F
    mse_rescaled: F
    ess_fraction: F
    degenerate_states: F
    per_state: StateStatistics


def mean_squared_error(bias_sq: Figure, variance: Figure, noise_to_signal: Figure, n_samples: int) -> Figure:
    """bias² + variance · noise_to_signal / n_samples, in units of ‖g‖²; numbers, or arrays of one shape.

    Raises:
        TypeError: a figure is neither a float nor a numpy array of real floating numbers.
        ValueError: the shapes differ.
    """
    _check_figures(bias_sq=bias_sq, variance=variance, noise_to_signal=noise_to_signal)
    return bias_sq + variance * noise_to_signal / n_samples


def mean_squared_error_rescaled(gain: Figure, size: Figure) -> Floats:
    """The MSE of the best non-negative multiple of the update: 1 − gain²/size, and 1 where gain ≤ 0.

    A smaller update has less variance, so that with few samples the MSE rewards any correction that shrinks the
    update; no update at all has an MSE of 1. The rescaled MSE removes that reward: it is the MSE under the best
    learning rate (ours).

    Args:
        gain: ⟨ĝ, g⟩/‖g‖², a number or any shape.
        size: E‖update‖²/‖g‖², which is mse + 2·gain − 1; the same shape.

    Raises:
        TypeError: as `mean_squared_error`.
        ValueError: the shapes differ.
    """
    _check_figures(gain=gain, size=size)
    aligned = (gain > 0) & (size > 0)
    rescaled = 1 - np.where(aligned, gain, 0.0) ** 2 / np.where(aligned, size, 1.0)
    return np.where(np.isnan(gain) | np.isnan(size), math.nan, rescaled)


def _check_figures(**figures: Figure) -> None:
    first = next(iter(figures))
    for name, figure in figures.items():
        values = np.asarray(figure) if isinstance(figure, float | np.floating) else figure
        check_floats(values, np.shape(figures[first]), name, f"figures are all numbers, or of the shape of {first}")


def combine_cell(states: StateStatistics, denominator: Denominator | str, n_samples: int | None = None) -> Moments:
    """The moments of one cell as numbers, by `combine`, from statistics of shape (states,).

    Raises:
        ValueError: the statistics have another shape, or as `combine`.
    """
    check_axes(states.acceptance_rate, "acceptance_rate", "states")
    moments = combine(states, denominator, n_samples)
    skipped = ("n_samples", "per_state")
    names = [field.name for field in dataclasses.fields(Moments) if field.name not in skipped]
    numbers = {name: getattr(moments, name).item() for name in names}
    return Moments(**numbers, n_samples=n_samples, per_state=states)


def combine(states: StateStatistics, denominator: Denominator | str, n_samples: int | None = None) -> Moments[Floats]:
    """The moments of cells from statistics of shape (..., states); every column has shape (...).

    bias² is mean ‖ĝ − g‖² / mean ‖g‖²; direction_bias is 1 − cos(ĝ, g) with the states concatenated,
    and gain, ⟨ĝ, g⟩/‖g‖², is the share of the gradient that the update keeps; variance is that of one
    proposal per state over the on-policy one; ess_fraction is E[mw]² / E[mw²]. A ratio with denominator 0 is
    nan. For `accepted` the divisor is the acceptance rate of the states given here, which may be a resample
    of those from which ĝ was computed.

    Raises:
        ValueError: the denominator is unknown or n_samples < 1.
    """
    denominator = Denominator(denominator)
    if n_samples is not None and n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    signal = states.grad_norm_sq
    error_sq, error_dot, divisor = states.error_sq, states.error_dot, states.divisor
    estimate_sq, estimate_dot = states.estimate_sq, states.estimate_dot
    with np.errstate(divide="ignore", invalid="ignore"):
        if denominator is Denominator.ACCEPTED:
            divisor = _acceptance_rate(states)
            scale = states.divisor / divisor  # 1 unless resampled: then ĝ' = scale·ĝ
            estimate_sq, estimate_dot = scale**2 * estimate_sq, scale * estimate_dot
            error_sq = _rescaled_error(scale, error_sq, error_dot, estimate_sq - 2 * estimate_dot + signal, signal)
            error_dot = scale * error_dot + (scale - 1) * signal
        variances = _variance(states, denominator, divisor, estimate_sq)
        grad_norm_sq, noise = _mean(signal), _mean(states.on_policy_variance)
        bias_sq, noise_to_signal = _ratio(_mean(error_sq), grad_norm_sq), _ratio(noise, grad_norm_sq)
        bias, variance = np.sqrt(bias_sq), _ratio(_mean(variances), noise)
        mse = (
            bias * math.nan
            if n_samples is None
            else np.asarray(mean_squared_error(bias_sq, variance, noise_to_signal, n_samples))
        )
        gain = _ratio(_mean(estimate_dot), grad_norm_sq)
        noise_left = math.nan if n_samples is None else variance * noise_to_signal / n_samples
        size = _ratio(_mean(estimate_sq), grad_norm_sq) + noise_left
        return Moments(
            acceptance_rate=_acceptance_rate(states)[..., 0],
            kl_accepted=_mean(states.kl_accepted),
            kl_effective=_mean(states.kl_effective),
            kl_prefix=_mean(states.kl_prefix),
            grad_norm_sq=grad_norm_sq,
            on_policy_variance=noise,
            bias=bias,
            direction_bias=_one_minus_cosine(
                _mean(error_sq), _mean(error_dot), _mean(estimate_sq), _mean(estimate_dot), grad_norm_sq
            ),
            gain=gain,
            variance=variance,
            noise_to_signal=noise_to_signal,
            n_samples=n_samples,
            mse=mse,
            mse_rescaled=mean_squared_error_rescaled(gain, size),
            ess_fraction=ess_fraction(
                _mean(states.weight_mean * states.units),
                _mean(states.weight_square * states.units),
                _mean(states.units),
            ),
            degenerate_states=np.sum(
                (signal == 0) | (states.acceptance_rate == 0) | (states.weight_mean == 0), axis=-1
            ),
            per_state=states,
        )


def _mean(values: Floats) -> Floats:
    mean: Floats = np.mean(values, axis=-1)
    return mean


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """The ratio of two figures; nan where the denominator is 0."""
    return numerator / np.where(denominator == 0, math.nan, denominator)


def _variance(states: StateStatistics, denominator: Denominator, divisor: Floats, estimate_sq: Floats) -> Floats:
    """The variance of one proposal at each state, trace of the covariance in logits."""
    if denominator is Denominator.PROPOSED:
        return states.second_moment - estimate_sq
    if denominator is Denominator.SELF_NORMALIZED:
        return states.second_moment / divisor**2
    # Delta method for a sum over the batch divided by its share of kept tokens. This share fluctuates with
    # every state's masks and lengths: it is ρ + ΣδK/Σ tokens with K = kept − ρ·tokens. For one state with
    # single tokens the variance is Σ q a‖wf − ĝ‖²/Z².
    total: Floats = np.sum(states.length, axis=-1, keepdims=True)
    weighted_sq = estimate_sq * divisor**2
    share_var = states.kept_var - 2 * divisor * states.kept_length_cov + divisor**2 * states.length_var
    share_noise: Floats = np.sum(share_var, axis=-1, keepdims=True) / total**2
    coupling = (states.kept_dot_cov - divisor * states.length_dot_cov) / (divisor * total)
    return (states.second_moment - weighted_sq - 2 * coupling + estimate_sq * share_noise) / divisor**2


def _acceptance_rate(states: StateStatistics) -> Floats:
    """Kept tokens over all tokens of the states together, shape (..., 1)."""
    kept: Floats = np.mean(states.acceptance_rate * states.length, axis=-1, keepdims=True)
    tokens: Floats = np.mean(states.length, axis=-1, keepdims=True)
    return kept / tokens


def _rescaled_error(scale: Floats, error_sq: Floats, error_dot: Floats, far: Floats, signal: Floats) -> Floats:
    """‖scale·ĝ − g‖²: from the error itself where scale is near 1; elsewhere, where that would cancel, `far`."""
    near = scale**2 * error_sq + (scale - 1) * (2 * scale * error_dot + (scale - 1) * signal)
    return np.maximum(np.where(np.abs(scale - 1) < 0.5, near, far), 0.0)  # rounding may leave it below 0


def _one_minus_cosine(
    error_sq: Floats, error_dot: Floats, estimate_sq: Floats, estimate_dot: Floats, signal: Floats
) -> Floats:
    """1 − cos(ĝ, g), by Lagrange's identity where it is small, so that no digits cancel.

    The pairs (ĝ − g, g) and (ĝ, g) span the same area; the shorter pair loses fewer digits.
    """
    norms = estimate_sq * signal
    cosine = _ratio(estimate_dot, np.sqrt(norms))
    area = np.where(error_sq < estimate_sq, error_sq * signal - error_dot**2, norms - estimate_dot**2)
    small = _ratio(area, norms) / (1 + np.abs(cosine))
    return np.where(cosine > 0, np.maximum(small, 0.0), 1 - cosine)
