"""The prefixes that were seen, and their laws, however many sequences go through a model at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.environments.prefix_tree import PrefixTree
from jackpot_sim.environments.sequences import drawn_prefixes
from jackpot_sim.environments.sequences.drawn_prefixes import DrawnPrefixes
from jackpot_sim.environments.sequences.mean_kl import ExactKL, SampledKL

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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda tokens, mask: (tokens, mask.astype(int)), "mask must be boolean"),
        (lambda tokens, mask: (tokens, mask[:, :1]), "mask has shape"),
        (lambda tokens, mask: (tokens, mask[:, ::-1]), "mask has padding before a token"),
        (lambda tokens, mask: (tokens * 1.0, mask), "tokens must hold integers"),
        (lambda tokens, mask: (tokens[0], mask[0]), "tokens has shape"),
    ],
)
def test_tokens_and_mask_that_do_not_fit_are_refused(wrong: Any, said: str) -> None:
    tokens, mask = np.array([[1, 2], [1, 0]]), np.array([[True, True], [True, False]])
    prefixes = DrawnPrefixes.of(tokens, mask)
    with pytest.raises((TypeError, ValueError), match=said):
        DrawnPrefixes.of(*wrong(tokens, mask))
    with pytest.raises(ValueError, match="depth has shape"):
        DrawnPrefixes(prefixes.sequences, prefixes.example, prefixes.depth[:1])
    with pytest.raises(ValueError, match="example must lie from 0 to 1"):
        DrawnPrefixes(prefixes.sequences, prefixes.example + 2, prefixes.depth)


def test_uniforms_and_prompts_of_a_sampled_kl_belong_together() -> None:
    prompts, uniforms = np.array([[1], [2]]), np.full((2, 3, 4), 0.5)
    SampledKL(prompts, uniforms, 0)
    for wrong in ((prompts, uniforms[0]), (prompts, uniforms[:1]), (prompts[0], uniforms), (prompts * 1.0, uniforms)):
        with pytest.raises((TypeError, ValueError), match=r"(uniforms|prompts) "):
            SampledKL(*wrong, 0)
    with pytest.raises(ValueError, match="prompts has shape"):
        ExactKL(PrefixTree(3, 2), prompts[:, 0])
