"""The likeliest tokens of each token, as dumps store them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.fields import Fields


def of_fields(fields: Fields, ids: str, log_probs: str, length: int) -> TopK | None:
    """The top-k out of a field of ids and one of log-probs, both (length, k); None where one is absent.

    Raises:
        DumpError: a shape differs.
    """
    if fields.get(ids) is None or fields.get(log_probs) is None:
        return None
    tokens, values = fields.ints(ids), fields.floats(log_probs)
    assert tokens is not None
    assert values is not None
    if tokens.ndim != 2 or tokens.shape != values.shape or len(tokens) != length or not tokens.shape[1]:
        raise fields.error(
            f"{ids} and {log_probs} have shapes {tokens.shape} and {values.shape} where there are {length} tokens"
        )
    return TopK(tokens.astype(np.int32), values.astype(np.float32))


def ragged(rows: Sequence[Mapping[int, float]]) -> TopK | None:
    """The top-k out of log-probs by token, of which each row may have another number; None where no row has any.

    A row with fewer tokens than the longest ends in −inf at tokens that it does not name; one with none, or with NaN
    among them, is NaN.
    """
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    k = int(counts.max(initial=0))
    if not k:
        return None
    owner = np.repeat(np.arange(len(rows)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64, count=len(owner))
    values = np.fromiter(
        itertools.chain.from_iterable(row.values() for row in rows), dtype=np.float64, count=len(owner)
    )
    order = np.lexsort((tokens, -values, owner))
    ids = np.zeros((len(rows), k), dtype=np.int32)
    log_probs = np.full((len(rows), k), np.nan, dtype=np.float32)
    ids[owner, place], log_probs[owner, place] = tokens[order], values[order]
    for at in np.flatnonzero((counts > 0) & (counts < k)).tolist():
        unnamed = (token for token in range(2 * k) if token not in rows[at])
        ids[at, counts[at] :] = [next(unnamed) for _ in range(k - counts[at])]
        log_probs[at, counts[at] :] = -np.inf
    log_probs[np.unique(owner[np.isnan(values)])] = np.nan
    return TopK(ids, log_probs)
