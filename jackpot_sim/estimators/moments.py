"""Exact bias, variance, MSE and ESS of a correction, in closed form over the vocabulary.

At each state s the policy gradient in logits is g_s = E_p[f] with f(x) = A(x)(e_x − p), so that
‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²). A correction (a, w) estimates it by ĝ_s, whose numerator is
g_w = E_q[a·w·f]; the denominator is an explicit choice, because frameworks disagree and expose none.

States are read in cache-sized blocks, or one by one where a state is larger, and each leaves a row of
`StateStatistics`; `combine` turns the rows into the moments of a cell, as ratios of means over states,
never means of ratios. The path, the bootstrap and this module all end in `combine`, so that each
formula stands once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import array_api_compat
import numpy as np

from jackpot_sim.core.backend import Array, floating, logsumexp, namespace, row_blocks, stop_gradient, to_numpy
from jackpot_sim.core.divergences import kl_of_checked
from jackpot_sim.core.numerics import check_pair, check_same_shape, log_ratio, overflow_to_inf
from jackpot_sim.core.obrs import log_overlap_terms
from jackpot_sim.estimators.base import Correction, TokenWeights


class Denominator(StrEnum):
    """What the weighted sum over tokens is divided by; ĝ is the expected gradient.

    PROPOSED: all tokens. ĝ = g_w.
    ACCEPTED: the tokens kept, over the whole batch. ĝ_s = g_w / mean over states of E[a].
    SELF_NORMALIZED: the state's own weights. ĝ = g_w / E[mw] = E_{q_w}[f].
    """

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    SELF_NORMALIZED = "self_normalized"


@dataclass(frozen=True)
class StateStatistics:
    """What each state contributes, every field of shape (..., states), float64."""

    acceptance_rate: Any
    """E_q[a]."""
    weight_mean: Any
    """E[mw]."""
    weight_square: Any
    """E[mw²]."""
    grad_norm_sq: Any
    """‖g‖², advantage²."""
    on_policy_variance: Any
    """Σ p‖f‖² − ‖g‖², advantage²."""
    divisor: Any
    """D, by which ĝ = g_w/D: 1, the batch's mean acceptance, or E[mw]."""
    error_sq: Any
    """‖ĝ − g‖², from the difference of laws, so that a small bias keeps its digits."""
    error_dot: Any
    """⟨ĝ − g, g⟩."""
    estimate_sq: Any
    """‖ĝ‖², and below ⟨ĝ, g⟩: of a short ĝ they would keep few digits as differences of the above."""
    estimate_dot: Any
    """⟨ĝ, g⟩."""
    second_moment: Any
    """E[m w²‖f‖²], and for SELF_NORMALIZED E[m w²‖f − ĝ‖²]."""
    kl_accepted: Any
    """KL(p‖q̃) of the accepted tokens' law q̃ ∝ q·a, nats."""
    kl_effective: Any
    """KL(p‖q_w) of the law that the weighted update really samples, q_w ∝ q·a·w, nats."""


@dataclass(frozen=True)
class Moments:
    """The moments of a correction over a cell of states; see `combine` for each formula.

    Arrays of shape (thresholds,) when they come from a path, and floats otherwise.
    """

    acceptance_rate: Any
    kl_accepted: Any
    kl_effective: Any
    grad_norm_sq: Any
    on_policy_variance: Any
    bias: Any
    direction_bias: Any
    gain: Any
    variance: Any
    noise_to_signal: Any
    n_samples: int | None
    mse: Any
    mse_rescaled: Any
    ess_fraction: Any
    degenerate_states: Any
    per_state: StateStatistics


