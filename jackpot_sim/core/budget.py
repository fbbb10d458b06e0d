"""From an acceptance budget to λ, exactly.

With μ = 1/λ the overlap Z(μ) = Σ min(q, μp) is concave, piecewise linear and non-decreasing.
Newton from the left climbs from kink to kink and cannot pass the root, and on the root's own
piece it is exact: μ = (ā − Q(r ≥ λ)) / P(r < λ). There is no tolerance to choose.

Short states are climbed many at a time. A long state, or a whole batch that shares one λ, is read
in cache-sized blocks: a small sample brackets μ, one pass sums the tokens that lie surely on
either side of the bracket, and only the few in between are climbed. A bracket that misses the root
costs another pass, never the answer. Memory beyond the inputs is one block and those few tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import array_api_compat
import numpy as np

from jackpot_sim.core.backend import BLOCK_ELEMENTS, Array, as_array, floating, into, namespace, row_blocks, stop_gradient
from jackpot_sim.core.numerics import (
    check_same_shape,
    check_total,
    log_ratio,
    overflow_to_inf,
    require_vocabulary,
)

ATTAINABILITY_TOLERANCE = 1e-12
"""How far from the attainable maximum an acceptance rate may lie and still mean the maximum."""

_SAMPLE = 4096
_STORED = 1 << 20
_NARROWEST_BRACKET = 1e-3


def solve_lam(
    policy_log_probs: Array, actor_log_probs: Array, acceptance_rate: Any, per_state: bool = True
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
    log_p, log_q = stop_gradient(floating(policy_log_probs)), stop_gradient(floating(actor_log_probs))
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
    log_p, log_q = xp.reshape(log_p, (states, vocab)), xp.reshape(log_q, (states, vocab))
    with overflow_to_inf():
        if not per_state:
            return _solve_together(log_p, log_q, rate, _Memory(log_p, states * vocab))
        rates = xp.reshape(xp.broadcast_to(rate, shape), (states,))
        if 2 * vocab > BLOCK_ELEMENTS:
            memory = _Memory(log_p, vocab)
            solved = []
            for i in range(states):
                lam = _solve_together(log_p[i : i + 1, :], log_q[i : i + 1, :], rates[i], memory)
                solved.append(xp.reshape(lam, (1,)))
        else:
            solved = [_solve_each(log_p[rows, :], log_q[rows, :], rates[rows]) for rows in row_blocks(states, vocab)]
    return xp.reshape(xp.concat(solved), shape)


def _solve_each(log_p: Array, log_q: Array, rate: Array) -> Array:
    """One λ for every row of a block, shape (rows,)."""
    xp = namespace(log_p)
    p, q = xp.exp(log_p), xp.exp(log_q)
    check_total(xp.sum(p, axis=-1), "policy_log_probs")
    check_total(xp.sum(q, axis=-1), "actor_log_probs")
    ratio = log_ratio(log_p, log_q)
    attainable = xp.sum(xp.where(p > 0, q, 0.0), axis=-1)
    at_maximum = _at_maximum(rate, attainable)
    mu = _climb(p, q, ratio, rate, rate)
    return xp.where(at_maximum, xp.exp(_lowest_shared_ratio(log_p, log_q, axis=-1)), 1 / mu)


def _climb(
    p: Array, q: Array, ratio: Array, target: Array, left: Array, start: Array | None = None,
    level: Any = 0.0, slope: Any = 0.0,
) -> Array:
    """The root μ ≥ left of level + μ·slope + Σ min(q, μp) = target for each row, by Newton.

    The first step may leave from any `start`: a tangent of a concave function meets the target left
    of the root, wherever it is drawn. From there on every step climbs.
    """
    xp = namespace(p)
    total_q = xp.sum(q, axis=-1)
    mu, climbing = (left, True) if start is None else (start, False)
    enough = 1 + 4 * xp.finfo(p.dtype).eps
    while True:
        linear = xp.astype(ratio < -xp.log(mu)[..., None], p.dtype)
        mass = slope + xp.vecdot(linear, p)
        rest = target - level - (total_q - xp.vecdot(linear, q))
        root = xp.where(mass > 0, rest / xp.where(mass > 0, mass, 1.0), left)
        if climbing and bool(xp.all(root <= mu * enough)):
            return mu
        mu = xp.maximum(root, mu if climbing else left)
        climbing = True


class _Tokens:
    """All tokens that share one λ, read as flat tiles of (p, q, ratio).

    The first pass checks the laws. Up to `_STORED` tokens it also keeps the tiles, in memory that
    the next state uses again; a larger batch is exponentiated again in every pass.
    """

    def __init__(self, log_p: Array, log_q: Array, memory: _Memory) -> None:
        self.log_p, self.log_q = log_p, log_q
        self._memory = memory
        self._keep = math.prod(log_p.shape) <= _STORED
        self._tiles: list[tuple[Array, Array, Array]] = []
        self._mass_q: Array | None = None

    def tiles(self) -> Iterator[tuple[Array, Array, Array]]:
        """Whole rows at a time where they are short, pieces of one row where they are long."""
        if self._tiles:
            yield from self._tiles
            return
        xp, memory, used = namespace(self.log_p), self._memory, 0
        count, vocab = self.log_p.shape
        masses: list[tuple[Array, Array]] = []
        for rows in row_blocks(count, vocab):
            mass_p = mass_q = 0.0
            for start in range(0, vocab, BLOCK_ELEMENTS):
                columns = slice(start, min(start + BLOCK_ELEMENTS, vocab))
                log_p = xp.reshape(self.log_p[rows, columns], (-1,))
                log_q = xp.reshape(self.log_q[rows, columns], (-1,))
                place = slice(used, used + log_p.shape[0])
                p, q = into(memory.p[place], "exp", log_p), into(memory.q[place], "exp", log_q)
                with np.errstate(invalid="ignore"):
                    # −inf − (−inf) is nan: no comparison holds for it, and it saturates with q = 0.
                    ratio = into(memory.ratio[place], "subtract", log_p, log_q)
                if self._mass_q is None:
                    by_row = (rows.stop - rows.start, -1)
                    mass_p = mass_p + xp.sum(xp.reshape(p, by_row), axis=-1)
                    mass_q = mass_q + xp.sum(xp.reshape(q, by_row), axis=-1)
                if self._keep:
                    used = place.stop
                    self._tiles.append((p, q, ratio))
                yield p, q, ratio
            masses.append((mass_p, mass_q))
        if self._mass_q is None:
            check_total(xp.concat([mass for mass, _ in masses]), "policy_log_probs")
            mass_q = xp.concat([mass for _, mass in masses])
            check_total(mass_q, "actor_log_probs")
            self._mass_q = xp.sum(mass_q)

    def sums(self, mu: Array) -> tuple[Array, Array]:
        """(level, slope) with Z = level + μ·slope on the linear piece that holds μ."""
        return self.sums_between(mu, None)[:2]

    def sums_between(self, low: Array, high: Array | None) -> tuple[Array, Array, list[Array]]:
        """Over μ in [low, high]: what surely saturates, what is surely linear, the tokens in between."""
        xp = namespace(self.log_p)
        linear_p = linear_q = 0.0
        undecided: list[tuple[Array, ...]] = []
        for p, q, ratio in self.tiles():
            linear = ratio < -xp.log(low)
            chosen = self._memory.chosen[: p.shape[0]]
            chosen[...] = linear  # a product with the mask is several times faster than where and sum
            linear_p, linear_q = linear_p + xp.vecdot(chosen, p), linear_q + xp.vecdot(chosen, q)
            if high is not None:
                between = xp.nonzero(linear ^ (ratio < -xp.log(high)))[0]
                undecided.append(tuple(xp.take(x, between) for x in (p, q, ratio)))
        tokens = [xp.concat([u[i] for u in undecided]) for i in range(3)] if high is not None else []
        return self._mass_q - linear_q, linear_p - (xp.sum(tokens[0]) if tokens else 0.0), tokens

    def at_maximum(self, rate: Array) -> bool:
        """Whether `rate` is the attainable maximum; refuses one beyond it."""
        xp = namespace(self.log_p)
        shared = sum(xp.sum(xp.where(p > 0, q, 0.0)) for p, q, _ in self.tiles())
        return bool(_at_maximum(rate, shared / self.log_p.shape[0]))

    def guess(self, rate: Array) -> Array:
        """The root of an evenly spaced sample of the tokens, or `rate` where the sample has none."""
        xp = namespace(self.log_p)
        # An odd stride does not fall into step with a power-of-two vocabulary.
        some = slice(None, None, max(1, math.prod(self.log_p.shape) // _SAMPLE) | 1)
        log_p, log_q = xp.reshape(self.log_p, (-1,))[some], xp.reshape(self.log_q, (-1,))[some]
        p, q = xp.exp(log_p), xp.exp(log_q)
        target = rate * xp.sum(q)
        if not bool(xp.sum(xp.where(p > 0, q, 0.0)) > target):
            return rate
        self._memory.guess = _climb(p, q, log_ratio(log_p, log_q), target, rate, self._memory.guess)
        return self._memory.guess


class _Memory:
    """What `_Tokens` writes into, allocated once for many states."""

    def __init__(self, log_p: Array, tokens: int) -> None:
        xp = namespace(log_p)
        size = max(min(tokens, _STORED), BLOCK_ELEMENTS)
        device = array_api_compat.device(log_p)
        self.p, self.q, self.ratio = (xp.empty((size,), dtype=log_p.dtype, device=device) for _ in range(3))
        self.guess: Array | None = None
        self.chosen = xp.empty((BLOCK_ELEMENTS,), dtype=log_p.dtype, device=device)


def _solve_together(log_p: Array, log_q: Array, rate: Array, memory: _Memory) -> Array:
    """The one λ at which the rows' mean acceptance is `rate`, shape ()."""
    xp = namespace(log_p)
    tokens = _Tokens(log_p, log_q, memory)
    target = rate * log_p.shape[0]
    guess = tokens.guess(rate)
    # A tangent of a concave function meets the target left of the root, wherever it is drawn.
    level, slope = tokens.sums(guess)
    low = xp.maximum((target - level) / slope, rate) if bool(slope > 0) else rate
    error = abs(float(low / guess) - 1)
    width = min(max(_NARROWEST_BRACKET, 8 * error**2), max(_NARROWEST_BRACKET, error))
    near = log_p.shape[0] * _tolerance(rate)
    while True:
        high = low * (1 + width)
        level, slope, few = tokens.sums_between(low, high)
        z_high = level + xp.sum(few[1]) + high * slope
        # Z never exceeds its attainable maximum: only a bracket that reaches it need ask for it.
        if bool((slope <= 0) | (xp.abs(target - z_high) <= near)) and tokens.at_maximum(rate):
            return xp.exp(_lowest_shared_ratio(log_p, log_q))
        if bool(target <= z_high):
            return 1 / _climb(few[0], few[1], few[2], target, low, None, level, slope)
        low = high + (target - z_high) / slope
        width *= 4


