"""A state sorted by r, with cumulated sums from which the moments of any threshold take a few look-ups.

Every token correction is a pair of monomials of r on a few stretches of r (`Correction.pieces`), so that all its
moments follow from sums of q·r^k over stretches, times 1, A, Ap, A² and A²p.

Sums of q·r^0 are cumulated from the largest r, all others from the smallest, as clips use them. The sum over a band
is a difference of two cumulated sums, and is known to the rounding of the larger one. Terms that vanish where the
laws meet (the law's distance from p, `policy_gaps`, and the terms of the KL) have cumulated sums of their own: a
bias keeps its digits however small it is, and loses only those that the coefficient of a piece has lost.

A state's likeliest token is left out of the sums with A. Where it is nearly certain (1 − p = t ≪ 1, as is common in
language models) all gradients are of the order of t and its own terms of the order of 1: squares of sums that
include it would be off by ε/t² of ‖g‖². `Update` shows how it enters.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Array, Flags, Floats, Ints
from jackpot_sim.core.backend import namespace, overflow_to_inf, to_numpy
from jackpot_sim.core.checks import check_advantage, check_alike, check_floats, check_pair
from jackpot_sim.core.divergences import kl_terms
from jackpot_sim.core.numerics import exp_difference, exp_remainder, log_ratio
from jackpot_sim.core.policy_gradient import gradient_under
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.corrections.pieces import Monomial, number
from jackpot_sim.estimators.states.cumulated import Coefficient, Places, cumulated, runs_of
from jackpot_sim.estimators.states.policy_gaps import PolicyGaps
from jackpot_sim.estimators.statistics import Denominator, StateStatistics, of_single_tokens

_ROUNDING = 1e-15
"""A difference of two coefficients from 1 that may come from the rounding of products alone."""

_FAINT = 1e-290
"""A probability so small that its share in a KL is lost in rounding, whatever the log-ratio."""

ONE, A, AP, A2, A2P = range(5)
"""The factors of q·r^k in a cumulated sum: 1, A, A·p, A², A²·p; those with A leave out the likeliest token."""


class Update(NamedTuple):
    """Σ_x m(x)·f(x) for a signed law m, by its likeliest token k and Σ' over the others.

    Its component at i ≠ k is m_i·A_i − p_i·ΣmA, and at k it is (1 − p_k)·m_k·A_k − p_k·Σ'mA, with
    1 − p_k = Σ'p. Each field may be an array, or a polynomial's coefficients along the first axis.
    """

    top: Floats
    """m_k·A_k."""
    a: Floats
    """Σ'mA."""
    ap: Floats
    """Σ'mAp."""
    a_sq_p: Floats
    """Σ'mA²p."""
    a_sq_m: Floats
    """Σ'm²A²."""


def sorted_states(
    policy_log_probs: Array, actor_log_probs: Array, advantage: Array, by_sign: bool = False
) -> Iterator[SortedState]:
    """An iterator over the states, each sorted by r and cumulated.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        by_sign: as in `SortedState`.

    Raises:
        TypeError: an array is not one of real floating numbers, or they are of several libraries.
        ValueError: a law is not normalised, the shapes differ, or an advantage is not finite.
    """
    laws = check_alike(policy_log_probs=policy_log_probs, actor_log_probs=actor_log_probs, advantage=advantage)
    shape = tuple(laws[0].shape)
    if len(shape) == 0 or math.prod(shape) == 0:
        check_pair(laws[0], laws[1])
        raise ValueError(f"policy_log_probs has shape {shape}: it holds no state")
    flat = [namespace(x).reshape(x, (-1, shape[-1])) for x in laws]
    for row in range(flat[0].shape[0]):
        # Checked in the dtype given, whose tolerance allows for its rounding over a large vocabulary.
        check_pair(flat[0][row, :], flat[1][row, :])
        log_p, log_q, values = (np.asarray(to_numpy(x[row, :]), dtype=np.float64) for x in flat)
        yield SortedState(log_p, log_q, np.asarray(check_advantage(values)), by_sign)