def exact(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
) -> Moments:
    """The exact moments of `correction` over the given states.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([0.5, 0.3, 0.2]), np.log([0.2, 0.3, 0.5])
    >>> m = exact(p, q, np.array([1.0, -1.0, 0.5]), estimators.get("is"), n_samples=100)
    >>> round(m.bias, 12), round(m.variance, 3)
    (0.0, 2.299)

    A token to which the actor gives less than the smallest normal number is never proposed here, though
    the KLs still count it.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a token-level correction.
        denominator: a `Denominator` or its name.
        n_samples: proposals per state, for `mse`, which is nan without it.

    Raises:
        ValueError: a law is not normalised, the shapes differ, an advantage is not finite, a parameter
            is neither a number nor one per state, the denominator is unknown, or n_samples < 1.
    """
    denominator = Denominator(denominator)
    check_same_shape(policy_log_probs, actor_log_probs, "policy_log_probs", "actor_log_probs")
    check_same_shape(policy_log_probs, advantage, "policy_log_probs", "advantage")
    log_p, log_q, values = (stop_gradient(floating(x)) for x in (policy_log_probs, actor_log_probs, advantage))
    blocks = _Blocks(log_p, log_q, values, correction)
    divisor = None
    if denominator is Denominator.ACCEPTED:
        rates = [_expect(block.proposed(block.weigh().accept)) for block in blocks]
        divisor = float(np.mean(np.concatenate([to_numpy(rate) for rate in rates])))
    rows = [_statistics(block, denominator, divisor) for block in blocks]
    columns = {
        field.name: np.concatenate([to_numpy(getattr(row, field.name)) for row in rows], dtype=np.float64)
        for field in dataclasses.fields(StateStatistics)
    }
    return combine(StateStatistics(**columns), denominator, n_samples)


def mean_squared_error(bias_sq: Any, variance: Any, noise_to_signal: Any, n_samples: Any) -> Any:
    """bias² + variance · noise_to_signal / n_samples, in units of ‖g‖²."""
    return bias_sq + variance * noise_to_signal / n_samples


def mean_squared_error_rescaled(gain: Any, size: Any) -> Any:
    """The MSE of the best non-negative multiple of the update: 1 − gain²/size, and 1 where gain ≤ 0.

    A smaller update has less variance, so that with few samples the MSE rewards any correction that
    shrinks it; 1 is the MSE of no update at all. Here shrinking is no merit: it is what is left when
    the learning rate is chosen as well as it can be (ours).

    Args:
        gain: ⟨ĝ, g⟩/‖g‖².
        size: E‖update‖²/‖g‖², which is mse + 2·gain − 1.
    """
    aligned = (gain > 0) & (size > 0)
    rescaled = 1 - np.where(aligned, gain, 0.0) ** 2 / np.where(aligned, size, 1.0)
    return np.where(np.isnan(gain) | np.isnan(size), math.nan, rescaled)


