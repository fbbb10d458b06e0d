"""The likeliest tokens of each token, as dumps store them."""

from __future__ import annotations

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
    k = max(map(len, rows), default=0)
    if not k:
        return None
    ids = np.zeros((len(rows), k), dtype=np.int32)
    log_probs = np.full((len(rows), k), np.nan, dtype=np.float32)
    for at, row in enumerate(rows):
        if any(np.isnan(value) for value in row.values()):
            continue
        ranked = sorted(row.items(), key=lambda each: (-each[1], each[0]))
        if 0 < len(ranked) < k:
            unnamed = (token for token in range(2 * k) if token not in row)
            ranked += [(next(unnamed), -np.inf) for _ in range(k - len(ranked))]
        for place, (token, value) in enumerate(ranked):
            ids[at, place], log_probs[at, place] = token, value
    return TopK(ids, log_probs)
