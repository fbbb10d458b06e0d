"""Corrections along sequences written once more, as rules of the steps of a sequence; the package has the referee."""

from __future__ import annotations

import math
from collections.abc import Callable

from jackpot_sim.testing.sequence_referee import Outcome as Outcome
from jackpot_sim.testing.sequence_referee import Phi as Phi
from jackpot_sim.testing.sequence_referee import Policy as Policy
from jackpot_sim.testing.sequence_referee import Prefix as Prefix
from jackpot_sim.testing.sequence_referee import Prompt as Prompt
from jackpot_sim.testing.sequence_referee import Rule as Rule
from jackpot_sim.testing.sequence_referee import Shape as Shape
from jackpot_sim.testing.sequence_referee import State as State
from jackpot_sim.testing.sequence_referee import Step as Step
from jackpot_sim.testing.sequence_referee import Vector as Vector
from jackpot_sim.testing.sequence_referee import by_prefix as by_prefix
from jackpot_sim.testing.sequence_referee import chance as chance
from jackpot_sim.testing.sequence_referee import divergence as divergence
from jackpot_sim.testing.sequence_referee import logits as logits
from jackpot_sim.testing.sequence_referee import mean_of as mean_of
from jackpot_sim.testing.sequence_referee import moments as moments
from jackpot_sim.testing.sequence_referee import prefixes as prefixes
from jackpot_sim.testing.sequence_referee import score as score
from jackpot_sim.testing.sequence_referee import states_of as states_of
from jackpot_sim.testing.sequence_referee import steps_of as steps_of
from jackpot_sim.testing.sequence_referee import strings as strings
from jackpot_sim.testing.sequence_referee import surrogate as surrogate


def _overlap(step: Step, lam: float) -> float:
    return sum(min(q, p / lam) for p, q in zip(step.target, step.actor, strict=True))


def _jackpot(step: Step, lam: float, c1: float, c2: float, clip_on: str = "weight") -> tuple[float, float]:
    z = _overlap(step, lam)
    weight = min(z * max(lam, step.ratio), c1) if clip_on == "weight" else lam * z * min(max(step.ratio / lam, 1.0), c1)
    return min(1.0, step.ratio / lam), weight * (1.0 if step.back is None else min(step.back, c2))


def _product(steps: list[Step]) -> float:
    return math.prod(step.ratio for step in steps)


def _mean(steps: list[Step]) -> float:
    return _product(steps) ** (1 / len(steps))


def every(steps: list[Step], accept: bool, weight: float) -> list[tuple[float, float]]:
    return [(float(accept), weight) for _ in steps]


def _two_point_kl(u: float, v: float) -> float:
    return sum(a * math.log(a / b) for a, b in ((u, v), (1 - u, 1 - v)) if a > 0) if 0 < v < 1 or u == v else math.inf


def _probability_mask(
    steps: list[Step], far: Callable[[float, float], bool], signed: bool
) -> list[tuple[float, float]]:
    """r, or nothing where p and q are far apart (and a step along A·∇log p takes them further)."""
    found = []
    for s in steps:
        p, q = s.target[s.token], s.actor[s.token]
        widens = not signed or (p - q) * s.advantage > 0
        found.append((float(not (far(p, q) and widens)), s.ratio))
    return found


def _sapo(s: Step, tau_positive: float, tau_negative: float) -> tuple[float, float]:
    tau = tau_positive if s.advantage > 0 else tau_negative
    # 4σ(1 − σ), without the cancellation in 1 − σ.
    return 1.0, s.ratio / math.cosh(tau * (s.ratio - 1) / 2) ** 2


def _vaco(steps: list[Step], bound: float) -> list[tuple[float, float]]:
    far = sum(abs(s.ratio - 1) for s in steps) / len(steps) > bound
    return [(0.0 if far and (s.ratio - 1) * s.advantage > 0 else 1.0, 1.0) for s in steps]


