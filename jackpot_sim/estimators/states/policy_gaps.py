"""Sums of c·q·r^k − p over stretches of a state's sorted tokens, with full digits where c·q is near p.

The tokens just above a clip c have c·q near p. Neither Σ c·q·f − Σ p·f nor c²Σ q²f² − 2cΣ pqf² + Σ p²f² would keep
the digits of their small sum. So the tables hold Σ q(r − r_k)f over the tokens above each token k, and the squares
likewise. Then Σ (p − c·q)f is Σ q(r − r_k)f + (r_k − c)Σ q·f, whose terms have the sign of f wherever r_k ≥ c. Tables
from the other end serve the tokens below c. Steps between neighbouring ratios come from differences of ℓ, which are
exact where the ratios are near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats
from jackpot_sim.estimators.states.cumulated import Coefficient, Places, Run, cumulated

_FAINT = 1e-140
"""An actor's probability whose square, times that of a ratio, would underflow: c·q is then lost beside p."""


class Gap(NamedTuple):
    """Sums over a stretch for a signed law e = c·q·r^k − p; those with A leave out the likeliest token."""

    mass: Floats
    """Σ e."""
    a: Floats
    """ΣeA."""
    ap: Floats
    """ΣeAp."""
    a_sq_p: Floats
    """ΣeA²p."""
    a_sq_e: Floats
    """Σe²A²."""


class _Ladder(NamedTuple):
    """Sums over all tokens beyond each place on one side, of their distance from the nearest of them, r_k.

    The first two have shape (4, places), for the factors 1, A, Ap and A²p, the other three (places,).
    """

    mass: Floats
    """Σ qf."""
    distance: Floats
    """Σ q|r − r_k|f."""
    mass_sq: Floats
    """Σ q²A²."""
    cross: Floats
    """Σ q²|r − r_k|A²."""
    distance_sq: Floats
    """Σ q²(r − r_k)²A²."""
    nearest: Floats
    """r_k − 1."""

    def sums(self, offset: Floats, places: Places, side: int) -> tuple[Floats, Floats]:
        """Σ q|r − c|f, (4, thresholds), and Σ q²(r − c)²A², (thresholds,), for c = 1 + offset short of r_k."""
        less = side * (self.nearest[places] - offset)
        sums = self.distance[:, places] + less * self.mass[:, places]
        return sums, self.distance_sq[places] + less * (2 * self.cross[places] + less * self.mass_sq[places])


class PolicyGaps:
    """The tables of one state.

    Args:
        p: the policy's probabilities in ascending order of r within each run, shape (tokens,).
        q: the actor's, the same shape.
        factors: 1, A, Ap and A²p, shape (4, tokens), with A = 0 at the likeliest token.
        runs: the runs of these tokens.
    """

    def __init__(self, p: Floats, q: Floats, factors: Floats, runs: Sequence[Run]) -> None:
        self._factors, self._runs = factors, runs
        # Where the actor's probability is faint, c·q − p is −p at every c that a study can ask for.
        self._p_faint, self._q = np.where(q < _FAINT, p, 0.0), np.where(q < _FAINT, 0.0, q)
        terms = p * factors
        self._policy = [cumulated(terms, runs, from_top) for from_top in (False, True)]
        with np.errstate(over="ignore"):
            self._offsets = [np.minimum(np.expm1(run.log_ratio), 1 / _FAINT) for run in runs]

    def sums(self, coefficient: Coefficient, power: int, start: Places, stop: Places, run: int) -> Gap:
        """The sums over the tokens from `start` to `stop` of a run, for a power of 0 or 1; each (thresholds,)."""
        if power == 1 or not np.any(coefficient):
            more = np.asarray(coefficient, dtype=np.float64) - 1
            policy = self._of_policy(start, stop)
            mass, a, ap, a_sq_p = more * policy
            return Gap(mass, a, ap, a_sq_p, more**2 * policy[-1])
        offset = np.asarray(coefficient, dtype=np.float64) - 1
        first = self._runs[run].first
        turn = np.clip(first + np.searchsorted(self._offsets[run], offset), start, stop)
        above, above_sq = (
            x - y for x, y in zip(self._upper.sums(offset, turn, 1), self._upper.sums(offset, stop, 1), strict=True)
        )
        sums, squares = -above, above_sq
        below: Flags = np.asarray(turn > start)
        if below.any():
            ends = self._lower.sums(offset, turn, -1), self._lower.sums(offset, start, -1)
            sums, squares = (
                total + np.where(below, x - y, 0.0) for total, x, y in zip((sums, squares), *ends, strict=True)
            )
        mass, a, ap, a_sq_p = sums
        return Gap(mass, a, ap, a_sq_p, squares)

    def _of_policy(self, start: Places, stop: Places) -> Floats:
        """Σ p·f, shape (4, thresholds), cumulated from the end that leaves the smaller part to subtract."""
        low, high = self._policy
        from_low, from_high = low[:, stop] - low[:, start], high[:, start] - high[:, stop]
        return np.where(low[0, start] <= high[0, stop], from_low, from_high)

    @cached_property
    def _upper(self) -> _Ladder:
        return self._ladder(True)

    @cached_property
    def _lower(self) -> _Ladder:
        return self._ladder(False)

    def _ladder(self, from_top: bool) -> _Ladder:
        """The tables of one side; the tokens beyond a token are those above it, if `from_top`, or below it."""
        q, faint, side, runs = self._q, self._p_faint, 1 if from_top else -1, self._runs
        a_sq = self._factors[1] ** 2
        steps, nearest = np.zeros(len(q)), np.zeros(len(q) + len(runs))
        for run, offset in zip(runs, self._offsets, strict=True):
            self._without_end(steps[run.tokens], from_top)[...] = _steps(run.log_ratio)
            own = nearest[run.places]
            (own[:-1] if from_top else own[1:])[...] = offset

        def beyond(table: Floats) -> Floats:
            """Each token's entry of a table for the tokens beyond it."""
            out = np.zeros((*table.shape[:-1], len(q)))
            for run in runs:
                self._without_end(out[..., run.tokens], from_top)[...] = table[..., run.places][..., 1:-1]
            return out

        mass, mass_sq = (cumulated(x, runs, from_top) for x in (q * self._factors, q**2 * a_sq))
        distance = cumulated(steps * beyond(mass) + side * faint * self._factors, runs, from_top)
        cross = cumulated(steps * beyond(mass_sq), runs, from_top)
        # (x + step)² = x² + step·(2x + step)
        squares = steps * (2 * beyond(cross) + steps * beyond(mass_sq)) + faint**2 * a_sq
        return _Ladder(mass, distance, mass_sq, cross, cumulated(squares, runs, from_top), nearest)

    @staticmethod
    def _without_end(tokens: Floats, from_top: bool) -> Floats:
        """The tokens of a run that have another beyond them."""
        return tokens[..., :-1] if from_top else tokens[..., 1:]


def _steps(log_ratio: Floats) -> Floats:
    """The steps between neighbouring ratios, from ascending ℓ, (tokens,); one fewer than tokens."""
    low, high = log_ratio[:-1], log_ratio[1:]
    some = low > -math.inf
    with np.errstate(over="ignore"):
        steps = np.where(some, np.exp(low) * np.expm1(high - np.where(some, low, 0.0)), np.exp(high))
    return np.minimum(steps, 1 / _FAINT)
