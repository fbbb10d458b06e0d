"""The threshold with the least MSE at n samples: exact where the MSE is piecewise quadratic.

Between two neighbouring ratios of a state the expected update is linear, and the MSE quadratic, in
C (tis), in 1/λ (obrs) and in c1 (jackpot, overlap-tis), with the `proposed` denominator. Each state
therefore contributes a piecewise quadratic; added up over all states its pieces end at every ratio
of every state, and each piece's minimum is known in closed form. No search is needed, and the
minimiser is exact but for the rounding of sums over all ratios.

For Jackpot's λ, and for the other denominators, the MSE is not a polynomial between ratios. There the lowest local
minima of a grid that holds the ratios are each refined by finer grids; of more than a thousand ratios it holds some.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, require_uncentred
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.jackpot import ClipOn, Jackpot, OverlapTruncatedImportanceSampling
from jackpot_sim.estimators.corrections.pieces import number
from jackpot_sim.estimators.corrections.token import RejectionSampling, TruncatedImportanceSampling
from jackpot_sim.estimators.states import path
from jackpot_sim.estimators.states.cumulated import Places
from jackpot_sim.estimators.states.sorted_state import A2, A2P, AP, A, SortedState, Update, sorted_states
from jackpot_sim.estimators.statistics import Denominator, Moments

_CANDIDATES = 32
_NEARLY_ZERO = 1e-24
_GRID = 128
_BREAKS = 1000
_STARTS = 16
_FINER, _REFINEMENTS = 17, 9
_WIDENINGS, _STRIDE = 6, 4.0

_THRESHOLD: dict[type[Correction], str] = {
    TruncatedImportanceSampling: "clip",
    RejectionSampling: "lam",
    Jackpot: "c1",
    OverlapTruncatedImportanceSampling: "c1",
}


@dataclass(frozen=True)
class Best:
    """The best threshold found."""

    correction: Correction
    """The correction at that threshold."""
    threshold: float
    moments: Moments[Floats]
    """The moments at that threshold, columns of shape (1,)."""
    is_exact: bool
    """True for the global minimiser; False for the best point of a refined grid."""


def best(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    *,
    n_samples: int,
    parameter: str | None = None,
    denominator: Denominator | str = Denominator.PROPOSED,
) -> Best:
    """The threshold of `correction` that minimises the MSE with `n_samples` proposals per state.

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([[0.5, 0.3, 0.2]]), np.log([[0.2, 0.3, 0.5]])
    >>> optimum = best(p, q, np.array([[1.0, -1.0, 0.5]]), estimators.get("tis"), n_samples=10)
    >>> optimum.is_exact, round(optimum.threshold, 3)
    (True, 1.874)

    The exact method takes time O(N log N) and memory O(N) for N tokens of all states together. With few
    samples the infimum of the MSE may be that of no update at all, approached as C or c1 → 0 or λ → ∞; the
    threshold is then so far out that its MSE misses the infimum by less than 1e-12.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: tis, obrs, jackpot or overlap-tis, or the Rao-Blackwell form of one; its own value of the
            parameter is ignored.
        n_samples: proposals per state.
        parameter: the name of the threshold; by default clip of tis, lam of obrs, and c1 of the other two.
        denominator: a `Denominator` or its name; only for `proposed` is the result exact.

    Raises:
        ValueError: the correction has no such threshold or has a floor, the laws share no token, the true
            gradient is 0, or as `moments.exact`.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    require_uncentred(correction, "optimise the correction that it wraps, or compare thresholds with moments.exact")
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    parameter = parameter or _THRESHOLD.get(type(inner))
    if parameter is None or parameter not in ("clip", "lam", "c1") or parameter not in inner.parameters():
        raise ValueError(f"{correction.name} has no threshold {parameter or ''} to optimise".replace("  ", " "))
    for name, value in inner.parameters().items():
        if name != parameter and np.ndim(value):
            raise ValueError(
                f"{correction.name}: {name} must be one number, not one per state, to optimise {parameter}"
            )
    if np.any(np.asarray(inner.parameters().get("floor", 0.0)) > 0):
        raise ValueError(
            f"{correction.name}: with a floor the MSE is another function of {parameter}: leave floor at 0"
        )
    denominator = Denominator(denominator)
    pair = (policy_log_probs, actor_log_probs, advantage)
    is_exact = denominator is Denominator.PROPOSED and parameter == _THRESHOLD.get(type(inner))

    def along(thresholds: Floats) -> Moments[Floats]:
        moved = with_parameter(correction, parameter, thresholds)
        return path.exact(*pair, moved, denominator=denominator, n_samples=n_samples)

    thresholds = _vertices(pair, correction, n_samples) if is_exact else _refined(pair, correction, parameter, along)
    if not thresholds.size:
        raise ValueError("policy and actor share no token: there is no threshold to choose")
    mse = along(thresholds).mse
    _require_signal(mse)
    threshold = float(thresholds[np.nanargmin(mse)])
    return Best(with_parameter(correction, parameter, threshold), threshold, along(np.array([threshold])), is_exact)