def _gmpo(steps: list[Step], low: float, high: float) -> list[tuple[float, float]]:
    """Bounds are on log r; a ratio at its bound no longer moves the mean."""
    most, least = math.exp(high), math.exp(-low)
    capped = [min(s.ratio, most) if s.advantage > 0 else max(s.ratio, least) for s in steps]
    mean = math.prod(capped) ** (1 / len(steps))
    return [(float(c == s.ratio), mean) for c, s in zip(capped, steps, strict=True)]


def _gspo(steps: list[Step], low: float, high: float, times: float = 1.0) -> list[tuple[float, float]]:
    s, advantage = _mean(steps), steps[0].advantage
    held = s > 1 + high if advantage > 0 else s < 1 - low
    return every(steps, not held, times * s)


def _vespo(steps: list[Step]) -> list[tuple[float, float]]:
    s = _product(steps)
    return every(
        steps, True, math.exp(2) * s**3 * math.exp(-2 * s) if steps[0].advantage < 0 else s**2 * math.exp(3 - 3 * s)
    )


TOKEN: dict[str, Rule] = {
    "none": lambda y: every(y, True, 1.0),
    "is": lambda y: [(1.0, s.ratio) for s in y],
    "tis": lambda y, clip: [(1.0, min(s.ratio, clip)) for s in y],
    "mis": lambda y, low, high: [(float(low <= s.ratio <= high), s.ratio) for s in y],
    "obrs": lambda y, lam: [(min(1.0, s.ratio / lam), 1.0) for s in y],
    "jackpot": lambda y, **given: [_jackpot(s, **given) for s in y],
    "tv-mask": lambda y, epsilon: _probability_mask(y, lambda p, q: abs(p - q) > epsilon, False),
    "binary-kl-mask": lambda y, bound: _probability_mask(
        y, lambda p, q: max(_two_point_kl(p, q), _two_point_kl(q, p)) > bound, False
    ),
    "dppo-tv": lambda y, delta: _probability_mask(y, lambda p, q: abs(p - q) > delta, True),
    "dppo-kl": lambda y, delta: _probability_mask(y, lambda p, q: _two_point_kl(q, p) > delta, True),
    "cispo": lambda y, low, high: [(1.0, max(1 - low, min(s.ratio, 1 + high))) for s in y],
    "sapo": lambda y, tau_positive, tau_negative: [_sapo(s, tau_positive, tau_negative) for s in y],
    "topr": lambda y: [(1.0, 1.0 if s.advantage > 0 else min(s.ratio, 1.0)) for s in y],
    # Of sequences, but with weights that are averaged over tokens:
    "minpro": lambda y: [(1.0, s.ratio * min((e.ratio for e in y[:t]), default=1.0)) for t, s in enumerate(y)],
    "vaco": _vaco,
}
SEQUENCE: dict[str, Rule] = {
    "sequence-is": lambda y: every(y, True, _product(y)),
    "sequence-tis": lambda y, clip, floor=0.0: every(y, True, min(max(_product(y), floor), clip)),
    "sequence-mis": lambda y, low, high: every(y, low <= _product(y) <= high, _product(y)),
    "geometric-is": lambda y: every(y, True, _mean(y)),
    "geometric-tis": lambda y, clip: every(y, True, min(_mean(y), clip)),
    "sequence-mask-error": lambda y, bound: every(
        y, sum(max(s.ratio, 1 / s.ratio) if s.ratio > 0 else math.inf for s in y) / len(y) <= bound, 1.0
    ),
    "geometric-band-is": lambda y, low, high: [(float(low <= _mean(y) <= high), s.ratio) for s in y],
    "gspo": _gspo,
    "luspo": lambda y, low, high: _gspo(y, low, high, len(y)),
    "gmpo": _gmpo,
    "vespo": _vespo,
    "veto": lambda y, threshold: every(y, all(s.ratio >= threshold for s in y), 1.0),
}