def combine(states: StateStatistics, denominator: Denominator | str, n_samples: int | None = None) -> Moments:
    """The moments of a cell from its states, whose axis is the last.

    bias² is mean ‖ĝ − g‖² / mean ‖g‖²; direction_bias is 1 − cos(ĝ, g) with the states concatenated,
    and gain ⟨ĝ, g⟩/‖g‖² the share of the gradient that is left; variance is that of one proposal per
    state over the on-policy one; ess_fraction is E[mw]² / E[mw²]. A zero denominator is nan. For
    `accepted` the divisor is the mean acceptance of the states given here, which may be a resample of
    those from which ĝ was computed.

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
            divisor = np.mean(states.acceptance_rate, axis=-1, keepdims=True)
            scale = states.divisor / divisor  # 1 unless resampled: then ĝ' = scale·ĝ
            estimate_sq, estimate_dot = scale**2 * estimate_sq, scale * estimate_dot
            error_sq = _rescaled_error(scale, error_sq, error_dot, estimate_sq - 2 * estimate_dot + signal, signal)
            error_dot = scale * error_dot + (scale - 1) * signal
        variances = _variance(states, denominator, divisor, estimate_sq)
        grad_norm_sq, noise = _mean(signal), _mean(states.on_policy_variance)
        bias_sq, noise_to_signal = _ratio(_mean(error_sq), grad_norm_sq), _ratio(noise, grad_norm_sq)
        bias, variance = np.sqrt(bias_sq), _ratio(_mean(variances), noise)
        mse = (
            bias * math.nan if n_samples is None else mean_squared_error(bias_sq, variance, noise_to_signal, n_samples)
        )
        gain = _ratio(_mean(estimate_dot), grad_norm_sq)
        noise_left = math.nan if n_samples is None else variance * noise_to_signal / n_samples
        size = _ratio(_mean(estimate_sq), grad_norm_sq) + noise_left
        moments = Moments(
            acceptance_rate=_mean(states.acceptance_rate),
            kl_accepted=_mean(states.kl_accepted),
            kl_effective=_mean(states.kl_effective),
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
            ess_fraction=_mean(states.weight_mean) ** 2 / _mean(states.weight_square),
            degenerate_states=np.sum(
                (signal == 0) | (states.acceptance_rate == 0) | (states.weight_mean == 0), axis=-1
            ),
            per_state=states,
        )
    if moments.bias.ndim:
        return moments
    numbers = {
        field.name: getattr(moments, field.name).item()
        for field in dataclasses.fields(Moments)
        if field.name not in ("n_samples", "per_state")
    }
    return dataclasses.replace(moments, **numbers)


def _mean(values: Any) -> Any:
    return np.mean(values, axis=-1)


def _ratio(numerator: Any, denominator: Any) -> Any:
    """Their ratio, and nan, not inf, where the denominator is 0."""
    return numerator / np.where(denominator == 0, math.nan, denominator)


def _variance(states: StateStatistics, denominator: Denominator, divisor: Any, estimate_sq: Any) -> Any:
    """The variance of one proposal at each state, trace of the covariance in logits."""
    if denominator is Denominator.PROPOSED:
        return states.second_moment - estimate_sq
    if denominator is Denominator.SELF_NORMALIZED:
        return states.second_moment / divisor**2
    # Delta method for a sum over the batch divided by its count of accepted tokens. That count
    # fluctuates with every state's masks: for one state alone this is Σ q a‖wf − ĝ‖²/Z².
    rate, count = states.acceptance_rate, states.acceptance_rate.shape[-1]
    weighted_sq = estimate_sq * divisor**2
    count_noise = np.mean(rate * (1 - rate), axis=-1, keepdims=True) / count
    coupling = 2 * (1 - rate) / (count * divisor)
    return (states.second_moment - weighted_sq * (1 + coupling) + estimate_sq * count_noise) / divisor**2


def _rescaled_error(scale: Any, error_sq: Any, error_dot: Any, far: Any, signal: Any) -> Any:
    """‖scale·ĝ − g‖²: near scale 1 from the error itself, and `far` from it, where that would cancel, as given."""
    near = scale**2 * error_sq + (scale - 1) * (2 * scale * error_dot + (scale - 1) * signal)
    return np.maximum(np.where(np.abs(scale - 1) < 0.5, near, far), 0.0)  # rounding may leave it below 0


def _one_minus_cosine(error_sq: Any, error_dot: Any, estimate_sq: Any, estimate_dot: Any, signal: Any) -> Any:
    """1 − cos(ĝ, g), by Lagrange's identity where it is small, so that its digits do not cancel.

    ĝ − g and g span the same area as ĝ and g: the shorter pair loses fewer digits.
    """
    norms = estimate_sq * signal
    cosine = _ratio(estimate_dot, np.sqrt(norms))
    area = np.where(error_sq < estimate_sq, error_sq * signal - error_dot**2, norms - estimate_dot**2)
    small = _ratio(area, norms) / (1 + np.abs(cosine))
    return np.where(cosine > 0, np.maximum(small, 0.0), 1 - cosine)


@dataclass(frozen=True)
class _Block:
    """A few states, with what every formula needs of them; all (states, vocab) unless said."""

    log_p: Array
    log_q: Array
    advantage: Array
    correction: Correction

    def __post_init__(self) -> None:
        xp = namespace(self.log_p)
        p, q = xp.exp(self.log_p), xp.exp(self.log_q)
        live = q >= xp.finfo(q.dtype).smallest_normal
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "q", q)
        object.__setattr__(self, "live", live)

    p: Array = dataclasses.field(init=False)
    q: Array = dataclasses.field(init=False)
    live: Array = dataclasses.field(init=False)

    def weigh(self) -> TokenWeights:
        lam = self.correction.overlap_lam
        overlap = None
        if lam is not None:
            lam = lam[..., 0] if getattr(lam, "ndim", 0) else lam
            xp = namespace(self.log_p)
            overlap = xp.sum(xp.exp(log_overlap_terms(self.log_p, self.log_q, lam)), axis=-1, keepdims=True)
        return self.correction.weights(log_ratio(self.log_p, self.log_q), overlap)

    def proposed(self, values: Array) -> Array:
        """q·values, and 0 outside the actor's support, where values may be infinite."""
        xp = namespace(self.q)
        return xp.where(self.live, self.q * xp.where(self.live, values, 0.0), 0.0)