def with_parameter(correction: Correction, parameter: str, value: float | Floats) -> Correction:
    """`correction`, or the one inside a Rao-Blackwell wrapper, with another value of a parameter."""
    if isinstance(correction, RaoBlackwell):
        return RaoBlackwell(with_parameter(correction.of, parameter, value))
    return dataclasses.replace(correction, **{parameter: value})


def _refined(
    pair: tuple[Array, Array, Array], correction: Correction, parameter: str, along: Callable[[Floats], Moments[Floats]]
) -> Floats:
    """The best points of a grid that holds the breaks of the MSE, each refined by finer grids around it."""
    breaks = _breaks(pair, correction, parameter)
    if not breaks.size:
        raise ValueError("policy and actor share no token: there is no threshold to choose")
    grid = np.union1d(np.linspace(breaks[0] - 1.0, breaks[-1] + 1.0, _GRID), breaks)
    # Points within each piece, as both of its ends may lie above what is between them.
    grid = np.union1d(grid, (grid[1:] + grid[:-1]) / 2)
    mse = _mse(along, grid)
    for _ in range(_WIDENINGS):  # the best threshold may lie beyond the breaks, or at the end of the axis
        least = int(np.argmin(mse))
        if 0 < least < len(grid) - 1:
            break
        beyond = np.linspace(0.0, _STRIDE, _GRID)[1:]
        more = grid[0] - beyond[::-1] if least == 0 else grid[-1] + beyond
        grid, mse = (
            np.concatenate([new, old] if least == 0 else [old, new])
            for new, old in ((more, grid), (_mse(along, more), mse))
        )
    at = _minima(mse)
    low, high = grid[np.maximum(at - 1, 0)], grid[np.minimum(at + 1, len(grid) - 1)]
    for _ in range(_REFINEMENTS):
        finer = np.linspace(low, high, _FINER, axis=-1)
        at = np.argmin(_mse(along, finer.ravel()).reshape(finer.shape), axis=-1)[:, None]
        low, high, best = (
            np.take_along_axis(finer, np.clip(at + step, 0, _FINER - 1), axis=-1)[:, 0] for step in (-1, 1, 0)
        )
    thresholds: Floats = np.exp(best)
    return thresholds


def _breaks(pair: tuple[Array, Array, Array], correction: Correction, parameter: str) -> Floats:
    """The logs of the thresholds where the MSE's formula changes, ascending; of very many, some, evenly."""
    found = []
    c1 = correction.parameters().get("c1", math.inf)
    for state in sorted_states(*pair):
        ratio = np.unique(np.exp(state.log_ratio[np.isfinite(state.log_ratio)]))
        if parameter == "c1" and ratio.size:
            lam = number(correction.overlap_lam or 1.0)
            ratio = state.overlap(lam) * np.append(ratio, lam)
        elif c1 < math.inf and ratio.size:
            ratio = np.concatenate([ratio, _clip_turns(state, ratio, c1)])
        found.append(np.log(ratio))
    breaks = np.unique(np.concatenate(found))
    some: Floats = breaks[np.unique(np.linspace(0, len(breaks) - 1, min(len(breaks), _BREAKS)).round().astype(int))]
    return some


