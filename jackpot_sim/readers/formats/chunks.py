"""The chunks of a sequence that ranks of context parallelism hold, put together again.

Of 2·n equal chunks of prompt and response, rank i of n holds the i-th and the i-th from the end, so that all ranks
work the same (Megatron's "zigzag"). A log-prob belongs to the chunk of the token before its own, which predicts it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints


def places(total: int, length: int, rank: int, size: int, padded: int | None = None) -> Ints:
    """The tokens of the response whose log-probs a rank holds, in its order, from 0.

    Args:
        total: the tokens of prompt and response.
        length: the tokens of the response.
        rank: the rank, from 0.
        size: the number of ranks.
        padded: the length to which sequences are padded before they are cut; None for their own.
    """
    chunk = -(-(padded or total) // (2 * size))
    before = np.concatenate([np.arange(at * chunk, (at + 1) * chunk) for at in (rank, 2 * size - 1 - rank)])
    first = total - length - 1
    return np.asarray(before[(before >= first) & (before < total - 1)] - first)


def assembled(chunks: Mapping[int, Floats], total: int, length: int, size: int, padded: int | None = None) -> Floats:
    """The numbers of the response, (length,), out of those that each rank holds.

    Raises:
        ValueError: a rank is missing, or holds another number of them than it must.
    """
    missing = sorted(set(range(size)) - set(chunks))
    if missing:
        raise ValueError(f"rank {missing[0]} of {size} of context parallelism is missing: give the files of all ranks")
    out = np.full(length, np.nan)
    for rank, chunk in chunks.items():
        at = places(total, length, rank, size, padded)
        if chunk.shape != at.shape:
            raise ValueError(
                f"rank {rank} of {size} of context parallelism holds {chunk.size} tokens where {at.size} are its own"
            )
        out[at] = chunk
    return out
