"""Byte n-grams of real text: a language model small enough to be exact.

Interpolated Witten–Bell smoothing (Witten & Bell 1991, method C; Chen & Goodman 1999, eq. 17):

    P_m(w | h) = [c(hw) + N(h)·P_{m−1}(w | h′)] / [c(h) + N(h)],   P_0 = 1/256,

with c the counts in the training text, N(h) the number of different bytes seen after h, and h′ the context h without
its first byte; where h was never seen, P_m = P_{m−1}. Every probability is positive, and every law sums to one by
construction. The lower orders of the recursion are models in their own right: the laws of a smaller actor at the same
contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.corpus import files_read, name_of, split_text
from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_share

VOCAB = 256
MAX_ORDER = 8
"""Eight bytes fill the 64-bit word that an n-gram is packed into."""

_BYTE, _LAST = np.uint64(8), np.uint64(VOCAB - 1)

Packed: TypeAlias = NDArray[np.uint64]
"""n-grams as integers, first byte highest, so that sorted n-grams of one context lie together; shape (n-grams,)."""


@dataclass(frozen=True, kw_only=True)
class Ngram:
    """The law of the next byte after contexts of real text.

    The states are contexts drawn at random positions of the held-out text. So a context comes up in proportion to its
    frequency there, and a mean over states estimates a mean over unseen text; a frequent context may come up twice.

    Attributes:
        order: n; the context is the last n − 1 bytes.
        states: the number of contexts drawn.
        text: a file; a folder, of which all *.py and *.txt files inside are read in sorted order; or None for the
            sources in the top folder of Python's standard library, which differ between Python versions.
        max_bytes: the most bytes of the text that are read.
        held_out: the share at its end from which contexts are drawn and nothing is counted.
    """

    kind: Literal["ngram"] = "ngram"
    order: int = 3
    states: int = 64
    text: Path | None = None
    max_bytes: int = 2_000_000
    held_out: float = 0.1

    vocab: ClassVar[int] = VOCAB

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        check_count("order", self.order, 1, MAX_ORDER)
        check_count("states", self.states, 1)
        check_count("max_bytes", self.max_bytes, 2)
        check_share("held_out", self.held_out, zero=False, one=False)

    def log_probs(self, generator: np.random.Generator) -> Floats:
        """The laws of the next byte at the drawn contexts, log p of shape (states, 256).

        Raises:
            ValueError: the text is missing, unreadable or too short; the error names it.
        """
        return self.log_probs_at(self.contexts(generator), self.order)

    def files(self) -> tuple[Path, ...]:
        """The files of `text` that are read, in the order of reading; none of the default text.

        Raises:
            ValueError: a folder holds no text, or text that cannot be read; the error names it.
        """
        if self.text is None:
            return ()
        return files_read(Path(self.text), self.max_bytes)

    def contexts(self, generator: np.random.Generator) -> Packed:
        """Contexts of order − 1 bytes drawn from the held-out text, packed, shape (states,)."""
        _, held_out = split_text(self.text, self.max_bytes, self.held_out)
        grams = pack(held_out, self.order)
        if len(grams) == 0:
            raise ValueError(f"{name_of(self.text)}: {len(held_out)} held-out bytes are too few for order {self.order}")
        return grams[generator.integers(len(grams), size=self.states)] >> _BYTE

    def log_probs_at(self, contexts: Packed, order: int) -> Floats:
        """The laws of one order, log P, at packed contexts of at least order − 1 bytes, shape (contexts, 256)."""
        _check(contexts, np.uint64, "contexts")
        law = np.full((len(contexts), VOCAB), 1.0 / VOCAB)
        for length in range(1, order + 1):
            suffixes = contexts & np.uint64((1 << 8 * (length - 1)) - 1)
            counts = _next_bytes(suffixes, *_count_grams(self.text, self.max_bytes, self.held_out, length))
            total, kinds = counts.sum(axis=1, keepdims=True), np.count_nonzero(counts, axis=1, keepdims=True)
            law = np.where(total > 0, (counts + kinds * law) / np.maximum(total + kinds, 1), law)
        return np.asarray(np.log(law))


def pack(symbols: NDArray[np.uint8], order: int) -> Packed:
    """The runs of `order` bytes as integers, in the order of the text."""
    _check(symbols, np.uint8, "symbols")
    grams = np.zeros(max(len(symbols) - order + 1, 0), dtype=np.uint64)
    for offset in range(order):
        grams = (grams << _BYTE) | symbols[offset : offset + len(grams)].astype(np.uint64)
    return grams


def _check(array: NDArray[np.generic], dtype: type[np.generic], name: str) -> None:
    if not (isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == 1):
        given = f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', ())}"
        raise TypeError(f"{name} must be a numpy array of {dtype.__name__} of shape (n,), got {given}")


@lru_cache(maxsize=16)
def _count_grams(text: Path | None, max_bytes: int, held_out: float, length: int) -> tuple[Packed, NDArray[np.int64]]:
    """The different n-grams of the training text, sorted, and the count of each."""
    train, _ = split_text(text, max_bytes, held_out)
    return np.unique(pack(train, length), return_counts=True)


def _next_bytes(contexts: Packed, grams: Packed, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """c(hw) for every context h and byte w, shape (contexts, 256)."""
    start = np.searchsorted(grams, contexts << _BYTE, side="left")
    stop = np.searchsorted(grams, contexts << _BYTE | _LAST, side="right")
    table = np.zeros((len(contexts), VOCAB), dtype=np.int64)
    row = np.repeat(np.arange(len(contexts)), stop - start)
    first_of_row = np.cumsum(stop - start) - (stop - start)
    entry = np.arange(len(row)) + np.repeat(start - first_of_row, stop - start)
    table[row, grams[entry] & _LAST] = counts[entry]
    return table
