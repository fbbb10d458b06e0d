"""The threshold with the least MSE at n samples: exact where the MSE is piecewise quadratic or constant.

With the `proposed` denominator the MSE is piecewise quadratic in C (tis), in 1/λ (obrs) and in c1 (jackpot,
overlap-tis), see `quadratics`, and piecewise constant in the bound of a mask, see `kept`. No search is needed, and the
minimiser is exact but for the rounding of sums over all ratios.

For Jackpot's λ, and for the other denominators, the MSE is no polynomial between ratios. There the lowest local minima
of a grid that holds the ratios are each refined by finer grids; of more than a thousand ratios it holds some. Any other
correction with a `threshold_parameter` is measured on a coarser grid, refined around its best point.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Array, Floats, Ints
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.checks import check_alike
from jackpot_sim.core.support import BelievedLaws
from jackpot_sim.estimators.corrections.composed import RaoBlackwell, require_uncentred
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.inputs import Tokens
from jackpot_sim.estimators.corrections.jackpot import Jackpot, OverlapTruncatedImportanceSampling
from jackpot_sim.estimators.corrections.pieces import number
from jackpot_sim.estimators.corrections.shaped import ClippedWeight
from jackpot_sim.estimators.corrections.token import RejectionSampling, TruncatedImportanceSampling
from jackpot_sim.estimators.states import kept, moments, path
from jackpot_sim.estimators.states.quadratics import vertices
from jackpot_sim.estimators.states.sorted_state import SortedState
from jackpot_sim.estimators.states.tokens import tokens_of_states
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine

_GRID = 128
_BREAKS = 1000
_STARTS = 16
_FINER, _REFINEMENTS = 17, 9
_WIDENINGS, _STRIDE = 6, 4.0
_COARSE, _ROUNDS = 48, 3
"""The points of the grid where each costs a pass over all tokens."""
_HELD = 2**21
"""The most tokens of a cell that is held sorted, in 300 bytes a token; a larger one is sorted in every pass."""

_QUADRATIC = (
    TruncatedImportanceSampling,
    ClippedWeight,
    RejectionSampling,
    Jackpot,
    OverlapTruncatedImportanceSampling,
)

Laws: TypeAlias = tuple[Array, Array, Array]
"""log p, log q and A, shape (..., vocab)."""


@dataclass(frozen=True)
class Best:
    """The best threshold found."""

    correction: Correction
    """The correction at that threshold."""
    parameter: str
    """The name of the threshold."""
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

    The exact method takes time O(N log N) and memory O(N) for N tokens of all states together; of several corrections
    `SortedCell` sorts the states once. Of the thresholds of a mask that keep the same tokens the result is the
    geometric middle, and a band moves its upper end alone. With few samples the infimum of the MSE may be that of no
    update at all, approached as C or c1 → 0 or λ → ∞; the threshold is then so far out that its MSE misses the infimum
    by less than 1e-12.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a correction of single tokens with a `threshold_parameter`, or the Rao-Blackwell form of one; its
            own value of the parameter is ignored.
        n_samples: proposals per state.
        parameter: the name of the threshold, by default the correction's own; or lam of jackpot or overlap-tis.
        denominator: a `Denominator` or its name; only for `proposed` is the result exact.

    Raises:
        ValueError: the correction has no such threshold, the laws share no token, the true gradient is 0, or as
            `moments.exact`.
    """
    cell = SortedCell(policy_log_probs, actor_log_probs, advantage)
    return cell.best(correction, n_samples=n_samples, parameter=parameter, denominator=denominator)


class SortedCell:
    """The states of a cell, sorted once for the best thresholds of several corrections; arguments as in `best`."""

    def __init__(
        self,
        policy_log_probs: Array,
        actor_log_probs: Array,
        advantage: Array,
        believed: BelievedLaws | None = None,
    ) -> None:
        """Takes `believed` as `moments.exact` does; with it no threshold is exact."""
        first, second, third = check_alike(
            policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage
        )
        self._laws, self._believed = (first, second, third), believed
        self._states = path.Sorted(self._laws, hold=math.prod(third.shape) <= _HELD)

    def best(
        self,
        correction: Correction,
        *,
        n_samples: int,
        parameter: str | None = None,
        denominator: Denominator | str = Denominator.PROPOSED,
    ) -> Best:
        """The best threshold of a correction, by the arguments of the function `best`."""
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        require_uncentred(correction, "optimise the correction that it wraps, or compare thresholds with moments.exact")
        denominator = Denominator(denominator)
        inner = correction.of if isinstance(correction, RaoBlackwell) else correction
        parameter = _chosen(correction, inner, parameter)
        plain = denominator is Denominator.PROPOSED and self._believed is None
        has_path = self._believed is None and _has_path(inner, plain)
        own = parameter == inner.threshold_parameter

        def along(values: Floats) -> Moments[Floats]:
            if not has_path:
                every = [with_parameter(correction, parameter, each) for each in values.tolist()]
                return _together(self._laws, every, denominator, n_samples, self._believed)
            moved = with_parameter(correction, parameter, values)
            return path.of_sorted(self._states, moved, denominator=denominator, n_samples=n_samples)

        is_exact = own and plain and (has_path or _keeps_from(inner))
        if is_exact and has_path:
            values = vertices(self._states, correction, n_samples)
        elif is_exact:
            values = _allowed(kept.thresholds(self._laws, self._states, inner, n_samples), inner, parameter)
        elif has_path:
            values = _refined(self._states, correction, parameter, along)
        else:
            told = self._believed or BelievedLaws(*self._laws[:2])
            tokens = tokens_of_states(told.policy_log_probs, told.actor_log_probs, inner, self._laws[2])
            values = _searched(inner, parameter, _grid(inner, parameter, tokens), along)
        if not values.size:
            raise ValueError("policy and actor share no token: there is no threshold to choose")
        found = along(values)
        _require_signal(found.mse)
        at = int(np.nanargmin(found.mse))
        best, value = with_parameter(correction, parameter, float(values[at])), float(values[at])
        return Best(best, parameter, value, _only(found, at, denominator), is_exact)


