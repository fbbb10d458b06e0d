"""Small trees of sequences to try corrections on, and the same in the form that `estimators` takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.sequences import Enumeration, SequenceLaws
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.testing.sequence_referee import Policy, Prompt, Shape, prefixes, strings

Change: TypeAlias = Callable[[Prompt], None]


def random_prompt(shape: Shape, seed: int, *, updated: bool = False, change: Change | None = None) -> Prompt:
    """Ordinary laws, the actor's near the policy's; `updated`: p_ref is neither."""
    generator = np.random.default_rng(seed)

    def law(logits: Floats) -> list[float]:
        weights = np.exp(logits)
        return [float(x) for x in weights / weights.sum()]

    policy, actor, reference = {}, {}, {}
    for prefix in prefixes(shape):
        logits, away, step = generator.normal(size=(3, shape.vocab))
        policy[prefix], actor[prefix] = law(logits), law(logits + 0.6 * away)
        reference[prefix] = law(logits + 0.4 * step) if updated else policy[prefix]
    prompt = Prompt(policy, actor, reference, {y: float(generator.normal()) for y in strings(shape)})
    if change is not None:
        change(prompt)
    return prompt


def table(shape: Shape, policy: Policy) -> Floats:
    """log p(x|s), rows in the order of the tree."""
    return np.array([[math.log(p) if p > 0 else -math.inf for p in policy[prefix]] for prefix in prefixes(shape)])


def enumeration(shape: Shape, prompt: Prompt) -> Enumeration:
    """The prompt in the form that `estimators` takes."""
    sequences = PrefixTree(*shape).sequences
    written = [tuple(tokens[live].tolist()) for tokens, live in zip(sequences.token, sequences.mask, strict=True)]
    policy = table(shape, prompt.policy)
    reference = policy if prompt.reference == prompt.policy else table(shape, prompt.reference)
    laws = SequenceLaws(policy, table(shape, prompt.actor), reference)
    return Enumeration(laws, sequences, np.array([prompt.advantage[y] for y in written]))
