"""Corrections and moments token by token: loops, vectors f(x), no formula of the package.

`TABLE`, `TOKEN_TABLE` and `SEQUENCE_TABLE` are the corrections written once more. `moments` enumerates every
token of every state, builds f(x) = A(x)(e_x − p) as a vector and averages.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from jackpot_sim.testing.referee import CELLS as CELLS
from jackpot_sim.testing.referee import Cell as Cell
from jackpot_sim.testing.referee import Seen as Seen
from jackpot_sim.testing.referee import divergence as divergence
from jackpot_sim.testing.referee import moments as moments
from jackpot_sim.testing.referee import spread as spread

Vector = Any
Rule = Callable[..., tuple[float, float]]


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
    "jackpot": lambda r, z, lam, c1, clip_on: (
        min(1.0, r / lam),
        min(z * max(lam, r), c1) if clip_on == "weight" else lam * z * min(max(r / lam, 1.0), c1),
    ),
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


def ppo_clip(t: Seen, low: float, high: float, dual: float) -> tuple[float, float]:
    """Whether PPO's objective, with the dual clip where A < 0, moves with r, by a finite difference."""

    def objective(r: float) -> float:
        least = min(r * t.advantage, min(max(r, 1 - low), 1 + high) * t.advantage)
        return max(least, dual * t.advantage) if t.advantage < 0 else least

    return float(not t.advantage or objective(t.ratio * (1 + 1e-7) + 1e-300) != objective(t.ratio)), t.ratio


TOKEN_TABLE: dict[str, Callable[..., tuple[float, float]]] = {
    "tv-mask": lambda t, epsilon: (float(-epsilon <= t.p - t.q <= epsilon), t.ratio),
    "binary-kl-mask": binary_kl_mask,
    "dppo-tv": lambda t, delta: dppo(t, abs(t.p - t.q), delta),
    "dppo-kl": lambda t, delta: dppo(t, two_point_kl(t.q, t.p), delta),
    "cispo": lambda t, low, high: (1.0, sorted([1 - low, t.ratio, 1 + high])[1]),
    "sapo": sapo,
    "ppo-clip": ppo_clip,
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


def truncated(l: list[float], advantage: float, aggregate: str, clip: float, floor: float) -> list[tuple[float, float]]:
    return same_for_all(l, True, min(max(math.exp(aggregated(l, aggregate)), floor), clip))


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


def gmpo(l: list[float], advantage: float, low: float, high: float) -> list[tuple[float, float]]:
    """A token is dropped if its factor in the objective's geometric mean does not move with it."""

    def factor(x: float) -> float:
        ratio, clipped = math.exp(x), math.exp(min(max(x, -low), high))
        return min(ratio, clipped) if advantage > 0 else max(ratio, clipped) if advantage < 0 else ratio

    mean = math.prod(factor(x) for x in l) ** (1 / len(l))
    return [(float(factor(x + 1e-9) != factor(x)), mean) for x in l]


def vespo(l: list[float], advantage: float, **parameters: float) -> list[tuple[float, float]]:
    """s^k e^(−λs), over its value at s = 1."""
    sign = "negative" if advantage < 0 else "positive"
    k, decay = parameters[f"k_{sign}"], parameters[f"lambda_{sign}"]
    s = math.exp(sum(l))
    return same_for_all(l, True, s**k * math.exp(-decay * s) / math.exp(-decay))


def vaco(l: list[float], advantage: float, bound: float) -> list[tuple[float, float]]:
    far = sum(abs(math.exp(x) - 1) for x in l) / len(l) > bound
    return [(0.0 if far and x * advantage > 0 else 1.0, 1.0) for x in l]


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
    "sequence-mask-error": lambda l, a, bound, aggregate: same_for_all(
        l, aggregated([max(math.exp(x), math.exp(-x)) for x in l], aggregate) <= bound
    ),
    "geometric-band-is": lambda l, a, low, high: [
        (float(low <= math.exp(sum(l) / len(l)) <= high), math.exp(x)) for x in l
    ],
    "minpro": lambda l, a: [(1.0, math.exp(x) * min(map(math.exp, l[:t]), default=1.0)) for t, x in enumerate(l)],
    "vaco": vaco,
    "gspo": gspo,
    "luspo": lambda l, a, low, high: [(accept, len(l) * weight) for accept, weight in gspo(l, a, low, high)],
    "gmpo": gmpo,
    "vespo": vespo,
    "veto": lambda l, a, threshold: same_for_all(l, not any(math.exp(x) < threshold for x in l)),
    "opsm": lambda l, a, delta: same_for_all(l, not (a < 0 and sum(-x for x in l) / len(l) > delta)),
    "m2po": second_moment,
}
"""(a, w) of each token from the log-ratios of one sequence, its advantage and the parameters."""