class _Blocks:
    """Checked cache-sized blocks over the states; iterated anew for each pass."""

    def __init__(self, log_p: Array, log_q: Array, advantage: Array, correction: Correction) -> None:
        xp = namespace(log_p, log_q, advantage)
        if log_p.ndim == 0 or log_p.shape[-1] == 0 or math.prod(log_p.shape) == 0:
            check_pair(log_p, log_q)
            raise ValueError(f"policy_log_probs has shape {tuple(log_p.shape)}: it holds no state")
        flat = (math.prod(log_p.shape[:-1]), log_p.shape[-1])
        check_parameters(correction, flat[0])
        self._laws = tuple(xp.reshape(x, flat) for x in (log_p, log_q, advantage))
        self._correction = correction

    def __iter__(self) -> Any:
        log_p, log_q, advantage = self._laws
        for rows in row_blocks(*log_p.shape):
            with overflow_to_inf():
                pair = check_pair(log_p[rows, :], log_q[rows, :])
                yield _Block(*pair, check_advantage(advantage[rows, :]), self._correction.at(rows))


def check_parameters(correction: Correction, states: int) -> None:
    """Refuses parameters that are neither numbers nor one number per state."""
    for parameter, value in correction.parameters().items():
        shape = tuple(getattr(value, "shape", ()))
        if shape not in ((), (1,), (1, 1), (states, 1)):
            raise ValueError(
                f"{correction.name}: {parameter} has shape {shape}: it must be a number or have shape ({states}, 1), "
                "one per state (a path of thresholds belongs to path.exact)"
            )


def check_advantage(advantage: Array) -> Array:
    """`advantage`, refused unless finite."""
    xp = namespace(advantage)
    if not bool(xp.all(xp.isfinite(advantage))):
        raise ValueError("advantage holds NaN or inf")
    return advantage


