"""Corrections and moments token by token: loops, vectors f(x), no formula of the package.

`TABLE`, `TOKEN_TABLE` and `SEQUENCE_TABLE` are the corrections written once more. `moments` enumerates every
token of every state, builds f(x) = A(x)(e_x − p) as a vector and averages.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.core.laws import of_probabilities

Vector = Any
Rule = Callable[..., tuple[float, float]]


class Seen(NamedTuple):
    """One token as a correction sees it."""

    ratio: float
    overlap: float | None
    """Z(λ) at the correction's λ."""
    p: float
    q: float
    advantage: float


def log(r: float) -> float:
    return math.log(r) if r > 0 else -math.inf


def inverse(r: float) -> float:
    return 1 / r if r > 0 else math.inf


TABLE: dict[str, Rule] = {
    "none": lambda r, z: (1.0, 1.0),
    "is": lambda r, z: (1.0, r),
    "tis": lambda r, z, clip, floor: (1.0, min(max(r, floor), clip)),
    "mis": lambda r, z, low, high: (float(low <= r <= high), r),
    "mask-k1": lambda r, z, low, high, inverted: (float(low <= (inverse(r) if inverted else r) <= high), 1.0),
    "mask-k2": lambda r, z, bound: (float(log(r) ** 2 / 2 <= bound), 1.0),
    "mask-k3": lambda r, z, bound: (float(r - 1 - log(r) <= bound), 1.0),
    "obrs": lambda r, z, lam: (min(1.0, r / lam), 1.0),
    "jackpot": lambda r, z, lam, c1: (min(1.0, r / lam), min(z * max(lam, r), c1)),
    "overlap-tis": lambda r, z, lam, c1: (1.0, min(z * r, c1)),
}
"""(a, w) from r = p/q, Z(λ) and the parameters but for c2, for r finite."""


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def two_point_kl(u: float, v: float) -> float:
    """KL((u, 1 − u) ‖ (v, 1 − v)), as cross-entropy less entropy."""
    pairs = [(u, v), (1 - u, 1 - v)]
    if any(a > 0 and b == 0 for a, b in pairs):
        return math.inf
    return sum(-a * math.log(b) for a, b in pairs if a > 0) - entropy(u, 1 - u)


def binary_kl_mask(t: Seen, bound: float, direction: str) -> tuple[float, float]:
    found = {"policy-actor": two_point_kl(t.p, t.q), "actor-policy": two_point_kl(t.q, t.p)}
    return float(found.get(direction, max(found.values())) <= bound), t.ratio


def dppo(t: Seen, divergence: float, delta: float) -> tuple[float, float]:
    """Dropped where a step along A·∇log p takes p further from q than δ allows."""
    return float(not (divergence > delta and math.copysign(1.0, t.p - t.q) * t.advantage > 0 and t.p != t.q)), t.ratio


def sapo(t: Seen, tau_positive: float, tau_negative: float) -> tuple[float, float]:
    """r times the slope of 4σ(τ(r − 1))/τ, which is 1/cosh²(τ(r − 1)/2)."""
    tau = tau_positive if t.advantage > 0 else tau_negative
    half = abs(tau * (t.ratio - 1) / 2)
    return 1.0, t.ratio / math.cosh(half) ** 2 if half < 300 else 0.0


TOKEN_TABLE: dict[str, Callable[..., tuple[float, float]]] = {
    "tv-mask": lambda t, epsilon: (float(-epsilon <= t.p - t.q <= epsilon), t.ratio),
    "binary-kl-mask": binary_kl_mask,
    "dppo-tv": lambda t, delta: dppo(t, abs(t.p - t.q), delta),
    "dppo-kl": lambda t, delta: dppo(t, two_point_kl(t.q, t.p), delta),
    "cispo": lambda t, low, high: (1.0, sorted([1 - low, t.ratio, 1 + high])[1]),
    "sapo": sapo,
    "topr": lambda t: (1.0, 1.0 if t.advantage > 0 or t.ratio > 1 else t.ratio),
}
"""(a, w) of one token from all that it shows and the parameters but for c2."""


def rule_of(correction: Any) -> Callable[[Seen], tuple[float, float]]:
    """The correction's rule of one token, where its target is p_ref."""
    parameters = {name: value for name, value in correction.parameters().items() if name != "c2"}
    if correction.name in TOKEN_TABLE:
        return functools.partial(TOKEN_TABLE[correction.name], **parameters)
    rule = TABLE[correction.name]
    return lambda t: rule(t.ratio, t.overlap, **parameters)


def aggregated(values: list[float], how: str) -> float:
    return {"sum": sum(values), "mean": sum(values) / len(values), "max": max(values)}[how]


def same_for_all(values: list[float], accept: bool, weight: float = 1.0) -> list[tuple[float, float]]:
    return [(float(accept), weight) for _ in values]


def importance(l: list[float], advantage: float, aggregate: str) -> list[tuple[float, float]]:
    return same_for_all(l, True, math.exp(aggregated(l, aggregate)))


def truncated(l: list[float], advantage: float, aggregate: str, clip: float) -> list[tuple[float, float]]:
    return same_for_all(l, True, min(math.exp(aggregated(l, aggregate)), clip))


def masked(l: list[float], advantage: float, aggregate: str, low: float, high: float) -> list[tuple[float, float]]:
    ratio = math.exp(aggregated(l, aggregate))
    return same_for_all(l, low <= ratio <= high, ratio)