def _chosen(correction: Correction, inner: Correction, parameter: str | None) -> str:
    """The name of the threshold to optimise: the correction's own, or lam beside it."""
    beside = ("lam",) if inner.overlap_lam is not None else ()
    parameter = parameter or inner.threshold_parameter
    if parameter is None or parameter not in (inner.threshold_parameter, *beside):
        raise ValueError(f"{correction.name} has no threshold {parameter or ''} to optimise".replace("  ", " "))
    for name, value in inner.parameters().items():
        if name != parameter and np.ndim(value):
            raise ValueError(
                f"{correction.name}: {name} must be one number, not one per state, to optimise {parameter}"
            )
    return parameter


def _has_path(correction: Correction, plain: bool) -> bool:
    """True where thresholds are measured by `path`; a grid of C would pass below a floor."""
    bounded = isinstance(correction, ClippedWeight) or getattr(correction, "floor", 0.0) > 0
    return isinstance(correction, _QUADRATIC) and (plain or not bounded)


def with_parameter(correction: Correction, parameter: str, value: float | Floats) -> Correction:
    """`correction`, or the one inside a Rao-Blackwell wrapper, with another value of a parameter."""
    if isinstance(correction, RaoBlackwell):
        return RaoBlackwell(with_parameter(correction.of, parameter, value))
    return dataclasses.replace(correction, **{parameter: value})


def _keeps_from(correction: Correction) -> bool:
    """True for a mask that tells at which threshold it keeps a token."""
    return type(correction).kept_from is not Correction.kept_from


def _allowed(thresholds: Floats, correction: Correction, parameter: str) -> Floats:
    """Those of the thresholds that the correction takes; its own value where all are alike, as none changes a mask."""
    if not thresholds.size:
        return np.array([float(correction.parameters()[parameter])])
    return np.array([each for each in thresholds.tolist() if _moved(correction, parameter, each) is not None])


def _moved(correction: Correction, parameter: str, value: float) -> Correction | None:
    """The correction at another threshold; None where it refuses that, as a band does whose ends would cross."""
    try:
        return with_parameter(correction, parameter, value)
    except ValueError:
        return None


def _together(
    laws: Laws, corrections: list[Correction], denominator: Denominator, n_samples: int, believed: BelievedLaws | None
) -> Moments[Floats]:
    """The moments of several corrections as those of a path, by passes over all tokens."""
    found = moments.measure(*laws, corrections, denominators=[denominator], believed=believed)
    rows = [each[denominator].per_state for each in found]
    columns = {
        field.name: np.stack([getattr(row, field.name) for row in rows])
        for field in dataclasses.fields(StateStatistics)
    }
    return combine(StateStatistics(**columns), denominator, n_samples)


def _only(found: Moments[Floats], at: int, denominator: Denominator) -> Moments[Floats]:
    """The moments at one of the thresholds, columns of shape (1,)."""
    columns = {name: values[at : at + 1] for name, values in vars(found.per_state).items()}
    return combine(StateStatistics(**columns), denominator, found.n_samples)


def _grid(correction: Correction, parameter: str, tokens: Tokens) -> Floats:
    """Thresholds around the default; of a mask, quantiles of the tokens' own, each a little above it."""
    enters = correction.kept_from(correction.checked(tokens))
    if enters is not None:
        own = np.asarray(to_numpy(enters), dtype=np.float64)
        own = own[np.isfinite(own) & (own > 0)]
        if own.size:
            return np.quantile(own, np.linspace(0.0, 1.0, _COARSE)) * (1 + 1e-9)
    default = next(each.default for each in dataclasses.fields(correction) if each.name == parameter)
    centre = float(default) if isinstance(default, int | float) and default > 0 else 1.0
    floor = getattr(correction, "floor", 0.0)
    return np.append(centre * np.geomspace(1e-3, 1e3, _COARSE), [floor] if floor > 0 else [])


def _searched(
    correction: Correction, parameter: str, grid: Floats, along: Callable[[Floats], Moments[Floats]]
) -> Floats:
    """The best point of a grid, and of finer ones around it; points that the correction refuses are left out."""
    tried, mse = np.zeros(0), np.zeros(0)
    for _ in range(_ROUNDS):
        grid = np.setdiff1d(grid, tried)
        if not grid.size or not (grid := _allowed(grid, correction, parameter)).size:
            break
        tried, mse = np.append(tried, grid), np.append(mse, _without_nan(along(grid).mse))
        order = np.argsort(tried)
        tried, mse = tried[order], mse[order]
        least = int(np.argmin(mse))
        grid = np.geomspace(tried[max(least - 1, 0)], tried[min(least + 1, len(tried) - 1)], _FINER)
    return tried[least : least + 1] if tried.size else tried


def _refined(
    states: Iterable[SortedState],
    correction: Correction,
    parameter: str,
    along: Callable[[Floats], Moments[Floats]],
) -> Floats:
    """The best points of a grid that holds the breaks of the MSE, each refined by finer grids around it."""
    breaks = _breaks(states, correction, parameter)
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


def _breaks(states: Iterable[SortedState], correction: Correction, parameter: str) -> Floats:
    """The logs of the thresholds where the MSE's formula changes, ascending; of very many, some, evenly."""
    found = []
    c1 = correction.parameters().get("c1", math.inf)
    for state in states:
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
    return _without_nan(along(np.exp(log_thresholds)).mse)


def _without_nan(mse: Floats) -> Floats:
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