def _statistics(block: _Block, denominator: Denominator, batch_divisor: float | None) -> StateStatistics:
    p, advantage = block.p, block.advantage
    xp = namespace(p)
    accept, weight = block.weigh()
    kept = block.proposed(accept)
    law = kept * xp.where(block.live, weight, 0.0)
    rate, weight_mean = _expect(kept), _expect(law)
    if denominator is Denominator.SELF_NORMALIZED:
        divisor = weight_mean
    else:
        divisor = xp.ones_like(rate) * (1.0 if batch_divisor is None else batch_divisor)

    # Only a token that is never proposed has an infinite weight, and there it means nothing.
    reachable = xp.where(weight < math.inf, weight, 0.0)
    gradient = policy_gradient(p, advantage)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = gradient_under(law / divisor[:, None] - p, p, advantage)
        estimate = gradient_under(law / divisor[:, None], p, advantage)
    feature_sq = feature_norm_sq(p, advantage)
    squared = law * xp.where(block.live, weight, 0.0)
    if denominator is Denominator.SELF_NORMALIZED:
        inner = advantage * (estimate - xp.sum(p * estimate, axis=-1, keepdims=True))
        spread = feature_sq - 2 * inner + xp.sum(estimate**2, axis=-1, keepdims=True)
    else:
        spread = feature_sq
    return StateStatistics(
        acceptance_rate=rate,
        weight_mean=weight_mean,
        weight_square=_expect(squared),
        grad_norm_sq=_expect(gradient**2),
        on_policy_variance=_expect(p * feature_sq) - _expect(gradient**2),
        divisor=divisor,
        error_sq=_expect(error**2),
        error_dot=_expect(error * gradient),
        estimate_sq=_expect(estimate**2),
        estimate_dot=_expect(estimate * gradient),
        second_moment=_expect(squared * spread),
        kl_accepted=_kl_to(block.log_p, block.log_q + _log(accept)),
        kl_effective=_kl_to(block.log_p, block.log_q + _log(accept) + _log(reachable)),
    )


def _expect(terms: Array) -> Array:
    return namespace(terms).sum(terms, axis=-1)


def gradient_under(law: Array, p: Array, advantage: Array) -> Array:
    """Σ_x law(x) A(x) (e_x − p), the gradient in logits under any signed law; all (..., vocab).

    At a near-certain token 1 − p and the sum over the other tokens are what is left of nearly equal
    numbers; there both are summed over the others, so that no digit is lost.
    """
    xp = namespace(p)
    terms, top = law * advantage, _likeliest(p)
    at_top = xp.sum(xp.where(top, terms, 0.0), axis=-1, keepdims=True)
    elsewhere = xp.sum(xp.where(top, 0.0, terms), axis=-1, keepdims=True)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1, keepdims=True)
    return xp.where(top, terms * rest - p * elsewhere, terms - p * (at_top + elsewhere))


def policy_gradient(p: Array, advantage: Array) -> Array:
    """g = E_p[f]: exactly 0 where the advantage is constant; all (..., vocab)."""
    # A constant has no gradient: taken off first, it leaves no rounding behind that passes for one.
    xp = namespace(p)
    constant = xp.sum(xp.where(_likeliest(p), advantage, 0.0), axis=-1, keepdims=True)
    return gradient_under(p, p, advantage - constant)


def feature_norm_sq(p: Array, advantage: Array) -> Array:
    """‖f(x)‖² = A(x)²(1 − 2p_x + ‖p‖²) of every token; all (..., vocab)."""
    xp = namespace(p)
    others = xp.where(_likeliest(p), 0.0, p)
    rest, rest_sq = (xp.sum(x, axis=-1, keepdims=True) for x in (others, others**2))
    p_sq = xp.sum(p * p, axis=-1, keepdims=True)
    return advantage**2 * xp.where(_likeliest(p), rest**2 + rest_sq, 1 - 2 * p + p_sq)


def _likeliest(p: Array) -> Array:
    """True on one token of each state, the likeliest."""
    xp = namespace(p)
    ids = xp.arange(p.shape[-1], dtype=xp.int64, device=array_api_compat.device(p))
    return ids == xp.argmax(p, axis=-1, keepdims=True)


def _kl_to(log_p: Array, log_mass: Array) -> Array:
    """KL(p‖mass/Σ mass), in logs because a mass may be too small for its exponential; nan where nothing has mass."""
    log_total = logsumexp(log_mass, keepdims=True)
    xp = namespace(log_mass)
    there = log_total > -math.inf
    divergence = kl_of_checked(log_p, log_mass - xp.where(there, log_total, 0.0))
    return xp.where(there[..., 0], divergence, math.nan)


def _log(values: Array) -> Array:
    """log, −inf at 0 without a warning."""
    xp = namespace(values)
    return xp.where(values > 0, xp.log(xp.where(values > 0, values, 1.0)), -math.inf)
