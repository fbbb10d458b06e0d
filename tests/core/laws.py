"""Pairs of laws over small vocabularies, feasible acceptance rules, and f-divergences in extended precision.

Nothing here calls the code under test: what is compared with it must not share its mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
from hypothesis import strategies as st

Law = np.ndarray[Any, np.dtype[np.float64]]

MIN_VOCAB, MAX_VOCAB = 2, 12


class Pair(NamedTuple):
    """Log-probabilities of a policy and an actor over one vocabulary, nats."""

    policy: Law
    actor: Law

    @property
    def p(self) -> Any:
        return np.exp(self.policy.astype(np.longdouble))

    @property
    def q(self) -> Any:
        return np.exp(self.actor.astype(np.longdouble))

    @property
    def shared(self) -> Any:
        """True on the tokens that both laws can produce."""
        return np.isfinite(self.policy) & np.isfinite(self.actor)

    @property
    def attainable(self) -> float:
        """q(supp p), the largest acceptance rate of any rule that accepts no token with p = 0."""
        return float(np.sum(self.q[np.isfinite(self.policy)]))

    @property
    def moderate(self) -> bool:
        """Whether every ratio and its inverse fit in float32, with room for λ around them."""
        return bool(np.all(np.abs(self.policy[self.shared] - self.actor[self.shared]) < 60))

    @property
    def ratios(self) -> Any:
        """r = p/q on the shared support."""
        return np.exp(self.policy[self.shared].astype(np.longdouble) - self.actor[self.shared])


def normalised(log_weights: Any) -> Law:
    """The law whose log-weights these are, summed in extended precision."""
    x = np.asarray(log_weights, dtype=np.longdouble)
    peak = np.max(x, axis=-1, keepdims=True)
    total = peak + np.log(np.sum(np.exp(x - peak), axis=-1, keepdims=True))
    return np.asarray(x - total, dtype=np.float64)


def close_pair(scale: float, shape: tuple[int, ...] = (30,), seed: int = 0) -> Pair:
    """Two laws whose log-probs differ by about `scale`; both of either sign, and likely tokens among rare ones."""
    rng = np.random.default_rng(seed)
    actor = 2 * rng.normal(size=shape)
    return Pair(normalised(actor + scale * rng.normal(size=shape)), normalised(actor))


def exact_law(log_probs: Any, normalise: bool = False) -> list[Any]:
    """The probabilities as mpmath numbers, at its working precision, of log-probs taken as exact numbers."""
    law = [mpmath.exp(mpmath.mpf(float(x))) for x in log_probs]
    total = mpmath.fsum(law) if normalise else 1
    return [x / total for x in law]


def of_probabilities(*probabilities: float) -> Law:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float64))


# ---------------------------------------------------------------- strategies

_ORDINARY = st.floats(-6.0, 6.0)
_NOTABLE = st.sampled_from([-np.inf, -700.0, -40.0, -1e-9, 0.0, 0.0, 1.0])
_LOG_RATIOS = st.sampled_from([-2.0, -1.0, 0.0, 0.0, np.log(2.0), 1.0])


@st.composite
def law_pairs(draw: st.DrawFn, *, shared: bool = True, absolutely_continuous: bool = False) -> Pair:
    """Two laws over 2 to 12 tokens: ordinary, tied, equal, extreme, and with holes in either support.

    With `shared` they have a token in common; with `absolutely_continuous` the policy stays within
    the actor's support.
    """
    vocab = draw(st.integers(MIN_VOCAB, MAX_VOCAB))

    def weights(entry: st.SearchStrategy[float]) -> Any:
        return np.array(draw(st.lists(entry, min_size=vocab, max_size=vocab)))

    kind = draw(st.sampled_from(["ordinary", "holes", "tied ratios", "equal", "close"]))
    actor = weights(_ORDINARY if kind in ("ordinary", "close") else _ORDINARY | _NOTABLE)
    if kind == "equal":
        policy = actor.copy()
    elif kind == "tied ratios":
        policy = actor + weights(_LOG_RATIOS)
    elif kind == "close":
        policy = actor + 1e-6 * weights(_ORDINARY)
    else:
        policy = weights(_ORDINARY if kind == "ordinary" else _ORDINARY | _NOTABLE)
    if absolutely_continuous:
        policy = np.where(np.isfinite(actor), policy, -np.inf)
    # Some token lies in both supports, or one in each.
    common = draw(st.integers(0, vocab - 1))
    for law, place in ((policy, common), (actor, common if shared else draw(st.integers(0, vocab - 1)))):
        law[place] = max(law[place], 0.0)
    if absolutely_continuous and not shared:
        actor[common] = max(actor[common], 0.0)
    return Pair(normalised(policy), normalised(actor))


@st.composite
def feasible_rules(draw: st.DrawFn, pair: Pair) -> tuple[float, Law]:
    """(ā, a): an attainable budget, and a rule a in [0, 1]^V with Σ q a = ā that need not be optimal."""
    share = draw(st.floats(1e-3, 1.0))
    wish = np.array(draw(st.lists(st.floats(0.0, 1.0), min_size=len(pair.actor), max_size=len(pair.actor))))
    budget = share * pair.attainable
    return budget, meet_budget(wish, pair.actor, budget)


def meet_budget(rule: Law, actor: Law, budget: float) -> Law:
    """A rule that accepts the share `budget`: shrunk towards nothing, or stretched towards everything."""
    q = np.exp(actor.astype(np.longdouble))
    accepted, total = np.sum(q * rule), np.sum(q)
    if accepted >= min(budget, total):
        return np.asarray(rule * (budget / accepted), dtype=np.longdouble)
    return np.asarray(1 - (1 - rule.astype(np.longdouble)) * ((total - budget) / (total - accepted)))


# ------------------------------------------------------------- f-divergences


FDivergence = Callable[[Any, Any], Any]


def f_divergence(f: Callable[[Any, Any], Any], at_zero: float, at_infinity: float) -> FDivergence:
    """D_f(p‖q) = Σ q f(p/q), with f(0) and the slope f(t)/t at infinity where one of them vanishes.

    `f` is a function of t = p/q and u = t − 1 with f'(1) = 0: near equal laws that keeps the digits.
    """

    def divergence(p: Any, q: Any) -> Any:
        both = (p > 0) & (q > 0)
        total = np.sum(q[both] * f(p[both] / q[both], (p[both] - q[both]) / q[both]))
        for lost, slope in ((q[(p == 0) & (q > 0)], at_zero), (p[(q == 0) & (p > 0)], at_infinity)):
            if lost.size:
                total = total + slope * np.sum(lost)
        return total

    return divergence


def _log(x: Any, less_one: Any) -> Any:
    """log x, from x − 1 where x is near 1."""
    near = np.abs(less_one) < 0.5
    return np.where(near, np.log1p(np.where(near, less_one, 0)), np.log(x))


F_DIVERGENCES: dict[str, FDivergence] = {
    "kl": f_divergence(lambda t, u: t * _log(t, u) - u, 1.0, np.inf),
    "reverse_kl": f_divergence(lambda t, u: u - _log(t, u), np.inf, 1.0),
    "total_variation": f_divergence(lambda t, u: np.abs(u) / 2, 0.5, 0.5),
    "jensen_shannon": f_divergence(
        lambda t, u: (t * _log(2 * t / (1 + t), u / (1 + t)) + _log(2 / (1 + t), -u / (1 + t))) / 2,
        np.log(2) / 2,
        np.log(2) / 2,
    ),
    "chi_square": f_divergence(lambda t, u: u**2, 1.0, np.inf),
    "neyman": f_divergence(lambda t, u: u**2 / t, np.inf, 1.0),
    "hellinger": f_divergence(lambda t, u: (u / (np.sqrt(t) + 1)) ** 2 / 2, 0.5, 0.5),
    "alpha_half": f_divergence(lambda t, u: 2 * (u / (np.sqrt(t) + 1)) ** 2, 2.0, 2.0),
    "alpha_2": f_divergence(lambda t, u: u**2 / 2, 0.5, np.inf),
    "alpha_3": f_divergence(lambda t, u: u**2 * (t + 2) / 6, 1 / 3, np.inf),
    "triangular": f_divergence(lambda t, u: u**2 / (t + 1), 1.0, 1.0),
}
"""By name: (p, q) probabilities, and the divergence, in extended precision; nats where there is a logarithm.

alpha_a is the power divergence (t^a − 1 − a(t − 1))/(a(a − 1)). Rényi's D_a increases with it, so its
order of laws is the same.
"""
