"""The one table into which all dumps are read: tokens one after the other, and the sequences that they form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_shape
from jackpot_sim.core.topk import TopK

OF_TOKENS = (
    "position",
    "mask",
    "actor_log_probs",
    "policy_log_probs",
    "token",
    "advantages",
    "entropy",
    "weight_version",
)
"""The columns of one number per token, beside the two top-k."""
TOP_K = ("actor_topk", "policy_topk")
OF_SEQUENCES = ("reward", "step")
"""The columns of one number per sequence, beside names and places."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N tokens of S whole sequences; columns of shape (N,) unless said, None where the dump does not have them.

    Sequence i is the tokens from `starts[i]` up to `starts[i + 1]`. A dump is a stream of such tables, of which one is
    held at a time.

    Attributes:
        name: the id of each sequence, S strings.
        place: where each sequence stands: the file, and the line or record; S strings.
        starts: the first token of each sequence, and N at the end; int64, (S + 1,).
        position: the place of each token in its completion, int64, from 0.
        mask: True on tokens that are trained on.
        actor_log_probs: log q of each token by the policy that wrote it, float64, nats; NaN where the dump has none.
        policy_log_probs: log p of each token by the policy that is trained, likewise.
        token: the token ids, int64.
        advantages: A of each token, float64.
        entropy: the entropy of the policy's law at each token, float64, nats.
        weight_version: the number of the weights that wrote each token, int64.
        reward: the reward of each sequence, float64, (S,).
        step: the training step of each sequence, int64, (S,).
        actor_topk: the actor's likeliest tokens, (N, k); log_probs NaN where there are none.
        policy_topk: the policy's, (N, k).

    Raises:
        ValueError: a shape does not fit, or a sequence has no token.
    """

    name: tuple[str, ...]
    place: tuple[str, ...]
    starts: Ints
    position: Ints
    mask: Flags
    _: KW_ONLY
    actor_log_probs: Floats | None = None
    policy_log_probs: Floats | None = None
    token: Ints | None = None
    advantages: Floats | None = None
    entropy: Floats | None = None
    weight_version: Ints | None = None
    reward: Floats | None = None
    step: Ints | None = None
    actor_topk: TopK | None = None
    policy_topk: TopK | None = None

    def __post_init__(self) -> None:
        sequences, tokens = len(self.name), len(self.mask)
        check_shape(self.starts, (sequences + 1,), "starts", "one number per sequence and one more")
        if self.starts[0] != 0 or self.starts[-1] != tokens or not np.all(np.diff(self.starts) > 0):
            raise ValueError("starts must rise from 0 to the number of tokens: a sequence has at least one token")
        if len(self.place) != sequences:
            raise ValueError(f"place holds {len(self.place)} strings for {sequences} sequences")
        for names, size, of in ((OF_TOKENS, tokens, "token"), (OF_SEQUENCES, sequences, "sequence")):
            for each in names:
                column = getattr(self, each)
                if column is not None:
                    check_shape(column, (size,), each, f"one number per {of}")
        for each in TOP_K:
            column = getattr(self, each)
            if column is not None and column.ids.shape[:-1] != (tokens,):
                raise ValueError(f"{each} has shape {column.ids.shape}: it must be (tokens, k)")

    def __len__(self) -> int:
        """The number of tokens, N."""
        return len(self.mask)

    @property
    def sequences(self) -> int:
        """The number of sequences, S."""
        return len(self.name)

    @cached_property
    def lengths(self) -> Ints:
        """The number of tokens of each sequence, (S,)."""
        return np.diff(self.starts)

    @cached_property
    def owner(self) -> Ints:
        """The sequence of each token, from 0 to S − 1, (N,)."""
        return np.repeat(np.arange(self.sequences), self.lengths)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the dump has."""
        optional = (*OF_TOKENS, *OF_SEQUENCES, *TOP_K)
        return frozenset(each for each in optional if getattr(self, each) is not None)

    def per_sequence(self, values: NDArray[Any]) -> Floats:
        """Σ of values of tokens, (N, ...), over each sequence, (S, ...)."""
        return np.asarray(np.add.reduceat(values, self.starts[:-1], axis=0), dtype=np.float64)

    def keep(self, kept: Flags) -> TokenTable | None:
        """The table of some tokens, (N,), without the sequences that lose all; None where none is kept."""
        check_shape(kept, (len(self),), "kept", "one flag per token")
        left = np.asarray(np.add.reduceat(kept, self.starts[:-1], dtype=np.int64))
        return self._taken(np.flatnonzero(kept), np.flatnonzero(left > 0), left[left > 0])

    def take(self, rows: Ints) -> TokenTable | None:
        """The table of some sequences, by their numbers, (m,), in that order; None for none."""
        starts, lengths = self.starts[:-1][rows], self.lengths[rows]
        ends = np.cumsum(lengths)
        tokens = np.arange(int(lengths.sum())) + np.repeat(starts - (ends - lengths), lengths)
        return self._taken(tokens, rows, lengths)

    def _taken(self, tokens: Ints, rows: Ints, lengths: Ints) -> TokenTable | None:
        if not len(tokens):
            return None
        new: dict[str, Any] = {
            "name": tuple(self.name[row] for row in rows),
            "place": tuple(self.place[row] for row in rows),
            "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        }
        for names, index in ((OF_TOKENS, tokens), (OF_SEQUENCES, rows)):
            new |= {each: getattr(self, each)[index] for each in names if getattr(self, each) is not None}
        for each in TOP_K:
            if (column := getattr(self, each)) is not None:
                new[each] = TopK(column.ids[tokens], column.log_probs[tokens])
        return dataclasses.replace(self, **new)


def joined(tables: Sequence[TokenTable]) -> TokenTable:
    """Tables with the same columns, one after the other.

    Raises:
        ValueError: there is none, or their columns differ.
    """
    if not tables:
        raise ValueError("tables is empty: give at least one table")
    if not all(alike(tables[0], each) for each in tables):
        raise ValueError("tables have different columns: they cannot be joined")
    first = tables[0]
    new: dict[str, Any] = {name: tuple(x for each in tables for x in getattr(each, name)) for name in ("name", "place")}
    new["starts"] = np.concatenate([[0], np.cumsum(np.concatenate([each.lengths for each in tables]))]).astype(np.int64)
    for name in first.columns & {*OF_TOKENS, *OF_SEQUENCES}:
        new[name] = np.concatenate([getattr(each, name) for each in tables])
    for name in first.columns & {*TOP_K}:
        columns = [getattr(each, name) for each in tables]
        new[name] = TopK(*(np.concatenate([getattr(c, part) for c in columns]) for part in ("ids", "log_probs")))
    return dataclasses.replace(first, **new)


def alike(first: TokenTable, second: TokenTable) -> bool:
    """True where two tables have the same columns, and top-k of the same k, so that they can be joined."""
    return first.columns == second.columns and all(_k(first, name) == _k(second, name) for name in TOP_K)


def _k(table: TokenTable, name: str) -> int:
    column: TopK | None = getattr(table, name)
    return 0 if column is None else column.k
