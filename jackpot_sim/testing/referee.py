"""Moments of corrections token by token: loops, vectors f(x), no formula of `estimators`.

`moments` enumerates every token of every state, builds f(x) = A(x)(e_x − p) as a vector and averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats


class Seen(NamedTuple):
    """One token as a correction sees it."""

    ratio: float
    overlap: float | None
    """Z(λ) at the correction's λ."""
    p: float
    q: float
    advantage: float


Rule: TypeAlias = Callable[[Seen], tuple[float, float]]
"""(a, w) of a token."""


class Cell(NamedTuple):
    """States to try an estimator on; all of shape (states, vocab)."""

    policy: Floats
    """log p, nats."""
    actor: Floats
    """log q, nats."""
    advantage: Floats
    """A."""


def _cell(policy: list[list[float]], actor: list[list[float]], advantage: list[list[float]]) -> Cell:
    with np.errstate(divide="ignore"):
        return Cell(np.log(np.array(policy)), np.log(np.array(actor)), np.array(advantage))


CELLS = {
    "one state": _cell([[0.5, 0.3, 0.2]], [[0.2, 0.3, 0.5]], [[1.0, -1.0, 0.5]]),
    "three states": _cell(
        [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.2]],
        [[0.15, 0.2, 0.35, 0.3], [0.4, 0.2, 0.3, 0.1], [0.24, 0.26, 0.1, 0.4]],
        [[1.0, 0.0, -2.0, 0.5], [3.0, -1.0, 0.25, 0.0], [0.5, 1.5, -0.5, 2.0]],
    ),
    "tied ratios, and a policy with holes": _cell(
        [[0.4, 0.4, 0.2, 0.0], [0.3, 0.0, 0.0, 0.7]],
        [[0.2, 0.2, 0.4, 0.2], [0.3, 0.2, 0.1, 0.4]],
        [[1.0, -1.0, 2.0, 5.0], [0.5, 1.0, 1.0, -0.5]],
    ),
    "an actor that cannot reach the policy": _cell(
        [[0.5, 0.3, 0.2], [0.3, 0.3, 0.4]], [[0.0, 0.4, 0.6], [0.3, 0.4, 0.3]], [[1.0, 2.0, -1.0], [0.0, 1.0, -1.0]]
    ),
}


def divergence(p: Sequence[float] | Floats, mass: Sequence[float] | Floats) -> float:
    """KL(p‖mass/Σ mass); nan where nothing has mass."""
    if sum(mass) <= 0:
        return math.nan
    total = 0.0
    for p_x, m_x in zip(p, mass, strict=True):
        if p_x > 0:
            total += math.inf if m_x == 0 else p_x * math.log(p_x * sum(mass) / m_x)
    return total


def moments(
    cell: Cell, rule: Rule, lam: float | None, denominator: str, n_samples: int, centred: bool = False
) -> dict[str, float]:
    """Every column of `Moments`, by enumeration. `rule` is called with a `Seen`."""
    states = [
        _State(np.exp(log_p), np.exp(log_q), advantage, rule, lam, centred)
        for log_p, log_q, advantage in zip(*cell, strict=True)
    ]
    count = len(states)
    rate = sum(s.rate for s in states) / count
    figures = {
        "acceptance_rate": rate,
        "kl_accepted": sum(divergence(s.p, s.accepted) for s in states) / count,
        "kl_effective": sum(divergence(s.p, s.law) for s in states) / count,
    }
    divisors = {"proposed": [1.0] * count, "accepted": [rate] * count, "self_normalized": [s.weight for s in states]}
    if min(divisors[denominator]) == 0:
        return figures | dict.fromkeys(
            ("bias_sq", "direction_bias", "gain", "variance", "mse", "mse_rescaled"), math.nan
        )
    estimates = [s.update / divisor for s, divisor in zip(states, divisors[denominator], strict=True)]
    variances = [
        _variance(states, index, denominator, divisors[denominator][index], estimates) for index in range(count)
    ]
    gradients = np.concatenate([s.gradient for s in states])
    together = np.concatenate(estimates)
    signal = gradients @ gradients / count
    noise = sum(s.on_policy_variance for s in states) / count
    bias_sq = (together - gradients) @ (together - gradients) / count / signal
    length = math.sqrt((together @ together) * (gradients @ gradients))
    variance = sum(variances) / count / noise
    square = sum(s.weight_square for s in states)
    mse = bias_sq + variance * noise / signal / n_samples
    gain = together @ gradients / (gradients @ gradients)
    # E‖cĝ − g‖² = c²E‖ĝ‖² − 2c·gain + 1, least at c = gain/E‖ĝ‖² or, if that is negative, at 0.
    size = together @ together / count / signal + variance * noise / signal / n_samples
    multiple = max(gain / size, 0.0) if size > 0 else 0.0
    return figures | {
        "grad_norm_sq": signal,
        "on_policy_variance": noise,
        "bias_sq": bias_sq,
        "direction_bias": 1 - together @ gradients / length if length > 0 else math.nan,
        "gain": gain,
        "variance": variance,
        "noise_to_signal": noise / signal,
        "mse": mse,
        "mse_rescaled": multiple**2 * size - 2 * multiple * gain + 1,
        "ess_fraction": sum(s.weight for s in states) ** 2 / count / square if square > 0 else math.nan,
    }