class _Span(NamedTuple):
    """A piece of a correction, and its tokens at each threshold: from `start` to `stop` in the tables of a run."""

    accept: Monomial
    weight: Monomial
    start: Places
    stop: Places
    run: int

    @property
    def coefficient(self) -> Coefficient:
        """c, where the law q·a·w is c·q·r^power."""
        return self.accept.coefficient * self.weight.coefficient

    @property
    def power(self) -> int:
        """The law's power of r."""
        return self.accept.power + self.weight.power


class SortedState:
    """A state's tokens that the actor can propose, in ascending order of r, with cumulated sums.

    For corrections that look at the sign of A the tokens of each sign are a run of their own (`by_sign`); for the
    others all tokens are one run. Places in the tables count tokens from the first run on. Places, coefficients and
    the sums between places are numbers, or have shape (thresholds,).
    """

    def __init__(self, log_p: Floats, log_q: Floats, advantage: Floats, by_sign: bool = False) -> None:
        for name, values in {"log_p": log_p, "log_q": log_q, "advantage": advantage}.items():
            check_floats(values, (np.size(log_p),), name, "one number per token of the state")
        p, q = np.exp(log_p), np.exp(log_q)
        # The true gradient runs over all tokens, whether or not the actor can propose them.
        top = int(np.argmax(p))
        self.top_p, self.top_advantage = float(p[top]), float(advantage[top])
        others = np.arange(len(p)) != top
        rest, rest_advantage = p[others], advantage[others]
        self.rest_p, self.rest_p_sq = float(rest.sum()), float(rest @ rest)
        terms = rest * rest_advantage
        self.policy_update = Update(
            np.asarray(self.top_p * self.top_advantage),
            *(np.asarray(x.sum()) for x in (terms, terms * rest, terms**2, terms**2)),
        )
        # The likeliest token's advantage is subtracted, so that its own term is 0 and hides no other.
        gradient = np.asarray(gradient_under(p, p, advantage - self.top_advantage))
        self.mean_advantage = self.top_advantage + float(rest @ (rest_advantage - self.top_advantage))
        self.grad_norm_sq, self.top_gradient = float(gradient @ gradient), float(gradient[top])
        self.rest_p_dot_gradient = float(rest @ gradient[others])
        self.on_policy_variance = float(
            self.feature_sq(np.asarray(self.top_p), *(x @ rest_advantage**2 for x in (rest, rest**2)))
        )
        self.on_policy_variance -= self.grad_norm_sq

        live = q >= np.finfo(np.float64).smallest_normal
        # Where the actor's probability underflows, the KL is finite only if the policy's is negligible too.
        self.reaches_policy = not np.any((p > 0) & ((log_q == -math.inf) | (~live & (p > _FAINT))))
        order = np.flatnonzero(live)
        ratio: Floats = np.asarray(log_ratio(log_p[live], log_q[live]))
        sign = np.sign(advantage[order]).astype(np.int64) if by_sign else np.zeros(len(order), dtype=np.int64)
        rank = np.lexsort((ratio, sign)) if by_sign else np.argsort(ratio)
        self.log_ratio, order = ratio[rank], order[rank]
        self._runs = runs_of(self.log_ratio, sign[rank])
        # The part of the error that no weight changes: −p of the tokens that the actor cannot write.
        lost, lost_terms = np.where(live, 0.0, p), np.where(live | ~others, 0.0, p * advantage)
        self._lost = (
            -float(lost.sum()),
            Update(
                np.asarray(0.0 if live[top] else -self.top_p * self.top_advantage),
                *(np.asarray(x.sum()) for x in (-lost_terms, -lost_terms * p, -(lost_terms**2), lost_terms**2)),
            ),
        )
        log_p, log_q = log_p[order], log_q[order]
        p, q, advantage = p[order], q[order], np.where(others, advantage, 0.0)[order]

        factors = (np.ones(len(p)), advantage, advantage * p, advantage**2, advantage**2 * p)
        with overflow_to_inf():
            powers = (q, p, p * (p / q))
        gap = np.asarray(exp_difference(log_q, log_p))
        self._top_place, self._top_powers, self._top_offset = -1, [0.0] * len(powers), 0.0
        if live[top]:
            token = int(np.flatnonzero(order == top)[0])
            self._top_place = token + sum(run.tokens.stop <= token for run in self._runs)
            self._top_powers = [float(base[token]) for base in powers]
            self._top_offset = float(np.expm1(self.log_ratio[token]))
        self._sums = [
            [self._cumulated(base * values, from_top=power == 0) for values in factors]
            for power, base in enumerate(powers)
        ]
        self._gap = self._cumulated(gap, from_top=True)
        self._gaps = PolicyGaps(p, q, np.stack([factors[each] for each in (ONE, A, AP, A2P)]), self._runs)
        self._kl = self._cumulated(np.asarray(kl_terms(log_p, self.log_ratio, log_q)), from_top=True)
        self._a_sq_q_sq = self._cumulated(factors[A2] * q * q, from_top=True)
        self._p_log_ratio = self._cumulated(p * np.where(p > 0, self.log_ratio, 0.0), from_top=False)

    def _cumulated(self, values: Floats, from_top: bool) -> Floats:
        return cumulated(values, self._runs, from_top)

    def place(self, log_threshold: Coefficient, closed: bool, run: int = 0) -> Ints:
        """The place of the first token of a run above a threshold on log r, or at it unless `closed`."""
        own = self._runs[run]
        below: Ints = np.asarray(np.searchsorted(own.log_ratio, log_threshold, side="right" if closed else "left"))
        return own.first + below

    def sums(self, power: int, factor: int, start: Places, stop: Places) -> Floats:
        """Σ q·r^power·factor over the tokens from `start` to `stop` in ascending order of r."""
        table = self._sums[power][factor]
        total: Floats = table[start] - table[stop] if power == 0 else table[stop] - table[start]
        return total

    def top(self, power: int, start: Places, stop: Places) -> Floats:
        """q·r^power of the likeliest token; 0 where it is not among the tokens from `start` to `stop`."""
        return np.where((start <= self._top_place) & (self._top_place < stop), self._top_powers[power], 0.0)

    def a_sq_q_sq(self, power: int, start: Places, stop: Places) -> Floats:
        """Σ A²·q²·r^power over the tokens from `start` to `stop`, without the likeliest."""
        if power > 0:  # q²·r = pq
            return self.sums(power - 1, A2P, start, stop)
        total: Floats = self._a_sq_q_sq[start] - self._a_sq_q_sq[stop]
        return total

    def less_policy(
        self, coefficient: Coefficient, power: int, start: Places, stop: Places, run: int = 0
    ) -> tuple[Floats, Update]:
        """Σ (c·q·r^power − p) and Σ (c·q·r^power − p)·f over the tokens from `start` to `stop`, power 0 or 1."""
        gap = self._gaps.sums(coefficient, power, start, stop, run)
        at_top = (start <= self._top_place) & (self._top_place < stop)
        top_q, top_p = self._top_powers[:2]
        more = np.asarray(coefficient, dtype=np.float64) - 1
        top = (
            more * top_p
            if power == 1
            else np.where(np.asarray(coefficient) == 0, -top_p, top_q * (more - self._top_offset))
        )
        return gap.mass, Update(np.where(at_top, self.top_advantage * top, 0.0), *gap[1:])

    def feature_sq(self, top: Floats, a_sq: Floats, a_sq_p: Floats) -> Floats:
        """Σ m‖f‖² for a law m, from m_k, Σ'mA² and Σ'mA²p."""
        top_feature_sq = self.top_advantage**2 * (self.rest_p**2 + self.rest_p_sq)
        return top * top_feature_sq + (1 + self.rest_p_sq + self.top_p**2) * a_sq - 2 * a_sq_p

    def error(self, estimate: Update, one: Coefficient = 1.0) -> Update:
        """The update less the true gradient, whose law is p; `one` is the polynomial 1."""
        less = Update(*(x - one * y for x, y in zip(estimate, self.policy_update, strict=True)))
        return less._replace(a_sq_m=estimate.a_sq_m - 2 * estimate.a_sq_p + one * self.policy_update.a_sq_p)

    def top_component(self, update: Update) -> Floats:
        """The update's component at the likeliest token."""
        return self.rest_p * update.top - self.top_p * update.a

    def norm_sq(self, update: Update, product: Callable[[Floats, Floats], Floats] = operator.mul) -> Floats:
        """‖update‖²; `product` multiplies two fields."""
        total, at_top = update.top + update.a, self.top_component(update)
        cross = product(total, self.rest_p_sq * total - 2 * update.ap)
        return update.a_sq_m + cross + product(at_top, at_top)

    def dot_gradient(self, update: Update) -> Floats:
        """⟨update, g⟩."""
        others = update.a_sq_p - self.mean_advantage * update.ap - (update.top + update.a) * self.rest_p_dot_gradient
        return others + self.top_component(update) * self.top_gradient

    def overlap(self, lam: Coefficient) -> Floats:
        """Z(λ)."""
        total: Floats = np.zeros(())
        for index, run in enumerate(self._runs):
            turn = self.place(np.log(lam), True, index)
            total = total + (self.sums(1, ONE, run.first, turn) / lam + self.sums(0, ONE, turn, run.last))
        return total

    def acceptance_rate(self, correction: Correction, shape: tuple[int, ...]) -> Floats:
        """The share of this state's tokens that is accepted at every threshold, (thresholds,)."""
        rate: Floats = np.zeros(shape)
        for span in self._spans(correction, shape):
            rate = rate + span.accept.coefficient * self.sums(span.accept.power, ONE, span.start, span.stop)
        return rate

    def statistics(
        self, correction: Correction, denominator: Denominator, shape: tuple[int, ...], batch_rate: Floats | None = None
    ) -> StateStatistics:
        """The statistics of this state at every threshold, fields of the given shape (thresholds,).

        For `accepted`, `batch_rate` is the acceptance rate of all states together, (thresholds,).
        """
        totals: dict[str, Floats] = {name: np.zeros(shape) for name in _TOTALS}
        spans = list(self._spans(correction, shape))
        for span in spans:
            for name, value in self._contributions(span).items():
                totals[name] = totals[name] + value
        rate = np.ones(shape) if batch_rate is None else batch_rate
        return self._moments(totals, spans, rate, denominator)

    def _spans(self, correction: Correction, shape: tuple[int, ...]) -> Iterator[_Span]:
        """The pieces of a correction as stretches of the sorted tokens."""
        lam = correction.overlap_lam
        overlap = None if lam is None else self.overlap(number(lam))
        for index, run in enumerate(self._runs):
            start = np.full(shape, run.first, dtype=np.intp)
            for piece in correction.pieces(overlap, run.sign):
                stop = np.maximum(start, self.place(piece.upper, piece.closed, index))
                # No token reaches an infinite clip; inf times an empty sum must not be nan.
                weight = Monomial(np.where(stop > start, piece.weight.coefficient, 0.0), piece.weight.power)
                yield _Span(piece.accept, weight, start, stop, index)
                start = stop

    def _contributions(self, span: _Span) -> dict[str, Floats]:
        """The contribution of a stretch to each total; u = q·a·w is the law and s = q·a·w² its square."""
        (a, i), (w, j), start, stop, run = span
        law, square = a * w, a * w**2
        u, s = i + j, i + 2 * j
        if s > 2:
            raise ValueError(f"accept and weight of powers {i} and {j} of r need a sum of q·r^{s}, which is not stored")

        def total(power: int, factor: int) -> Floats:
            return self.sums(power, factor, start, stop)

        p_log_ratio = self._p_log_ratio[stop] - self._p_log_ratio[start]
        log_accepted, log_effective = (_log_law(c, k, total(1, ONE), p_log_ratio) for c, k in ((a, i), (law, u)))
        rate_less_policy, mean_less_policy = (
            self._gaps.sums(c, k, start, stop, run).mass for c, k in ((a, i), (law, u))
        )

        def kl_terms_of(coefficient: Coefficient, power: int, log_law: Floats, less_policy: Floats) -> Floats:
            near = _near_one(coefficient)
            close = self._kl_terms(np.where(near, coefficient, 1.0), power, start, stop)
            return np.where(near, close, log_law + less_policy)

        return {
            "rate": a * total(i, ONE),
            "mean": law * total(u, ONE),
            "square": square * total(s, ONE),
            "u_top": law * self.top(u, start, stop),
            "s_top": square * self.top(s, start, stop),
            "ua": law * total(u, A),
            "uap": law * total(u, AP),
            "ua_sq_p": law * total(u, A2P),
            "u_sq_a_sq": law**2 * self.a_sq_q_sq(2 * u, start, stop),
            "sa": square * total(s, A),
            "sap": square * total(s, AP),
            "sa_sq": square * total(s, A2),
            "sa_sq_p": square * total(s, A2P),
            "sua_sq": square * law * self.a_sq_q_sq(s + u, start, stop),
            "log_accepted": log_accepted,
            "log_effective": log_effective,
            "kl_accepted": kl_terms_of(a, i, log_accepted, rate_less_policy),
            "kl_effective": kl_terms_of(law, u, log_effective, mean_less_policy),
            "rate_less_policy": rate_less_policy,
            "mean_less_policy": mean_less_policy,
        }

    def _moments(
        self, t: dict[str, Floats], spans: list[_Span], rate: Floats, denominator: Denominator
    ) -> StateStatistics:
        own = denominator is Denominator.SELF_NORMALIZED
        divisor = t["mean"] if own else rate
        with np.errstate(divide="ignore", invalid="ignore"):
            top, ua, uap, ua_sq_p = (t[name] / divisor for name in ("u_top", "ua", "uap", "ua_sq_p"))
            estimate = Update(top * self.top_advantage, ua, uap, ua_sq_p, t["u_sq_a_sq"] / divisor**2)
            error = self._own_error(spans, estimate) if own else self._error(spans, divisor)[1]
            estimate_sq = self.norm_sq(estimate)
            second_moment = self.feature_sq(t["s_top"], t["sa_sq"], t["sa_sq_p"])
            if own:
                # Σ q·a·w²⟨f, ĝ⟩, where ⟨f(x), ĝ⟩ = A_x·(ĝ_x − ⟨p, ĝ⟩).
                total, at_top = estimate.top + estimate.a, self.top_component(estimate)
                rest_p_dot = estimate.ap - self.rest_p_sq * total
                inner = t["sua_sq"] / divisor - total * t["sap"] - (rest_p_dot + self.top_p * at_top) * t["sa"]
                inner = inner + t["s_top"] * self.top_advantage * (self.rest_p * at_top - rest_p_dot)
                second_moment = second_moment - 2 * inner + estimate_sq * t["square"]
            # A sum of squares, which rounding may leave a few 1e-17 below zero.
            error_sq = np.maximum(self.norm_sq(error), 0.0)
        everywhere = np.ones_like(error_sq)
        return StateStatistics(
            acceptance_rate=t["rate"],
            weight_mean=t["mean"],
            weight_square=t["square"],
            grad_norm_sq=self.grad_norm_sq * everywhere,
            on_policy_variance=self.on_policy_variance * everywhere,
            divisor=divisor,
            error_sq=error_sq,
            error_dot=self.dot_gradient(error),
            estimate_sq=estimate_sq,
            estimate_dot=self.dot_gradient(estimate),
            second_moment=second_moment,
            kl_accepted=self._kl_to(t["log_accepted"], t["kl_accepted"], t["rate"], t["rate_less_policy"]),
            kl_effective=self._kl_to(t["log_effective"], t["kl_effective"], t["mean"], t["mean_less_policy"]),
            **of_single_tokens(t["rate"], estimate_sq * divisor**2),
        )

    def _error(self, spans: list[_Span], scale: Coefficient) -> tuple[Floats, Update]:
        """Σ (law/scale − p) and Σ (law/scale − p)·f."""
        mass, error = np.asarray(self._lost[0]), self._lost[1]
        for span in spans:
            coefficient = span.coefficient / scale
            # Two coefficients of one law may be the same number, rounded differently.
            same = (np.asarray(scale) != 1) & (np.abs(coefficient - 1) < _ROUNDING)
            coefficient = np.where(same, 1.0, coefficient)
            more_mass, more = self.less_policy(coefficient, span.power, span.start, span.stop, span.run)
            mass, error = mass + more_mass, Update(*(x + y for x, y in zip(error, more, strict=True)))
        return mass, error

    def _own_error(self, spans: list[_Span], estimate: Update) -> Update:
        """The error of the self-normalised update, whose law has no scale of its own.

        The law is first divided by its coefficient where most of p lies. Wherever the error is small the sum of this
        law is near 1, and what it misses of 1 is a sum of differences.
        """
        most, scale = np.zeros(()), np.asarray(math.nan)
        for span in spans:
            mass = np.where(span.coefficient > 0, self.sums(1, ONE, span.start, span.stop), 0.0)
            most, scale = np.maximum(most, mass), np.where(mass > most, span.coefficient, scale)
        # A division by a number near 1 would round more than it brings near.
        total, error = self._error(spans, np.where(np.abs(scale - 1) < 1e-3, 1.0, scale))
        less_one = self._less_one(total)
        rest = Update(*(x - less_one * y for x, y in zip(error, self.policy_update, strict=True)))
        square = error.a_sq_m - less_one * (2 * error.a_sq_p - less_one * self.policy_update.a_sq_m)
        near = Update(*(x / (1 + less_one) for x in rest))._replace(a_sq_m=square / (1 + less_one) ** 2)
        return Update(
            *(np.where(np.abs(less_one) < 0.5, x, y) for x, y in zip(near, self.error(estimate), strict=True))
        )

    def _less_one(self, less_policy: Floats) -> Floats:
        """Σ law/Σ p − 1, from the sum of law − p over all tokens."""
        return less_policy / (self.top_p + self.rest_p)

    def _kl_terms(self, coefficient: Coefficient, power: int, start: Places, stop: Places) -> Floats:
        """Σ [p log(p/m) − p + m] of m = c·q·r^power over a piece whose c is near 1, for a power of 0 or 1."""
        gap, kl = (np.asarray(table[start] - table[stop] if power == 0 else 0.0) for table in (self._gap, self._kl))
        apart = np.asarray(exp_remainder(np.log(coefficient))) * self.sums(1, ONE, start, stop)
        return kl + apart + (coefficient - 1) * gap

    def _kl_to(self, log_law: Floats, terms: Floats, mass: Floats, less_policy: Floats) -> Floats:
        """KL(p‖law/mass): from Σ[p log(p/law) − p + law] where the mass is near 1, or from Σ p log(p/law).

        nan where the law has no mass.
        """
        less_one = self._less_one(less_policy + self._lost[0])
        near = (np.abs(less_one) < 0.5) & np.isfinite(log_law)
        missing = np.asarray(exp_remainder(np.log1p(np.where(near, less_one, 0.0))))
        with np.errstate(divide="ignore", invalid="ignore"):
            # Of these sums, both ≥ 0, the first is the larger but for rounding.
            divergence = np.where(near, np.maximum(terms - missing, 0.0), log_law + np.log(mass))
            divergence = divergence + (0.0 if self.reaches_policy else math.inf)
        return np.where(mass > 0, divergence, math.nan)


_TOTALS = (
    *("rate", "mean", "square", "u_top", "s_top", "ua", "uap", "ua_sq_p", "u_sq_a_sq"),
    *("sa", "sap", "sa_sq", "sa_sq_p", "sua_sq", "log_accepted", "log_effective"),
    *("kl_accepted", "kl_effective", "rate_less_policy", "mean_less_policy"),
)


def _near_one(coefficient: Coefficient) -> Flags:
    """True where c is near 1, so that c·q − p is computed from q − p; elsewhere that would itself cancel."""
    near: Flags = np.abs(np.asarray(coefficient) - 1) < 0.5
    return near


def _log_law(coefficient: Coefficient, power: int, mass: Floats, p_log_ratio: Floats) -> Floats:
    """Σ p log(p/(q·coefficient·r^power)) over a piece: inf where p has mass and the law has none."""
    coefficient = np.asarray(coefficient, dtype=np.float64)
    alive = coefficient > 0
    log_terms = (1 - power) * p_log_ratio - np.log(np.where(alive, coefficient, 1.0)) * mass
    return np.where(alive, log_terms, np.where(mass > 0, math.inf, 0.0))
