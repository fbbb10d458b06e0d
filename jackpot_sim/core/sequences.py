"""Sequences as paths through a table of prefixes, and sums along them.

In a language model a state is a prefix. Its law, its value and its gradient are rows of a table of
shape (prefixes, vocab); a sequence is the list of rows and columns that it passes. So values of (prefix, token)
are gathered along sequences, and values of sequences are summed into the table. The table may hold every
prefix, or only the visited ones.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.divergences import kl_to_measure
from jackpot_sim.core.numerics import check_log_probs, check_same_shape, log_ratio


@dataclass(frozen=True, eq=False)
class Sequences:
    """n sequences of at most `length` tokens; all arrays of shape (n, length).

    Attributes:
        prefix: the row of the prefix at which each token was chosen, int64; at padding any row of the table.
        token: the token chosen, int64; at padding any token.
        mask: True on tokens, which come before all padding.
    """

    prefix: Ints
    token: Ints
    mask: Flags

    def __post_init__(self) -> None:
        check_same_shape(self.prefix, self.token, "prefix", "token")
        check_same_shape(self.prefix, self.mask, "prefix", "mask")

    def __len__(self) -> int:
        return len(self.prefix)

    @cached_property
    def lengths(self) -> Floats:
        """The number of tokens of each sequence, shape (n,)."""
        return per_sequence(self.mask.astype(np.float64))

    def gather(self, table: NDArray[Any]) -> Floats:
        """The table's value at every token, shape (n, length); 0 at padding.

        Args:
            table: shape (prefixes, vocab), or (prefixes,) for values of prefixes.
        """
        cells = self.prefix if table.ndim == 1 else self._cells(table.shape[1])
        values = np.take(table, cells)
        return values if self._no_padding else np.where(self.mask, values, 0.0)

    def scatter(self, values: NDArray[Any], shape: tuple[int, int]) -> Floats:
        """The table of shape (prefixes, vocab) into which every token adds its value; padding adds nothing.

        Args:
            values: shape (n, length), or (n, 1) for values of whole sequences.
            shape: the shape of the table, (prefixes, vocab).
        """
        cells, added = self._cells(shape[1]).reshape(-1), np.where(self.mask, values, 0.0).reshape(-1)
        return np.bincount(cells, weights=added, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

    def _cells(self, vocab: int) -> Ints:
        """The place of each (prefix, token) in a flat table."""
        return self.prefix * vocab + self.token

    @cached_property
    def _no_padding(self) -> bool:
        return bool(self.mask.all())

    def log_probs(self, table: Floats) -> Floats:
        """log p(y) of every sequence, shape (n,), from log p(x|s) of shape (prefixes, vocab); nats."""
        return per_sequence(self.gather(table))

    def log_ratio(self, policy_log_probs: Floats, actor_log_probs: Floats) -> Floats:
        """log p(y)/q(y) of every sequence, shape (n,), nats, from tables of shape (prefixes, vocab).

        It is the sum of the tokens' log-ratios: log p(y) − log q(y) would have few digits for near-equal policies.
        It is −inf where p(y) = 0, whatever q(y) is.
        """
        ratios = self.gather(np.asarray(log_ratio(policy_log_probs, actor_log_probs)))
        lost = (ratios == -math.inf).any(axis=-1, keepdims=True)
        return np.where(lost[:, 0], -math.inf, per_sequence(np.where(lost, 0.0, ratios)))

    def take(self, rows: slice | Ints) -> Sequences:
        """Some of the sequences, by rows (m,) or a slice."""
        return Sequences(self.prefix[rows], self.token[rows], self.mask[rows])


@dataclass(frozen=True, eq=False)
class SequenceLaws:
    """The policies at every prefix of one prompt; all float64 of shape (prefixes, vocab), nats.

    Attributes:
        policy_log_probs: log p_new, the policy whose gradient is wanted.
        actor_log_probs: log q, the policy that wrote the rollouts.
        reference_log_probs: log p_ref, the policy before the update at hand; `policy_log_probs` itself
            where no update lies between them.

    Raises:
        ValueError: the shapes differ, or a law is not normalised.
    """

    policy_log_probs: Floats
    actor_log_probs: Floats
    reference_log_probs: Floats

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_log_probs(getattr(self, field.name), field.name)
            check_same_shape(self.policy_log_probs, getattr(self, field.name), "policy_log_probs", field.name)

    @property
    def shape(self) -> tuple[int, int]:
        """(prefixes, vocab)."""
        return self.policy_log_probs.shape[0], self.policy_log_probs.shape[1]


@dataclass(frozen=True, eq=False)
class Enumeration:
    """A prompt with every sequence that can follow it.

    Attributes:
        laws: the policies at every prefix.
        sequences: every sequence, each once.
        advantage: A(y) of every sequence, shape (n,).
    """

    laws: SequenceLaws
    sequences: Sequences
    advantage: Floats

    def __post_init__(self) -> None:
        check_advantages(self.advantage, self.sequences)


@dataclass(frozen=True, eq=False)
class SampledSequences:
    """A prompt with sequences that were drawn from the actor and, for the true gradient, from the policy.

    Attributes:
        laws: the policies at every prefix that was visited.
        actor: the actor's sequences, (replicates · n, length), one replicate after the other.
        actor_advantage: A(y) of each, (replicates · n,).
        policy: the policy's own sequences, the same shape.
        policy_advantage: A(y) of each, (replicates · n,).
        end_token: the token beyond which there is no prefix, or None.
    """

    laws: SequenceLaws
    actor: Sequences
    actor_advantage: Floats
    policy: Sequences
    policy_advantage: Floats
    end_token: int | None = None

    def __post_init__(self) -> None:
        check_advantages(self.actor_advantage, self.actor)
        check_advantages(self.policy_advantage, self.policy)
        if len(self.actor) != len(self.policy):
            raise ValueError(f"there are {len(self.actor)} sequences of the actor and {len(self.policy)} of the policy")


def check_advantages(advantage: Floats, sequences: Sequences) -> None:
    """Refuses advantages that are not finite, or not of shape (n,)."""
    if advantage.shape != (len(sequences),):
        raise ValueError(f"advantage has shape {advantage.shape}: there are {len(sequences)} sequences")
    if not np.all(np.isfinite(advantage)):
        raise ValueError("advantage holds NaN or inf")


def per_sequence(values: Floats, *factors: Floats) -> Floats:
    """Σ_t of the product of arrays of shape (n, length), shape (n,).

    It uses einsum, since numpy's own sum is slow along so short an axis.
    """
    operands = (values, *factors)
    return np.asarray(np.einsum(",".join(["nt"] * len(operands)) + "->n", *operands))


def occupancy(sequences: Sequences, probability: Floats, shape: tuple[int, int]) -> Floats:
    """The expected number of visits to every (prefix, token), shape (prefixes, vocab); its sum is the expected length.

    Args:
        sequences: n sequences.
        probability: the probability of each, shape (n,).
        shape: the shape of the table, (prefixes, vocab).
    """
    return sequences.scatter(probability[:, None], shape)


def kl_of_measures(first: Floats, second: Floats) -> float:
    """KL between two measures of any shape, each normalised first, nats.

    It is inf where the first has mass and the second has none, be it by underflow, and nan if either has no mass
    at all. Near-equal measures keep their digits: if both are known to a relative 1e-16 and differ by a relative
    s, the KL is known to a relative 1e-16/s.
    """
    if not (first > 0).any() or not (second > 0).any():
        return math.nan
    near = np.abs(first - second) < second / 2
    with np.errstate(divide="ignore"):
        log_first, log_second = (np.log(each / first.sum()) for each in (first, second))
        apart = np.asarray(log_ratio(log_first, log_second))
    ratio = np.where(near, np.log1p((first - second) / np.where(near, second, 1.0) * near), apart)
    return float(kl_to_measure(*(each.reshape(-1) for each in (log_first, ratio, log_second))))
