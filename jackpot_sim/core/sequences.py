"""Sequences as paths through a table of prefixes, and sums along them.

In a language model a state is a prefix. Its law, its value and its gradient are rows of a table of
shape (prefixes, vocab); a sequence is the list of rows and columns that it passes. So values of (prefix, token)
are gathered along sequences, and values of sequences are summed into the table. The table may hold every
prefix, or only the visited ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.backend import floating
from jackpot_sim.core.checks import (
    check_advantage,
    check_alike,
    check_beside,
    check_integers,
    check_log_probs,
    check_mask,
    check_same_shape,
    check_shape,
)
from jackpot_sim.core.divergences import kl_to_measure
from jackpot_sim.core.numerics import log_ratio

_MISSING = 1e-6
"""The largest |Σ p(y) − 1| of an enumeration for each token of its length: the tolerance of a law."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """n sequences of at most `length` tokens; all arrays of shape (n, length).

    Attributes:
        prefix: the row of the prefix at which each token was chosen, int64; at padding any row of the table.
        token: the token chosen, int64; at padding any token.
        mask: True on tokens, which come before all padding; boolean.

    Raises:
        TypeError: the mask is not boolean, or the others are no integers.
        ValueError: the shapes differ, or a prefix or token is negative.
    """

    prefix: Ints
    token: Ints
    mask: Flags

    def __post_init__(self) -> None:
        check_same_shape(check_integers(self.prefix, "prefix"), check_integers(self.token, "token"), "prefix", "token")
        check_mask(self.mask, self.prefix, "prefix")
        if self.prefix.ndim != 2:
            raise ValueError(f"prefix has shape {self.prefix.shape}: it must be (n, length), one row per sequence")
        self._require_within((math.inf, math.inf))

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

        Raises:
            ValueError: a prefix or a token lies outside the table.
        """
        table = np.asarray(table)
        if table.ndim not in (1, 2):
            raise ValueError(f"table has shape {table.shape}: it must be (prefixes, vocab) or (prefixes,)")
        self._require_within(table.shape)
        cells = self.prefix if table.ndim == 1 else self.prefix * table.shape[1] + self.token
        values = np.take(table, cells)
        return values if self._no_padding else np.where(self.mask, values, 0.0)

    def scatter(self, values: NDArray[Any], shape: tuple[int, int]) -> Floats:
        """The table of shape (prefixes, vocab) into which every token adds its value; padding adds nothing.

        Args:
            values: shape (n, length), or (n, 1) for values of whole sequences.
            shape: the shape of the table, (prefixes, vocab).

        Raises:
            ValueError: the values have another shape, or a prefix or a token lies outside the table.
        """
        check_beside(values, self.prefix, "values", "prefix")
        cells, added = self.cells(shape).reshape(-1), np.where(self.mask, values, 0.0).reshape(-1)
        return np.bincount(cells, weights=added, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

    def cells(self, shape: tuple[int, int]) -> Ints:
        """The place of each (prefix, token) in a flat table of shape (prefixes, vocab).

        Raises:
            ValueError: a prefix or a token lies outside the table.
        """
        self._require_within(shape)
        return self.prefix * shape[1] + self.token

    @cached_property
    def _range(self) -> dict[str, tuple[int, int]]:
        """The smallest and the largest prefix and token, padding included."""
        if not self.mask.size:
            return {}
        return {
            name: (int(ids.min()), int(ids.max())) for name, ids in (("prefix", self.prefix), ("token", self.token))
        }

    def _require_within(self, shape: tuple[float, ...]) -> None:
        """Refuses a table, of shape (prefixes, vocab) or (prefixes,), in which a prefix or a token has no place."""
        for (name, (least, largest)), size in zip(self._range.items(), shape, strict=False):
            if least < 0 or largest >= size:
                raise ValueError(
                    f"{name} must lie from 0 to {size - 1} in a table of shape {shape}, got {least} to {largest}"
                )

    @cached_property
    def _no_padding(self) -> bool:
        return bool(self.mask.all())

    def log_probs(self, table: Floats) -> Floats:
        """log p(y) of every sequence, shape (n,), from log p(x|s) of shape (prefixes, vocab); nats.

        Raises:
            TypeError: the table holds no real floating numbers.
            ValueError: it has another shape, or a sequence leaves it.
        """
        if floating(table, "table").ndim != 2:
            raise ValueError(f"table has shape {table.shape}: it must be (prefixes, vocab)")
        return per_sequence(self.gather(table))

    def log_ratio(self, policy_log_probs: Floats, actor_log_probs: Floats) -> Floats:
        """log p(y)/q(y) of every sequence, shape (n,), nats, from tables of shape (prefixes, vocab).

        It is the sum of the tokens' log-ratios: log p(y) − log q(y) would have few digits for near-equal policies.
        It is −inf where p(y) = 0, whatever q(y) is.

        Raises:
            TypeError: a table holds no real floating numbers.
            ValueError: the shapes differ or are not (prefixes, vocab), or a sequence leaves the tables.
        """
        if floating(policy_log_probs, "policy_log_probs").ndim != 2:
            raise ValueError(f"policy_log_probs has shape {policy_log_probs.shape}: it must be (prefixes, vocab)")
        ratios = self.gather(np.asarray(log_ratio(policy_log_probs, actor_log_probs)))
        lost = (ratios == -math.inf).any(axis=-1, keepdims=True)
        return np.where(lost[:, 0], -math.inf, per_sequence(np.where(lost, 0.0, ratios)))

    def take(self, rows: slice | Ints) -> Sequences:
        """Some of the sequences, by rows (m,) or a slice."""
        return Sequences(self.prefix[rows], self.token[rows], self.mask[rows])


_LAWS = ("policy_log_probs", "actor_log_probs", "reference_log_probs")


@dataclass(frozen=True, eq=False)
class SequenceLaws:
    """The policies at every prefix of one prompt; all float64 of shape (prefixes, vocab), nats.

    Attributes:
        policy_log_probs: log p_new, the policy whose gradient is wanted.
        actor_log_probs: log q, the policy that wrote the rollouts.
        reference_log_probs: log p_ref, the policy before the update at hand; `policy_log_probs` itself
            where no update lies between them.
        believed: the laws in which a trainer believes, of the same shape; None: the three above.

    Raises:
        ValueError: the shapes differ or are not (prefixes, vocab), or a law is not normalised.
    """

    policy_log_probs: Floats
    actor_log_probs: Floats
    reference_log_probs: Floats
    believed: SequenceLaws | None = None

    def __post_init__(self) -> None:
        if floating(self.policy_log_probs, "policy_log_probs").ndim != 2:
            raise ValueError(f"policy_log_probs has shape {self.policy_log_probs.shape}, not (prefixes, vocab)")
        for name in _LAWS:
            check_log_probs(getattr(self, name), name)
            check_same_shape(self.policy_log_probs, getattr(self, name), "policy_log_probs", name)
        if self.believed is not None:
            check_same_shape(self.policy_log_probs, self.believed.policy_log_probs, "policy_log_probs", "believed")

    @property
    def told(self) -> SequenceLaws:
        """The laws of ratios, and of the update's ∇log p, as a trainer believes them."""
        return self if self.believed is None else self.believed

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

    Raises:
        ValueError: a sequence is missing or stands twice, one leaves the table of laws, or an advantage is not
            finite.
    """

    laws: SequenceLaws
    sequences: Sequences
    advantage: Floats

    def __post_init__(self) -> None:
        last = np.maximum(self.sequences.mask.sum(axis=-1) - 1, 0)[:, None]
        ends = np.take_along_axis(self.sequences.cells(self.laws.shape), last, axis=-1)
        if len(np.unique(ends)) < len(self.sequences):
            raise ValueError("sequences holds a sequence twice: an enumeration has every sequence once")
        for name in _LAWS:
            total = float(np.exp(self.sequences.log_probs(getattr(self.laws, name))).sum())
            if not abs(total - 1) <= _MISSING * max(1, self.sequences.mask.shape[-1]):
                raise ValueError(
                    f"sequences is not every sequence: their probabilities under {name} add up to {total:.6g}"
                )
        check_advantages(self.advantage, self.sequences, "advantage")


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
        check_advantages(self.actor_advantage, self.actor, "actor_advantage")
        check_advantages(self.policy_advantage, self.policy, "policy_advantage")
        if len(self.actor) != len(self.policy):
            raise ValueError(f"there are {len(self.actor)} sequences of the actor and {len(self.policy)} of the policy")


def check_advantages(advantage: Floats, sequences: Sequences, name: str) -> None:
    """Refuses advantages that are not finite, or not of shape (n,)."""
    check_shape(check_advantage(advantage, name), (len(sequences),), name, "one number per sequence")


def per_sequence(values: Floats, *factors: Floats) -> Floats:
    """Σ_t of the product of arrays of shape (n, length), shape (n,).

    It uses einsum, since numpy's own sum is slow along so short an axis.

    Raises:
        ValueError: the shapes differ, or are not (n, length).
    """
    if floating(values, "values").ndim != 2:
        raise ValueError(f"values has shape {values.shape}: it must be (n, length), one row per sequence")
    for factor in factors:
        check_same_shape(values, factor, "values", "a factor")
    operands = (values, *factors)
    return np.asarray(np.einsum(",".join(["nt"] * len(operands)) + "->n", *operands))


def occupancy(sequences: Sequences, probability: Floats, shape: tuple[int, int]) -> Floats:
    """The expected number of visits to every (prefix, token), shape (prefixes, vocab); its sum is the expected length.

    Args:
        sequences: n sequences.
        probability: the probability of each, shape (n,).
        shape: the shape of the table, (prefixes, vocab).

    Raises:
        ValueError: `probability` has another shape, or a sequence leaves the table.
    """
    check_shape(floating(probability, "probability"), (len(sequences),), "probability", "one number per sequence")
    return sequences.scatter(probability[:, None], shape)


def kl_of_measures(first: Floats, second: Floats) -> float:
    """KL between two measures of any shape, each normalised first, nats.

    It is inf where the first has mass and the second has none, be it by underflow, and nan if either has no mass
    at all. Near-equal measures keep their digits: if both are known to a relative 1e-16 and differ by a relative
    s, the KL is known to a relative 1e-16/s.

    Raises:
        ValueError: the shapes differ.
    """
    check_alike(first=first, second=second)
    if not (first > 0).any() or not (second > 0).any():
        return math.nan
    near = np.abs(first - second) < second / 2
    with np.errstate(divide="ignore"):
        log_first, log_second = (np.log(each / first.sum()) for each in (first, second))
        apart = np.asarray(log_ratio(log_first, log_second))
    ratio = np.where(near, np.log1p((first - second) / np.where(near, second, 1.0) * near), apart)
    return float(kl_to_measure(*(each.reshape(-1) for each in (log_first, ratio, log_second))))