def ratio_mask(
    l: list[float], advantage: float, low: float, high: float, aggregate: str, inverted: bool
) -> list[tuple[float, float]]:
    ratio = math.exp(aggregated(l, aggregate))
    return same_for_all(l, low <= (1 / ratio if inverted else ratio) <= high)


def gspo(l: list[float], advantage: float, low: float, high: float) -> list[tuple[float, float]]:
    """Whether min(s·A, clip(s)·A) moves with s, by a finite difference."""
    ratio = math.exp(aggregated(l, "mean"))

    def objective(s: float) -> float:
        return min(s * advantage, min(max(s, 1 - low), 1 + high) * advantage)

    return same_for_all(l, objective(ratio * (1 + 1e-7)) != objective(ratio), ratio)


def second_moment(l: list[float], advantage: float, threshold: float) -> list[tuple[float, float]]:
    """M2PO on a batch of one sequence, without ties."""
    kept = sorted(l, key=abs)
    while kept and sum(x * x for x in kept) / len(kept) > threshold:
        kept.pop()
    return [(float(x in kept), 1.0) for x in l]


SEQUENCE_TABLE: dict[str, Callable[..., list[tuple[float, float]]]] = {
    "sequence-is": importance,
    "geometric-is": importance,
    "sequence-tis": truncated,
    "geometric-tis": truncated,
    "sequence-mis": masked,
    "geometric-mis": masked,
    "sequence-mask-k1": ratio_mask,
    "sequence-mask-k2": lambda l, a, bound, aggregate: same_for_all(
        l, aggregated([x * x / 2 for x in l], aggregate) <= bound
    ),
    "sequence-mask-k3": lambda l, a, bound, aggregate: same_for_all(
        l, aggregated([math.exp(x) - 1 - x for x in l], aggregate) <= bound
    ),
    "gspo": gspo,
    "veto": lambda l, a, threshold: same_for_all(l, not any(math.exp(x) < threshold for x in l)),
    "opsm": lambda l, a, delta: same_for_all(l, not (a < 0 and sum(-x for x in l) / len(l) > delta)),
    "m2po": second_moment,
}
"""(a, w) of each token from the log-ratios of one sequence, its advantage and the parameters."""


class Cell(NamedTuple):
    """States to try an estimator on; all of shape (states, vocab)."""

    policy: Any
    actor: Any
    advantage: Any


def _cell(policy: list[list[float]], actor: list[list[float]], advantage: list[list[float]]) -> Cell:
    laws = (np.stack([of_probabilities(*row) for row in rows]) for rows in (policy, actor))
    return Cell(*laws, np.array(advantage))


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


def divergence(p: Vector, mass: Vector) -> float:
    """KL(p‖mass/Σ mass); nan where nothing has mass."""
    if sum(mass) <= 0:
        return math.nan
    total = 0.0
    for p_x, m_x in zip(p, mass, strict=True):
        if p_x > 0:
            total += math.inf if m_x == 0 else p_x * math.log(p_x * sum(mass) / m_x)
    return total


def moments(cell: Cell, rule: Rule, lam: float | None, denominator: str, n_samples: int) -> dict[str, float]:
    """Every column of `Moments`, by enumeration. `rule` is called with a `Seen`."""
    states = [
        _State(np.exp(log_p), np.exp(log_q), advantage, rule, lam)
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

    def __init__(self, p: Vector, q: Vector, advantage: Vector, rule: Rule, lam: float | None) -> None:
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
        self.update = sum((self.law[x] * self.features[x] for x in range(vocab)), np.zeros(vocab))
        self.on_policy_variance = spread([(p[x], self.features[x]) for x in range(vocab)])

    def outcomes(self, value: Callable[[bool, float, Vector], Vector]) -> list[tuple[float, Vector]]:
        """Everything that one proposal can give: (probability, value(kept, weight, feature))."""
        found = []
        for x in range(len(self.p)):
            found.append((self.accepted[x], value(True, self.weights[x], self.features[x])))
            found.append((self.q[x] - self.accepted[x], value(False, self.weights[x], self.features[x])))
        return found


def spread(outcomes: list[tuple[float, Vector]]) -> float:
    """The trace of the covariance of a finite law of vectors."""
    mean = sum(chance * value for chance, value in outcomes)
    return float(sum(chance * ((value - mean) @ (value - mean)) for chance, value in outcomes))


def _variance(states: list[_State], index: int, denominator: str, divisor: float, estimates: list[Vector]) -> float:
    """n times the (delta-method) variance of state `index`'s update, its outcomes enumerated."""
    state, estimate = states[index], estimates[index]
    nothing = np.zeros_like(estimate)
    if denominator == "proposed":
        return spread(state.outcomes(lambda kept, w, f: w * f if kept else nothing))
    if denominator == "self_normalized":
        return spread(state.outcomes(lambda kept, w, f: w * (f - estimate) / divisor if kept else nothing))
    # The update is a sum over the state divided by a count over the batch, and every state's masks move the count.
    share = estimate / len(states)
    own = spread(state.outcomes(lambda kept, w, f: (w * f - share) / divisor if kept else nothing))
    others = (other for position, other in enumerate(states) if position != index)
    return own + sum(spread(other.outcomes(lambda kept, w, f: -kept * share / divisor)) for other in others)
