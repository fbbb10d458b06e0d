"""Small dumps, as one table of tokens and as padded rollouts."""

from __future__ import annotations

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.numerics import log_softmax
from jackpot_sim.core.scored import ScoredRollouts
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.table import TokenTable

VOCAB = 9


def dump(seed: int, lengths: Ints, spread: float = 0.1, k: int = VOCAB, steps: int = 1) -> TokenTable:
    """Sequences whose actor is the policy with noise on its logits, with the top-k of both laws at every token."""
    generator = np.random.default_rng(seed)
    tokens = int(lengths.sum())
    logits = generator.normal(size=(tokens, VOCAB))
    policy = np.asarray(log_softmax(logits))
    actor = np.asarray(log_softmax(logits + generator.normal(scale=spread, size=logits.shape)))
    drawn = (generator.random((tokens, 1)) > np.cumsum(np.exp(actor), axis=-1)).sum(axis=-1).clip(max=VOCAB - 1)
    log_p, log_q = (law[np.arange(tokens), drawn] for law in (policy, actor))
    names = tuple(str(each) for each in range(len(lengths)))
    return TokenTable(
        names,
        names,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([np.arange(each) for each in lengths]),
        np.ones(tokens, dtype=np.bool_),
        actor_log_probs=log_q,
        policy_log_probs=log_p,
        advantages=np.repeat(generator.normal(size=len(lengths)).round(1), lengths),
        step=np.arange(len(lengths)) * steps // len(lengths),
        actor_topk=TopK.of(actor, k),
        policy_topk=TopK.of(policy, k),
    )


def padded(table: TokenTable) -> ScoredRollouts:
    """The table as rollouts of one prompt, NaN at padding."""
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    assert table.advantages is not None
    mask = np.arange(table.lengths.max()) < table.lengths[:, None]
    policy, actor = (np.full(mask.shape, np.nan) for _ in range(2))
    policy[mask], actor[mask] = table.policy_log_probs, table.actor_log_probs
    zeros = np.zeros(table.sequences, dtype=np.int64)
    return ScoredRollouts(policy, actor, mask, table.advantages[table.starts[:-1]], zeros)


def scattered(table: TokenTable, values: Floats) -> Floats:
    """Values of tokens, (N,), as padded rows, 0 at padding."""
    mask = np.arange(table.lengths.max()) < table.lengths[:, None]
    out = np.zeros(mask.shape)
    out[mask] = values
    return out