def _clip_turns(state: SortedState, ratio: Floats, c1: float) -> Floats:
    """The λ at which Z(λ)·max(λ, r) passes c1 for some token, from ascending ratios, (tokens,)."""
    z = state.overlap(ratio)
    # Between ratios Z is linear in 1/λ, and λZ in λ.
    inverse = np.interp(c1 / ratio, np.append(0.0, z[::-1]), np.append(0.0, 1 / ratio[::-1]))
    turns = np.append(1 / inverse[inverse > 0], np.interp(c1, np.append(0.0, ratio * z), np.append(0.0, ratio)))
    inside: Floats = turns[(turns > 0) & np.isfinite(turns)]
    return inside


def _mse(along: Callable[[Floats], Moments[Floats]], log_thresholds: Floats) -> Floats:
    """The MSE at each threshold; inf where it has none."""
    mse = along(np.exp(log_thresholds)).mse
    _require_signal(mse)
    return np.where(np.isnan(mse), math.inf, mse)


def _minima(mse: Floats) -> Ints:
    """The places of the least value and of the lowest local minima, among them both ends of a plateau."""
    left, right = np.append(math.inf, mse[:-1]), np.append(mse[1:], math.inf)
    less, more = mse * (1 - 1e-12), mse * (1 + 1e-12)  # rounding ripples a plateau
    is_minimum = (less <= left) & (less <= right) & ((more < left) | (more < right))
    is_minimum[np.argmin(mse)] = True
    places = np.flatnonzero(is_minimum)
    lowest: Ints = places[np.argsort(mse[places], kind="stable")[:_STARTS]]
    return lowest


def _require_signal(mse: Floats) -> None:
    """Refuses cells where no threshold has an MSE."""
    if np.isnan(mse).all():
        raise ValueError("advantage gives a zero policy gradient at every state: no threshold has an MSE")


@dataclass(frozen=True)
class _Stretch:
    """Tokens `start` to `stop` of a state on each interval of x, with their law and its square.

    The law q·a·w is (law[0] + law[1]·x)·q·r^power, and q·a·w² is (Σ square[i]·x^i)·q·r^square_power.
    """

    start: Places
    stop: Places
    law: tuple[float, float]
    power: int
    square: tuple[float, float, float]
    square_power: int


def _vertices(pair: tuple[Array, Array, Array], correction: Correction, n_samples: int) -> Floats:
    """The thresholds at the smallest minima of all quadratic pieces."""
    first: Floats = np.zeros(3)
    ends, steps = [], []
    for state in sorted_states(*pair):
        breaks, stretches = _intervals(state, correction)
        costs = _costs(state, stretches, len(breaks) + 1, n_samples)
        first = first + costs[:, 0]
        ends.append(breaks)
        steps.append(np.diff(costs, axis=1))
    breaks, step = np.concatenate(ends), np.concatenate(steps, axis=1)
    usable = np.isfinite(breaks) & (breaks > 0)
    first = first + step[:, breaks <= 0].sum(axis=1)
    breaks, step = breaks[usable], step[:, usable]
    order = np.argsort(breaks)
    breaks = breaks[order]
    pieces = np.concatenate([first[:, None], first[:, None] + np.cumsum(step[:, order], axis=1)], axis=1)
    low, high = np.concatenate([[0.0], breaks]), np.concatenate([breaks, [math.inf]])
    constant, linear, quadratic = pieces
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vertex = np.where(quadratic > 0, -linear / (2 * quadratic), math.nan)
        inside = np.where((vertex > low) & (vertex < high), vertex, np.where(low > 0, low, _NEARLY_ZERO * high))
        value = constant + inside * (linear + inside * quadratic)
    value = np.where(np.isfinite(inside) & np.isfinite(value), value, math.inf)
    # The sums above carry rounding; so the caller evaluates these candidates again, each from its own sums.
    few = np.argsort(value)[:_CANDIDATES]
    candidates = inside[few][np.isfinite(value[few])]
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    return 1 / candidates if isinstance(inner, RejectionSampling) else candidates