class _State:
    """One state, its tokens enumerated."""

    def __init__(self, p: Floats, q: Floats, advantage: Floats, rule: Rule, lam: float | None, centred: bool) -> None:
        vocab = len(p)
        self.p, self.q = p, q
        z = None if lam is None else sum(min(q[x], p[x] / lam) for x in range(vocab))
        self.features = [advantage[x] * (np.eye(vocab)[x] - p) for x in range(vocab)]
        rules = [rule(Seen(p[x] / q[x], z, p[x], q[x], advantage[x])) if q[x] > 0 else (0.0, 0.0) for x in range(vocab)]
        self.accept = [a for a, _ in rules]
        self.weights = [w if a > 0 else 0.0 for a, w in rules]
        self.accepted = [q[x] * self.accept[x] for x in range(vocab)]
        self.law = [self.accepted[x] * self.weights[x] for x in range(vocab)]
        self.rate, self.weight = sum(self.accepted), sum(self.law)
        self.weight_square = sum(self.law[x] * self.weights[x] for x in range(vocab))
        self.gradient = sum((p[x] * self.features[x] for x in range(vocab)), np.zeros(vocab))
        self.lost = [np.zeros(vocab)] * vocab
        if centred:
            self.lost = [advantage[x] * self._mean(rule, z, math.copysign(1.0, advantage[x])) for x in range(vocab)]
        self.update = sum((chance * x for chance, x in self.outcomes(lambda kept, w, x: x)), np.zeros(vocab))
        self.on_policy_variance = spread([(p[x], self.features[x]) for x in range(vocab)])

    def _mean(self, rule: Rule, z: float | None, sign: float) -> Floats:
        """h = E_q[a·w·(e_x − p)], where the rule sees this sign of the advantage."""
        total = np.zeros(len(self.p))
        for x, (p, q) in enumerate(zip(self.p, self.q, strict=True)):
            accept, weight = rule(Seen(p / q, z, p, q, sign)) if q > 0 else (0.0, 0.0)
            total = total + (q * accept * weight * (np.eye(len(self.p))[x] - self.p) if accept > 0 else 0.0)
        return total

    def outcomes(self, value: Callable[[bool, float, Floats], Floats]) -> list[tuple[float, Floats]]:
        """Everything that one proposal can give: (probability, value(kept, weight, its term X of the update))."""
        found = []
        for x in range(len(self.p)):
            for kept, chance in ((True, self.accepted[x]), (False, self.q[x] - self.accepted[x])):
                term = (self.weights[x] * self.features[x] if kept else 0.0) - self.lost[x]
                found.append((chance, value(kept, self.weights[x], term)))
        return found


def spread(outcomes: list[tuple[float, Floats]]) -> float:
    """The trace of the covariance of a finite law of vectors."""
    mean = sum(chance * value for chance, value in outcomes)
    return float(sum(chance * ((value - mean) @ (value - mean)) for chance, value in outcomes))


def _variance(states: list[_State], index: int, denominator: str, divisor: float, estimates: list[Floats]) -> float:
    """n times the (delta-method) variance of state `index`'s update, its outcomes enumerated."""
    state, estimate = states[index], estimates[index]
    if denominator == "proposed":
        return spread(state.outcomes(lambda kept, w, x: x))
    if denominator == "self_normalized":
        return spread(state.outcomes(lambda kept, w, x: (x - kept * w * estimate) / divisor))
    # The update is a sum over the state divided by a count over the batch, and every state's masks move the count.
    share = estimate / len(states)
    own = spread(state.outcomes(lambda kept, w, x: (x - kept * share) / divisor))
    others = (other for position, other in enumerate(states) if position != index)
    return own + sum(spread(other.outcomes(lambda kept, w, x: -kept * share / divisor)) for other in others)
