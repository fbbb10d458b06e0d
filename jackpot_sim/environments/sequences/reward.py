"""Rewards R(y) of whole sequences of tokens, from which advantages are made.

Each is a frozen configuration whose `of` gives R of shape (n,) for any sequences, enumerated or drawn. A reward looks
at the tokens alone, so a sequence has the same reward wherever it is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import ndtri

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_ids, check_integers, check_mask, check_padding
from jackpot_sim.core.hashing import splitmix64
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_positive


@dataclass(frozen=True, kw_only=True)
class SumReward:
    """A verifiable reward: 1 if the tokens of the sequence add up to `target` modulo `modulus`, else 0.

    Tokens count by their ids; so does the end token, which adds nothing where it is token 0.
    """

    kind: Literal["sum-modulo"] = "sum-modulo"
    modulus: int = 3
    target: int = 0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("modulus", self.modulus, 2)
        check_count("target", self.target, 0, self.modulus - 1)

    def of(self, tokens: Ints, mask: Flags, vocab: int, generator: np.random.Generator) -> Floats:
        """R of shape (n,) for tokens and mask of shape (n, length); nothing is drawn."""
        _check(tokens, mask, vocab)
        right: Flags = np.sum(tokens, axis=-1, where=mask) % self.modulus == self.target
        return right.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class RandomReward:
    """R ~ N(0, scale²), independent over sequences: a reward without any structure to be learnt.

    A 64-bit hash of the tokens and of one number drawn from the generator decides R, so that the reward of a sequence
    does not depend on the other sequences asked about.
    """

    kind: Literal["random"] = "random"
    scale: float = 1.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def of(self, tokens: Ints, mask: Flags, vocab: int, generator: np.random.Generator) -> Floats:
        """R of shape (n,) for tokens and mask of shape (n, length); a fresh generator gives the same."""
        _check(tokens, mask, vocab)
        state = np.full(len(tokens), generator.integers(2**64, dtype=np.uint64))
        for token, live in zip(tokens.T, mask.T, strict=True):
            state = np.where(live, splitmix64(state ^ splitmix64(token.astype(np.uint64))), state)
        uniform = ((splitmix64(state) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        drawn: Floats = self.scale * ndtri(uniform)
        return drawn


@dataclass(frozen=True, kw_only=True)
class TokenShareReward:
    """A dense reward: the share of `token` among the tokens of the sequence, in [0, 1]."""

    kind: Literal["token-share"] = "token-share"
    token: int = 1

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("token", self.token, 0)

    def of(self, tokens: Ints, mask: Flags, vocab: int, generator: np.random.Generator) -> Floats:
        """R of shape (n,) for tokens and mask of shape (n, length); nothing is drawn.

        Raises:
            ValueError: the token is none of the vocabulary.
        """
        check_count("token of the reward", self.token, 0, vocab - 1)
        _check(tokens, mask, vocab)
        share: Floats = np.sum((tokens == self.token) & mask, axis=-1) / np.sum(mask, axis=-1)
        return share


@dataclass(frozen=True, kw_only=True)
class DistinctShareReward:
    """A dense reward: different tokens over all tokens of the sequence, in (0, 1]; repetition loses."""

    kind: Literal["distinct-share"] = "distinct-share"

    __pydantic_config__ = FORBID_EXTRA

    def of(self, tokens: Ints, mask: Flags, vocab: int, generator: np.random.Generator) -> Floats:
        """R of shape (n,) for tokens and mask of shape (n, length); nothing is drawn."""
        _check(tokens, mask, vocab)
        ordered = np.sort(np.where(mask, tokens, -1), axis=-1)
        new = np.diff(ordered, axis=-1, prepend=-1) != 0
        share: Floats = np.sum(new, axis=-1) / np.sum(mask, axis=-1)
        return share


def _check(tokens: Ints, mask: Flags, vocab: int) -> None:
    """Refuses tokens and mask that are not of one shape (n, length), and tokens beyond the vocabulary."""
    check_mask(mask, check_integers(tokens, "tokens", "n", "length"), "tokens")
    check_padding(mask)
    check_ids(np.where(mask, tokens, 0), vocab, "tokens")


Reward: TypeAlias = SumReward | RandomReward | TokenShareReward | DistinctShareReward
