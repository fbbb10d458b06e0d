"""Tables of tokens for tests, and the same tokens as scored rollouts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.diagnose.batch import Accumulator, Batch
from jackpot_sim.readers.table import TokenTable

T = TypeVar("T", bound=Accumulator)


def table_of(policy: Floats, actor: Floats, lengths: Ints, **columns: Any) -> TokenTable:
    """A table from log-probs of tokens, one sequence after the other."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenTable(
        tuple(f"s{i}" for i in range(len(lengths))),
        tuple(f"dump.jsonl, line {i + 1}" for i in range(len(lengths))),
        starts,
        np.arange(len(actor)) - np.repeat(starts[:-1], lengths),
        np.ones(len(actor), dtype=bool),
        actor_log_probs=actor,
        policy_log_probs=policy,
        **columns,
    )


def drawn(sequences: int, seed: int = 0, *, scale: float = 0.3, shift: float = 0.0) -> TokenTable:
    """Sequences of 1 to 12 tokens, ℓ Gaussian."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 13, size=sequences)
    actor = -generator.exponential(size=int(lengths.sum()))
    return table_of(actor + shift + scale * generator.normal(size=len(actor)), actor, lengths)


def rows_of(policy: Any, actor: Any, mask: Any) -> TokenTable:
    """The tokens that count of a batch of rows with a mask."""
    live = np.array(mask, dtype=bool)
    return table_of(np.array(policy)[live], np.array(actor)[live], live.sum(axis=1))


def scored(table: TokenTable) -> ScoredRollouts:
    """The same tokens, padded."""
    mask = np.arange(table.lengths.max()) < table.lengths[:, None]
    policy, actor = np.zeros(mask.shape), np.zeros(mask.shape)
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    policy[mask], actor[mask] = table.policy_log_probs, table.actor_log_probs
    return ScoredRollouts(policy, actor, mask, np.zeros(len(mask)), np.arange(len(mask)))


def cut(table: TokenTable, *sizes: int) -> list[Batch]:
    """The table in batches of so many sequences, and the rest."""
    ends = np.cumsum([0, *sizes, table.sequences - sum(sizes)])
    batches = []
    for first, end in pairwise(ends):
        part = table.take(np.arange(first, end))
        if part is not None:
            batches.append(Batch(part, int(first)))
    return batches


def filled(fresh: Callable[[], T], batches: list[Batch]) -> T:
    """One accumulator for each batch, merged in their order."""
    whole = fresh()
    for batch in batches:
        part = fresh()
        part.add(batch)
        whole.merge(part)
    return whole