def _intervals(state: SortedState, correction: Correction) -> tuple[Floats, list[_Stretch]]:
    """The breaks of the state's quadratic, ascending in x, and its stretches on each interval."""
    smooth = isinstance(correction, RaoBlackwell)
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    with np.errstate(over="ignore", divide="ignore"):
        ratio = np.exp(state.log_ratio)
        tokens = len(ratio)
        below = np.arange(tokens + 1)
        if isinstance(inner, TruncatedImportanceSampling):  # x = C
            return ratio, [
                _Stretch(0, below, (1.0, 0.0), 1, (1.0, 0.0, 0.0), 2),
                _Stretch(below, tokens, (0.0, 1.0), 0, (0.0, 0.0, 1.0), 0),
            ]
        if isinstance(inner, RejectionSampling):  # x = 1/λ
            square = ((0.0, 0.0, 1.0), 2) if smooth else ((0.0, 1.0, 0.0), 1)
            return 1 / ratio[::-1], [
                _Stretch(0, below[::-1], (0.0, 1.0), 1, *square),
                _Stretch(below[::-1], tokens, (1.0, 0.0), 0, (1.0, 0.0, 0.0), 0),
            ]
    assert isinstance(inner, Jackpot | OverlapTruncatedImportanceSampling)
    lam = float(inner.lam)
    z = float(state.overlap(lam))
    if isinstance(inner, OverlapTruncatedImportanceSampling):  # x = c1
        return z * ratio, [
            _Stretch(0, below, (z, 0.0), 1, (z**2, 0.0, 0.0), 2),
            _Stretch(below, tokens, (0.0, 1.0), 0, (0.0, 0.0, 1.0), 0),
        ]
    # x = c1, in units of λZ if it clips the ratio: one interval up to λZ, where the clip also caps the rejected stretch
    # r < λ.
    unit = 1.0 if inner.clip_on is ClipOn.WEIGHT else z * lam
    of_ratio = z if inner.clip_on is ClipOn.WEIGHT else 1 / lam
    turn = int(state.place(math.log(lam), True))
    split = np.concatenate([[turn], below[turn:]])
    rejected_to = np.concatenate([[0], np.full(tokens - turn + 1, turn)])
    capped_to = np.concatenate([[turn], np.zeros(tokens - turn + 1, dtype=int)])
    rejected = ((z**2, 0.0, 0.0), 2) if smooth else ((z**2 * lam, 0.0, 0.0), 1)
    capped = ((0.0, 0.0, unit**2 / lam**2), 2) if smooth else ((0.0, 0.0, unit**2 / lam), 1)
    return of_ratio * np.concatenate([[lam], ratio[turn:]]), [
        _Stretch(0, capped_to, (0.0, unit / lam), 1, *capped),
        _Stretch(0, rejected_to, (z, 0.0), 1, *rejected),
        _Stretch(np.maximum(rejected_to, turn), split, (z, 0.0), 1, (z**2, 0.0, 0.0), 2),
        _Stretch(split, tokens, (0.0, unit), 0, (0.0, 0.0, unit**2), 0),
    ]


def _costs(state: SortedState, stretches: list[_Stretch], intervals: int, n_samples: int) -> Floats:
    """The coefficients of 1, x and x² in ‖ĝ − g‖² + V/n on each interval, shape (3, intervals)."""
    top, ua, uap, ua_sq_p, u_sq_a_sq, second_moment = (np.zeros((3, intervals)) for _ in range(6))
    for stretch in stretches:
        span = (stretch.start, stretch.stop)
        law, square = np.array([*stretch.law, 0.0])[:, None], np.array(stretch.square)[:, None]
        top += law * state.top_advantage * state.top(stretch.power, *span)
        ua += law * state.sums(stretch.power, A, *span)
        uap += law * state.sums(stretch.power, AP, *span)
        ua_sq_p += law * state.sums(stretch.power, A2P, *span)
        u_sq_a_sq += _product(law, law) * state.a_sq_q_sq(2 * stretch.power, *span)
        a_sq, a_sq_p = (state.sums(stretch.square_power, factor, *span) for factor in (A2, A2P))
        second_moment += square * state.feature_sq(state.top(stretch.square_power, *span), a_sq, a_sq_p)
    estimate = Update(top, ua, uap, ua_sq_p, u_sq_a_sq)
    error_sq = state.norm_sq(state.error(estimate, np.array([[1.0], [0.0], [0.0]])), _product)
    cost: Floats = error_sq + (second_moment - state.norm_sq(estimate, _product)) / n_samples
    return cost


def _product(first: Floats, second: Floats) -> Floats:
    """The product of two linear polynomials, coefficients along the first axis."""
    return np.stack([first[0] * second[0], first[0] * second[1] + first[1] * second[0], first[1] * second[1]])
