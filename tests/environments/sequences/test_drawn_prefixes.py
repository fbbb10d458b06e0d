"""The prefixes that were seen, and their laws, however many sequences go through a model at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.environments.sequences import drawn_prefixes
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes

VOCAB = 3


class Counting:
    """Says at every prefix which one it is, and keeps how many sequences it was given at a time."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def log_probs_along(self, prompt: Ints, tokens: Ints) -> Floats:
        self.given.append(len(tokens))
        return np.array([[name_of(prompt, y[:t]) for t in range(len(y))] for y in tokens.tolist()])


def name_of(prompt: Ints, prefix: list[int]) -> list[float]:
    """A different number for every prefix, and every token after it."""
    number = int(prompt[0])
    for token in prefix:
        number = number * (VOCAB + 1) + token + 1
    return [float(number * VOCAB + token) for token in range(VOCAB)]


def drawn(n: int, length: int) -> tuple[Ints, Flags]:
    generator = np.random.default_rng(0)
    return generator.integers(VOCAB, size=(n, length)), np.arange(length) < generator.integers(1, length + 1, (n, 1))


@pytest.mark.parametrize("at_once", [1, 3, 5, 1024])
def test_laws_are_those_of_every_prefix_in_blocks_of_any_size(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_prefixes, "_AT_ONCE", at_once)
    tokens, mask = drawn(40, 4)
    seen: DrawnPrefixes = DrawnPrefixes.of(tokens, mask)
    scorer: Any = Counting()
    prompt = np.array([7])
    laws = seen.laws(scorer, prompt)
    assert (len(scorer.given) > 3) == (at_once < 1024)
    assert max(scorer.given) <= at_once
    assert sum(scorer.given) == len(np.unique(seen.example))  # none goes through it twice
    for y, rows, live in zip(tokens.tolist(), seen.sequences.prefix, mask.sum(axis=1), strict=True):
        for t in range(live):
            assert laws[rows[t]].tolist() == name_of(prompt, y[:t])
    there = {tuple(y[:t]) for y, live in zip(tokens.tolist(), mask.sum(axis=1), strict=True) for t in range(live)}
    assert len(laws) == len(there)
