"""λ from an acceptance budget, exactly.

With μ = 1/λ the overlap Z = Σ min(q, μp) is concave, piecewise linear and non-decreasing in μ. Every
tangent meets the target at or left of the root. So after one step from any start Newton's method climbs
in μ (λ falls), and tokens leave {p < λq} at every step and never return. On the root's own piece it is
exact: λ = P(p < λq) / (ā − Q(p ≥ λq)). The number of steps is finite, and no tolerance is needed.

Short states are solved many at a time. A long state, or a whole batch that shares one λ, is read in
cache-sized tiles: a small sample gives the start, one pass gives a tangent, a second pass picks out the
few tokens that change sides near the tangent's root, and Newton's method ends among those. A poor start
costs passes, not accuracy. At most `_STORED` probabilities of each law are held.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import array_api_compat
import numpy as np

from jackpot_sim.core.arrays import Array
from jackpot_sim.core.backend import BLOCK_ELEMENTS, as_array, floating, into, namespace, row_blocks, stop_gradient
from jackpot_sim.core.checks import check_same_shape, check_shape, check_total, require_vocabulary

ATTAINABILITY_TOLERANCE = 1e-12
"""The share of the attainable maximum by which an acceptance rate may miss it and still mean the maximum."""

_SAMPLE = 2048
_STORED = 1 << 20
_TILE = 1 << 18
"""The number of tokens that are worked on at a time where probabilities are held: fewer calls, each of one pass."""
_HEAVY = 8.0
"""The probability, in units of the mean one, above which every token of the actor is in the sample."""
_LEVEL = 1e-3
"""The least share of a mass that is known well enough as a difference from the whole."""
_NEAR = 0.25
"""The longest Newton step, relative to λ, after which the tokens that it passes are picked out."""


def solve_lam(
    policy_log_probs: Array, actor_log_probs: Array, acceptance_rate: float | Array, per_state: bool = True
) -> Array:
    """The λ at which OBRS accepts a share `acceptance_rate` of the tokens ([J] Thm 3.4, with its edges).

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        acceptance_rate: ā in (0, q(supp p)]: a number or, with `per_state`, an array of shape (...).
        per_state: one λ for each state; otherwise the one λ at which the *mean* over states is ā.

    Returns:
        λ, shape (...), or () without `per_state`. At the attainable maximum, where Z is flat, it is
        min r over the shared support.

    Raises:
        ValueError: ā is not attainable (the error gives the maximum), a law is not normalised, the
            shapes differ, or the supports are disjoint.
    """
    log_p, log_q = (
        stop_gradient(floating(each, name))
        for each, name in ((policy_log_probs, "policy_log_probs"), (actor_log_probs, "actor_log_probs"))
    )
    check_same_shape(log_p, log_q, "policy_log_probs", "actor_log_probs")
    require_vocabulary(log_p, "policy_log_probs")
    xp = namespace(log_p, log_q)
    shape, vocab = tuple(log_p.shape[:-1]), log_p.shape[-1]
    states = math.prod(shape)
    if states == 0:
        raise ValueError(f"policy_log_probs has shape {tuple(log_p.shape)}: it holds no state")
    rate = as_array(acceptance_rate, log_p)
    if not per_state and rate.ndim > 0:
        raise ValueError("acceptance_rate must be a single number when per_state is False")
    if rate.ndim:
        check_shape(rate, shape, "acceptance_rate", "a number, or one per state")
    if not bool(xp.all(rate >= xp.finfo(rate.dtype).smallest_normal)):
        raise ValueError(f"acceptance_rate must be positive, got {acceptance_rate}")
    log_p, log_q = xp.reshape(log_p, (states, vocab)), xp.reshape(log_q, (states, vocab))
    # A law may overflow before the checks refuse it, and inf · 0 is then nan; p/q may divide by 0.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if not per_state:
            return as_array(_Tokens(log_p, log_q).solve(float(rate)), log_p)
        rates = xp.reshape(xp.broadcast_to(rate, shape), (states,))
        if 2 * vocab > BLOCK_ELEMENTS:
            buffers = _buffers(log_p, vocab)
            each = [slice(i, i + 1) for i in range(states)]
            lams = [_Tokens(log_p[i, :], log_q[i, :], buffers).solve(float(rates[i.start])) for i in each]
            return xp.reshape(xp.asarray(lams, dtype=log_p.dtype, device=log_p.device), shape)
        blocks = [_solve_rows(log_p[rows, :], log_q[rows, :], rates[rows]) for rows in row_blocks(states, vocab)]
    return xp.reshape(xp.concat(blocks), shape)


def _solve_rows(log_p: Array, log_q: Array, rate: Array) -> Array:
    """The λ of every row of a block, shape (rows,)."""
    xp = namespace(log_p)
    p, q = xp.exp(log_p), xp.exp(log_q)
    check_total(xp.sum(p, axis=-1), "policy_log_probs")
    check_total(xp.sum(q, axis=-1), "actor_log_probs")
    attainable, lowest = _shared(p, q)
    at_maximum = _at_maximum(rate, attainable)
    lam, first = 2 / rate, True
    while True:
        linear = xp.astype(p < lam[:, None] * q, p.dtype)
        slope, rest = xp.vecdot(linear, p), rate - xp.vecdot(1 - linear, q)
        meets = (slope > 0) & (rest > 0)
        root = xp.where(meets, slope / xp.where(meets, rest, 1.0), lam)
        if not first and not bool(xp.any(root < lam)):
            return xp.where(at_maximum, lowest, lam)
        lam, first = root if first else xp.minimum(root, lam), False


def _newton(
    p: Array, q: Array, target: float, lam: float, level: float = 0.0, slope: float = 0.0, within: float = 0.0
) -> float:
    """The root λ of level + slope/λ + Σ min(q, p/λ) = target, from any start; p and q are flat.

    The last step may be as short as `within`, relative to λ; the result is then not exact.
    """
    xp = namespace(p)
    first = True
    while True:
        linear = xp.astype(p < lam * q, p.dtype)
        root = _tangent_root(level + float((1 - linear) @ q), slope + float(linear @ p), target, lam)
        if not first and not root < lam:
            return lam
        short = not first and root > lam * (1 - within)
        lam, first = root, False
        if short:
            return lam


def _tangent_root(level: float, slope: float, target: float, otherwise: float) -> float:
    """λ at level + slope/λ = target; `otherwise` where no such λ exists or rounding hides it."""
    return slope / (target - level) if slope > 0 and target > level else otherwise


def _buffers(like: Array, tokens: int) -> tuple[Array, ...] | None:
    """Reusable memory for p, q and p/q, (tokens,) each, as fresh pages cost more than exp; None beyond `_STORED`."""
    if tokens > _STORED:
        return None
    device = array_api_compat.device(like)
    return tuple(namespace(like).empty((tokens,), dtype=like.dtype, device=device) for _ in range(3))


class _Tile(NamedTuple):
    """Some tokens that share one λ; flat arrays."""

    p: Array
    q: Array
    ratio: Array
    """p/q; inf or nan where q is 0, and such a token is never linear."""
    mass: float
    """Σq."""


class _Tokens:
    """The tokens that share one λ, read as flat tiles.

    The first pass checks the laws. With `buffers` it also keeps the tiles; without them every pass
    exponentiates again.
    """

    def __init__(self, log_p: Array, log_q: Array, buffers: tuple[Array, ...] | None = None) -> None:
        self._xp = namespace(log_p)
        self._states, self._vocab = log_p.shape
        self._log_p, self._log_q = (self._xp.reshape(x, (-1,)) for x in (log_p, log_q))
        self._buffers = buffers or _buffers(log_p, self._log_p.shape[0])
        self._tiles: list[_Tile] = []
        self._checked = False

    def solve(self, rate: float) -> float:
        """The λ at which the mean acceptance is `rate`."""
        target = rate * self._states
        near = 2 * target * _tolerance(self._log_p)
        highest = 2 / rate  # Z ≤ P/λ, and the checks let P miss 1 by less than this
        lam, first = (self._guess if self._buffers is None else self._guess_of_stored)(rate, highest), True
        while True:
            level, slope = self._sums(lam)
            root = _tangent_root(level, slope, target, highest)
            if slope <= 0 or (not first and root >= lam):
                lowest = self._lowest_at_maximum(rate)
                if lowest is not None or not first:
                    return lam if lowest is None else lowest
            falls, step = root <= lam, abs(root / lam - 1)
            first = first and not falls
            # The tangent falls short of the root by the order of its step squared.
            low = root / (1 + max(1e-3, min(step, 8 * step**2))) if falls else lam
            # A long fall passes few tokens if little mass is linear; a step up may pass any number.
            passed = step * (slope / self._states if falls else 1.0)
            few = self._between(low, max(lam, root)) if passed <= _NEAR else None
            if few is None:
                # From far right of the root a tangent overshoots: take half of its step, in log λ.
                lam = root if falls else math.sqrt(lam) * math.sqrt(root)
                continue
            # The few are linear at max(lam, root) and saturated at low.
            few_p, few_q = (float(self._xp.sum(x)) for x in few)
            level, slope = (level, slope - few_p) if falls else (level - few_q, slope)
            excess = level + few_q + slope / low - target
            # Z never exceeds its maximum, so the rate can be the maximum only if Z(low) is near the target.
            lowest = self._lowest_at_maximum(rate) if abs(excess) <= near else None
            if lowest is not None:
                return lowest
            if excess >= 0 or not falls:
                return _newton(*few, target, root, level, slope)
            lam = low

    def _guess(self, rate: float, highest: float) -> float:
        """The root of an evenly spaced sample of the tokens; `highest` if that root is unusable."""
        xp = self._xp
        # An odd stride does not fall into step with a power-of-two vocabulary.
        stride = max(1, self._log_p.shape[0] // _SAMPLE) | 1
        p, q = (stride * xp.exp(x[stride // 2 :: stride]) for x in (self._log_p, self._log_q))
        if float(xp.sum(q)) < self._states / 2:  # a token outside the sample may hold nearly all the mass
            top = int(xp.argmax(self._log_q))
            alone = slice(top, top + 1)
            p, q = xp.concat([p, xp.exp(self._log_p[alone])]), xp.concat([q, xp.exp(self._log_q[alone])])
        lam = _newton(p, q, rate * float(xp.sum(q)), highest)
        return lam if 0 < lam < math.inf else highest

    def _guess_of_stored(self, rate: float, highest: float) -> float:
        """The same guess from the actor's likely tokens and a sample of the others, once the probabilities are held."""
        xp, likely = self._xp, _HEAVY / self._vocab
        stride = max(1, self._log_p.shape[0] // _SAMPLE) | 1
        parts: list[tuple[Array, Array]] = []
        for p, q, _, _ in self._read():
            (places,) = xp.nonzero(q > likely)
            parts.append((xp.take(p, places), xp.take(q, places)))
            some_p, some_q = p[stride // 2 :: stride], q[stride // 2 :: stride]
            rare = stride * xp.astype(some_q <= likely, p.dtype)
            parts.append((some_p * rare, some_q * rare))
        p, q = (xp.concat(list(each)) for each in zip(*parts, strict=True))
        lam = _newton(p, q, rate * float(xp.sum(q)), highest, within=1e-3)
        return lam if 0 < lam < math.inf else highest

    def _sums(self, lam: float) -> tuple[float, float]:
        """(level, slope) with Z = level + slope/λ on the linear piece that holds `lam`."""
        level = slope = 0.0
        for p, q, ratio, mass in self._read():
            linear = self._xp.astype(ratio < lam, p.dtype)  # a product beats where and sum severalfold
            slope += float(linear @ p)
            rest = mass - float(linear @ q)
            # Of a small level the difference would lose the digits.
            level += rest if rest > _LEVEL * mass else float((1 - linear) @ q)
        return level, slope

    def _between(self, low: float, high: float) -> tuple[Array, Array] | None:
        """p and q of the tokens that are linear at `high` and saturated at `low`; None if too many."""
        xp, passed, count = self._xp, [], 0
        for p, q, ratio, _ in self._read():
            (index,) = xp.nonzero((ratio >= low) & (ratio < high))
            count += index.shape[0]
            if count > _STORED:
                return None
            passed.append((xp.take(p, index), xp.take(q, index)))
        return xp.concat([p for p, _ in passed]), xp.concat([q for _, q in passed])

    def _lowest_at_maximum(self, rate: float) -> float | None:
        """min r over the shared support if `rate` is the attainable maximum, else None; refuses rates beyond it."""
        attainable, lowest = 0.0, math.inf
        for tile in self._read():
            mass, ratio = _shared(tile.p, tile.q)
            attainable, lowest = attainable + float(mass), min(lowest, float(ratio))
        mean = as_array(attainable / self._states, self._log_p)
        return lowest if bool(_at_maximum(as_array(rate, self._log_p), mean)) else None

    def _read(self) -> Iterator[_Tile]:
        """Tiles: whole rows where rows are short, pieces of one row where they are long."""
        if self._tiles:
            yield from self._tiles
            return
        xp = self._xp
        for rows in row_blocks(self._states, self._vocab):
            masses: list[tuple[Array, Array]] = []
            end, by_row = rows.stop * self._vocab, (rows.stop - rows.start, -1)
            step = BLOCK_ELEMENTS if self._buffers is None else _TILE
            for start in range(rows.start * self._vocab, end, step):
                place = slice(start, min(start + step, end))
                if self._buffers is not None:
                    p = into(self._buffers[0][place], "exp", self._log_p[place])
                    q = into(self._buffers[1][place], "exp", self._log_q[place])
                    ratio = into(self._buffers[2][place], "divide", p, q)
                else:
                    p, q = xp.exp(self._log_p[place]), xp.exp(self._log_q[place])
                    ratio = p / q
                of_rows = xp.sum(xp.reshape(q, by_row), axis=-1)
                tile = _Tile(p, q, ratio, float(xp.sum(of_rows)))
                if self._buffers is not None:
                    self._tiles.append(tile)
                if not self._checked:
                    masses.append((xp.sum(xp.reshape(p, by_row), axis=-1), of_rows))
                yield tile
            if not self._checked:
                for name, parts in zip(("policy_log_probs", "actor_log_probs"), zip(*masses, strict=True), strict=True):
                    check_total(reduce(operator.add, parts), name)
        self._checked = True


def _shared(p: Array, q: Array) -> tuple[Array, Array]:
    """Q(p > 0) and min p/q over the shared support, along the last axis."""
    xp = namespace(p)
    shared = (p > 0) & (q > 0)
    mass = xp.sum(xp.where(shared, q, 0.0), axis=-1)
    return mass, xp.min(xp.where(shared, p / xp.where(shared, q, 1.0), math.inf), axis=-1)


def _at_maximum(rate: Array, attainable: Array) -> Array:
    """A mask of the rates that are the attainable maximum; refuses rates beyond it."""
    xp = namespace(rate)
    if bool(xp.any(attainable <= 0)):
        raise ValueError("policy and actor share no token at some state: nothing can be accepted there")
    tolerance = _tolerance(rate) * attainable
    bad = xp.reshape(rate > attainable + tolerance, (-1,))
    if bool(xp.any(bad)):
        worst = int(xp.argmax(xp.astype(bad, xp.int64)))
        raise ValueError(
            f"acceptance_rate {float(xp.reshape(rate, (-1,))[worst]):.6g} is not attainable: it must lie in "
            f"(0, {float(xp.reshape(attainable, (-1,))[worst]):.12g}], the actor's mass on the policy's support"
        )
    return rate >= attainable - tolerance


def _tolerance(like: Array) -> float:
    # Below float64 the masses themselves are known only to a few units in the last place.
    return max(ATTAINABILITY_TOLERANCE, 8 * float(namespace(like).finfo(like.dtype).eps))
