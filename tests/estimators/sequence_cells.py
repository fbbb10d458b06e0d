"""Small trees to try corrections of sequences on, and the same in the package's own form."""

from __future__ import annotations

from typing import Any

import numpy as np

from jackpot_sim.testing.prompts import Change
from jackpot_sim.testing.prompts import enumeration as enumeration
from jackpot_sim.testing.prompts import random_prompt as random_prompt
from jackpot_sim.testing.prompts import table as table
from tests.estimators.sequence_brute import Phi, Policy, Prefix, Prompt, Shape, prefixes


def without(law: Policy, prefix: Prefix, token: int) -> None:
    """Takes a token from a law, in place, so that a reference that is the policy stays so."""
    row = law[prefix]
    rest = 1 - row[token]
    row[:] = [0.0 if x == token else p / rest for x, p in enumerate(row)]


def ending(prompt: Prompt, end: int, share: float) -> None:
    """Gives the end token this probability everywhere, in place, whoever writes."""
    for law in (prompt.policy, prompt.actor):
        for row in law.values():
            rest = 1 - row[end]
            row[:] = [share if x == end else (1 - share) * p / rest for x, p in enumerate(row)]


def unequal_prompts(shape: Shape, seed: int) -> list[Prompt]:
    """Two prompts whose sequences have about one token, and nearly as many as there can be."""
    assert shape.end is not None
    prompts = [random_prompt(shape, seed + index) for index in range(2)]
    for prompt, share in zip(prompts, (0.9, 0.08), strict=True):
        ending(prompt, shape.end, share)
    return prompts


def _policy_with_holes(prompt: Prompt) -> None:
    without(prompt.policy, (), 1)
    without(prompt.policy, (0,), 0)


def _actor_with_holes(prompt: Prompt) -> None:
    without(prompt.actor, (0,), 1)


def cases(updated: bool) -> dict[str, tuple[Shape, list[Prompt]]]:
    def two(shape: Shape, seed: int, change: Change | None = None) -> tuple[Shape, list[Prompt]]:
        first = random_prompt(shape, seed, updated=updated, change=change)
        return shape, [first, random_prompt(shape, seed + 1, updated=updated)]

    return {
        "an end token": two(Shape(3, 3, 1), 1),
        "no end token": two(Shape(2, 3, None), 3),
        "one step": two(Shape(3, 1, 2), 5),
        "a policy with holes": two(Shape(3, 2, 2), 7, _policy_with_holes),
        "an actor that cannot reach the policy": two(Shape(2, 3, None), 9, _actor_with_holes),
    }


def feature_table(shape: Shape, phi: Phi) -> Any:
    """The brute force's gradients of log p as the package takes them, (prefixes, vocab, parameters)."""
    return np.array([[phi[s, x] for x in range(shape.vocab)] for s in prefixes(shape)])
