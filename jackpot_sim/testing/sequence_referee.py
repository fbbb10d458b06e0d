"""Moments of corrections along sequences, by loops: every sequence and every mask, no formula of `estimators`.

A prefix is a tuple of tokens, a policy a dictionary from prefixes to probabilities, and an update an explicit
vector over all (prefix, token) or over parameters. Masks are enumerated too, so that variances, also those of
ratios (by their influence function), are plain sums over outcomes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Prefix: TypeAlias = tuple[int, ...]
Policy: TypeAlias = dict[Prefix, list[float]]
Vector: TypeAlias = Any
"""A numpy array, or 0 where nothing was added up."""
Phi: TypeAlias = dict[tuple[Prefix, int], Vector]
"""∇log p of a token at a prefix."""


class Shape(NamedTuple):
    """The tree of sequences: its vocabulary, the most tokens of a sequence, and the end token, if there is one."""

    vocab: int
    length: int
    end: int | None


@dataclass(frozen=True)
class Prompt:
    """`advantage` is that of whole sequences, end token included."""

    policy: Policy
    actor: Policy
    reference: Policy
    advantage: dict[Prefix, float]


def prefixes(shape: Shape) -> list[Prefix]:
    """The prefixes after which another token comes."""
    going_on = [token for token in range(shape.vocab) if token != shape.end]
    return [prefix for depth in range(shape.length) for prefix in itertools.product(going_on, repeat=depth)]


def strings(shape: Shape, prefix: Prefix = ()) -> list[Prefix]:
    """The sequences that begin with a prefix."""
    if len(prefix) == shape.length or (prefix and prefix[-1] == shape.end):
        return [prefix]
    return [found for token in range(shape.vocab) for found in strings(shape, (*prefix, token))]


def chance(policy: Policy, string: Prefix) -> float:
    """The probability of a sequence."""
    return math.prod(policy[string[:t]][token] for t, token in enumerate(string))


class Step(NamedTuple):
    """One token of a sequence, as a correction sees it."""

    ratio: float
    target: list[float]
    actor: list[float]
    back: float | None
    """p_ref/p_new, where p_new is the target."""
    token: int
    advantage: float
    """A of the whole sequence."""


Rule: TypeAlias = Callable[..., list[tuple[float, float]]]
"""(a, w) of the tokens of a sequence, given its steps."""


def steps_of(prompt: Prompt, string: Prefix, target: str) -> list[Step]:
    """The steps of a sequence, weighed for p_ref or for p_new."""
    aim = prompt.reference if target == "p_ref" else prompt.policy
    found = []
    for t, token in enumerate(string):
        s = string[:t]
        back = None
        if target == "p_new":
            back = prompt.reference[s][token] / prompt.policy[s][token] if prompt.policy[s][token] > 0 else math.inf
        found.append(
            Step(aim[s][token] / prompt.actor[s][token], aim[s], prompt.actor[s], back, token, prompt.advantage[string])
        )
    return found


def surrogate(prompt: Prompt, string: Prefix) -> list[float]:
    """p_new/p_ref of each token, 1 where they are the same, 0 included."""
    pairs = [(prompt.policy[string[:t]][x], prompt.reference[string[:t]][x]) for t, x in enumerate(string)]
    return [1.0 if new == old else new / old for new, old in pairs]


def logits(shape: Shape, prompt: Prompt) -> Phi:
    """e_{y_t} − p(·|s_t) in the row of s_t, as one flat vector."""
    every = list(itertools.product(prefixes(shape), range(shape.vocab)))
    return {
        (s, x): np.array([(float(x == other) - prompt.policy[s][other]) * (s == row) for row, other in every])
        for s, x in every
    }


def score(phi: Phi, string: Prefix, factors: list[float]) -> Vector:
    """Σ_t of a factor times ∇log p of the token."""
    return sum(factor * phi[string[:t], token] for t, (token, factor) in enumerate(zip(string, factors, strict=True)))


def mean_of(prompt: Prompt, s: Prefix, rule: Rule, target: str, phi: Phi, advantage: float) -> Vector:
    """h(s) = Σ_x q(x|s)·a·w·φ(s, x) of a rule of single tokens, where the sequence has this advantage."""
    total: Vector = 0.0
    for x, q in enumerate(prompt.actor[s]):
        if q == 0:
            continue
        given = replace(prompt, advantage=prompt.advantage | {(*s, x): advantage})
        ((a, w),) = rule(steps_of(given, (*s, x), target)[-1:])
        total = total + q * a * w * surrogate(prompt, (*s, x))[-1] * phi[s, x]
    return total


class Outcome(NamedTuple):
    """One sequence with one pattern of masks."""

    chance: float
    update: Vector
    kept: float
    tokens: float
    weight: float
    square: float
    units: float


class State:
    """One prompt under one correction."""

    def __init__(
        self, shape: Shape, prompt: Prompt, rule: Rule, level: str, target: str, phi: Phi, centred: bool = False
    ) -> None:
        self.gradient: Vector = 0.0
        on_policy = 0.0
        self.policy_visits: dict[tuple[Prefix, int], float] = {}
        self.accepted: dict[tuple[Prefix, int], float] = {}
        self.law: dict[tuple[Prefix, int], float] = {}
        self.outcomes: list[Outcome] = []
        for y in strings(shape):
            p, q, advantage = chance(prompt.policy, y), chance(prompt.actor, y), prompt.advantage[y]
            own = advantage * score(phi, y, [1.0] * len(y))
            self.gradient = self.gradient + p * own
            on_policy += p * float(own @ own)
            _visit(self.policy_visits, y, [p] * len(y))
            if q == 0:
                continue
            pairs = [
                (a, w * ratio)
                for (a, w), ratio in zip(rule(steps_of(prompt, y, target)), surrogate(prompt, y), strict=True)
            ]
            _visit(self.accepted, y, [q * a for a, _ in pairs])
            _visit(self.law, y, [q * a * w if a > 0 else 0.0 for a, w in pairs])
            units = float(len(y)) if level == "token" else 1.0
            lost = sum(mean_of(prompt, y[:t], rule, target, phi, advantage) for t in range(len(y))) if centred else 0.0
            for mask, probability in _masks([a for a, _ in pairs]):
                kept = [w if m else 0.0 for m, (_, w) in zip(mask, pairs, strict=True)]
                share = units / len(y)
                self.outcomes.append(
                    Outcome(
                        q * probability,
                        advantage * (score(phi, y, kept) - lost),
                        float(sum(mask)),
                        float(len(y)),
                        sum(kept) * share,
                        sum(w**2 for w in kept) * share,
                        units,
                    )
                )
        self.signal = float(self.gradient @ self.gradient)
        self.on_policy_variance = on_policy - self.signal

    def mean(self, value: Callable[[Outcome], Any]) -> Any:
        """The mean of a value over the outcomes."""
        return sum(o.chance * value(o) for o in self.outcomes)

    def mean_at(self, place: int) -> float:
        """The mean of a field of the outcomes."""
        return float(sum(o.chance * o[place] for o in self.outcomes))

    def spread(self, value: Callable[[Outcome], Vector]) -> float:
        """The trace of its covariance."""
        centre = self.mean(value)
        return float(self.mean(lambda o: float((value(o) - centre) @ (value(o) - centre))))


def _visit(table: dict[tuple[Prefix, int], float], y: Prefix, masses: list[float]) -> None:
    for t, (token, mass) in enumerate(zip(y, masses, strict=True)):
        table[y[:t], token] = table.get((y[:t], token), 0.0) + mass


def _masks(accept: list[float]) -> Iterator[tuple[tuple[bool, ...], float]]:
    for mask in itertools.product((False, True), repeat=len(accept)):
        probability = math.prod(a if m else 1 - a for m, a in zip(mask, accept, strict=True))
        if probability > 0:
            yield mask, probability


def divergence(first: dict[Any, float], second: dict[Any, float]) -> float:
    """KL of two tables of masses, each divided by its sum; nan where the second is empty."""
    total, other, found = sum(first.values()), sum(second.values()), 0.0
    if other == 0:
        return math.nan
    for key, mass in first.items():
        if mass > 0:
            against = second.get(key, 0.0)
            found += math.inf if against == 0 else mass / total * math.log(mass / total * other / against)
    return found


def by_prefix(visits: dict[tuple[Prefix, int], float]) -> dict[Prefix, float]:
    """The masses of visits, added up over the tokens at each prefix."""
    out: dict[Prefix, float] = {}
    for (s, _), mass in visits.items():
        out[s] = out.get(s, 0.0) + mass
    return out


def states_of(
    shape: Shape,
    prompts: list[Prompt],
    rule: Rule,
    level: str,
    target: str,
    phis: list[Phi] | None = None,
    centred: bool = False,
) -> list[State]:
    """The prompts under one rule; gradients are in logits unless `phis` gives others."""
    phis = [logits(shape, prompt) for prompt in prompts] if phis is None else phis
    return [State(shape, prompt, rule, level, target, phi, centred) for prompt, phi in zip(prompts, phis, strict=True)]


def moments(states: list[State], denominator: str, n_samples: int) -> dict[str, float]:
    """Every column of `Moments`."""
    count = len(states)
    kept, tokens = (sum(s.mean_at(i) for s in states) for i in (2, 3))
    scales = {
        "proposed": [1.0] * count,
        "accepted": [tokens / kept if kept else math.nan] * count,
        "self_normalized": [s.mean(lambda o: o.units) / (s.mean(lambda o: o.weight) or math.nan) for s in states],
    }[denominator]
    updates = [s.mean(lambda o: o.update) for s in states]
    estimates = [scale * update for scale, update in zip(scales, updates, strict=True)]
    signal = sum(s.signal for s in states) / count
    noise = sum(s.on_policy_variance for s in states) / count
    variances = [_variance(states, index, denominator, updates[index]) for index in range(count)]
    together, gradients = np.concatenate(estimates), np.concatenate([s.gradient for s in states])
    error = together - gradients
    bias_sq = float(error @ error) / count / signal
    variance = sum(variances) / count / noise
    gain = float(together @ gradients) / count / signal
    noise_left = variance * noise / signal / n_samples
    size = float(together @ together) / count / signal + noise_left
    multiple = max(gain / size, 0.0)
    weight, square, units = (sum(s.mean_at(i) for s in states) for i in (4, 5, 6))
    return {
        "acceptance_rate": kept / tokens,
        "kl_accepted": sum(divergence(s.policy_visits, s.accepted) for s in states) / count,
        "kl_effective": sum(divergence(s.policy_visits, s.law) for s in states) / count,
        "kl_prefix": sum(divergence(by_prefix(s.policy_visits), by_prefix(s.law)) for s in states) / count,
        "grad_norm_sq": signal,
        "on_policy_variance": noise,
        "bias_sq": bias_sq,
        "direction_bias": 1 - float(together @ gradients) / math.sqrt((together @ together) * (gradients @ gradients)),
        "gain": gain,
        "variance": variance,
        "noise_to_signal": noise / signal,
        "mse": bias_sq + noise_left,
        "mse_rescaled": multiple**2 * size - 2 * multiple * gain + 1,
        "ess_fraction": weight**2 / (square * units),
    }


def _variance(states: list[State], index: int, denominator: str, update: Vector) -> float:
    """n times the variance of U = X̄·C̄/D̄, by the influence of one outcome of each prompt."""
    state = states[index]
    if denominator == "proposed":
        return state.spread(lambda o: o.update)
    involved = states if denominator == "accepted" else [state]
    counted, divided = (3, 2) if denominator == "accepted" else (6, 4)
    c, d = (sum(s.mean_at(i) for s in involved) for i in (counted, divided))
    if d == 0:
        return math.nan
    return sum(_influence(other, other is state, update, counted, divided, c, d) for other in involved)


def _influence(other: State, mine: bool, update: Vector, counted: int, divided: int, c: float, d: float) -> float:
    """The variance that the outcomes of one prompt bring into X̄·C̄/D̄, of which X̄ is its own or not."""

    def moved(o: Outcome) -> Vector:
        return mine * o.update * c / d + update * (o[counted] / d - c / d**2 * o[divided])

    return other.spread(moved)