def _lowest_shared_ratio(log_p: Array, log_q: Array, axis: int | None = None) -> Array:
    xp = namespace(log_p)
    shared = (log_p != -math.inf) & (log_q != -math.inf)
    return xp.min(xp.where(shared, log_ratio(log_p, log_q), math.inf), axis=axis)


def _at_maximum(rate: Array, attainable: Array) -> Array:
    """Whether each rate is the attainable maximum; refuses rates outside (0, attainable]."""
    xp = namespace(rate)
    if bool(xp.any(attainable <= 0)):
        raise ValueError("policy and actor share no token at some state: nothing can be accepted there")
    tolerance = _tolerance(rate)
    bad = ~((rate > 0) & (rate <= attainable + tolerance))
    if bool(xp.any(bad)):
        worst = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int64)))
        raise ValueError(
            f"acceptance_rate {float(xp.reshape(rate, (-1,))[worst]):.6g} is not attainable: it must lie in "
            f"(0, {float(xp.reshape(attainable, (-1,))[worst]):.12g}], the actor's mass on the policy's support"
        )
    return rate >= attainable - tolerance


def _tolerance(rate: Array) -> float:
    # Below float64 the masses themselves are known only to a few units in the last place.
    return max(ATTAINABILITY_TOLERANCE, 8 * float(namespace(rate).finfo(rate.dtype).eps))
