"""The MSE as a piecewise quadratic of a threshold: C of tis and cispo, 1/λ of obrs, c1 of jackpot and overlap-tis.

Between two neighbouring ratios of a state the expected update is linear, and the MSE quadratic, in the threshold,
with the `proposed` denominator. Each state therefore contributes a piecewise quadratic; added up over all states its
pieces end at every ratio of every state, and each piece's minimum is known in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.estimators.corrections.composed import RaoBlackwell
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.jackpot import ClipOn, Jackpot, OverlapTruncatedImportanceSampling
from jackpot_sim.estimators.corrections.shaped import ClippedWeight
from jackpot_sim.estimators.corrections.token import RejectionSampling, TruncatedImportanceSampling
from jackpot_sim.estimators.states.cumulated import Places
from jackpot_sim.estimators.states.sorted_state import A2, A2P, AP, A, SortedState, Update

_NEARLY_ZERO = 1e-24
_CANDIDATES = 32
_ROUNDING = 1e-9


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


def vertices(states: Iterable[SortedState], correction: Correction, n_samples: int) -> Floats:
    """The thresholds at the smallest minima of all quadratic pieces, those whose MSEs differ by rounding alone."""
    last: Floats = np.zeros(3)
    ends, steps = [], []
    for state in states:
        breaks, stretches = _intervals(state, correction)
        costs = _costs(state, stretches, len(breaks) + 1, n_samples)
        last = last + costs[:, -1]
        ends.append(breaks)
        steps.append(np.diff(costs, axis=1))
    breaks, step = np.concatenate(ends), np.concatenate(steps, axis=1)
    usable = np.isfinite(breaks) & (breaks > 0)
    last = last - step[:, breaks == math.inf].sum(axis=1)
    breaks, step = breaks[usable], step[:, usable]
    order = np.argsort(breaks)
    breaks = breaks[order]
    # Summed from the largest x on, where the coefficients of x and x² vanish: the other way round their rounding,
    # multiplied by x², would hide the MSE.
    step = step[:, order][:, ::-1]
    pieces = np.concatenate([last[:, None], last[:, None] - np.cumsum(step, axis=1)], axis=1)[:, ::-1]
    low, high = np.concatenate([[_lowest(correction)], breaks]), np.concatenate([breaks, [math.inf]])
    constant, linear, quadratic = pieces
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vertex = np.where(quadratic > 0, -linear / (2 * quadratic), math.nan)
        inside = np.where((vertex > low) & (vertex < high), vertex, np.where(low > 0, low, _NEARLY_ZERO * high))
        value = constant + inside * (linear + inside * quadratic)
    value = np.where(np.isfinite(inside) & np.isfinite(value), value, math.inf)
    # The sums above carry rounding; so the caller evaluates these candidates again, each from its own sums.
    candidates = inside[nearly_least(value, float(np.abs(pieces).max(initial=0.0)))]
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    if isinstance(inner, ClippedWeight):
        return candidates - 1
    return 1 / candidates if isinstance(inner, RejectionSampling) else candidates


def _intervals(state: SortedState, correction: Correction) -> tuple[Floats, list[_Stretch]]:
    """The breaks of the state's quadratic, ascending in x, and its stretches on each interval."""
    smooth = isinstance(correction, RaoBlackwell)
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    with np.errstate(over="ignore", divide="ignore"):
        ratio = np.exp(state.log_ratio)
        tokens = len(ratio)
        below = np.arange(tokens + 1)
        if isinstance(inner, TruncatedImportanceSampling | ClippedWeight):  # x = C, from the floor or 1 on
            floor, lowest = _floor(inner), _lowest(inner)
            raised, first = (int(np.searchsorted(ratio, end)) if end > 0 else 0 for end in (floor, lowest))
            below = below[first:]
            return ratio[first:], [
                _Stretch(0, raised, (floor, 0.0), 0, (floor**2, 0.0, 0.0), 0),
                _Stretch(raised, below, (1.0, 0.0), 1, (1.0, 0.0, 0.0), 2),
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


def _lowest(correction: Correction) -> float:
    """The least x that the correction takes."""
    inner = correction.of if isinstance(correction, RaoBlackwell) else correction
    if isinstance(inner, ClippedWeight):
        return 1.0
    return inner.floor if isinstance(inner, TruncatedImportanceSampling) else 0.0


def _floor(correction: TruncatedImportanceSampling | ClippedWeight) -> float:
    """The least weight."""
    return correction.floor if isinstance(correction, TruncatedImportanceSampling) else 1 - correction.low


def nearly_least(values: Floats, scale: float) -> Ints:
    """The places of the finite values that may be the least, but for the rounding of sums of the size of `scale`."""
    few = np.argsort(values)[:_CANDIDATES]
    few = few[np.isfinite(values[few])]
    near: Ints = few[values[few] <= values[few[:1]] + _ROUNDING * scale]
    return near


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
