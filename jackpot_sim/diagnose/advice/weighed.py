"""The figures of `targets` for a correction on a sample, and without each of its sequences."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.what_if import blocks
from jackpot_sim.diagnose.what_if.blocks import Block
from jackpot_sim.diagnose.what_if.overlaps import overlap
from jackpot_sim.estimators import Correction, Level
from jackpot_sim.readers.table import TokenTable


class Figures(NamedTuple):
    """The figures of `targets`; numbers, or one for each group left out."""

    keep: Floats
    ess: Floats
    bias: Floats
    share: Floats
    """Σ a / N, the share of tokens kept."""


class _Reference(NamedTuple):
    """The exact weights of tokens, (n,) for each block, and their sums by group, (groups, 3): r, r|A| and 1."""

    exact: list[Floats]
    sums: Floats


class Weighed:
    """A sample of whole sequences, on which corrections are measured.

    Args:
        table: the tokens that count.
    """

    def __init__(self, table: TokenTable) -> None:
        self.batch = Batch(table, 0)
        self.groups = min(table.sequences, GROUPS)

    def overlap(self, lam: float) -> Floats | None:
        """Ẑ(λ) of each token, (N,); None where the sample has no top-k of both laws, or none that is a law."""
        if lam not in self._overlaps:
            try:
                self._overlaps[lam] = overlap(self.batch, lam)
            except ValueError:
                self._overlaps[lam] = None
        return self._overlaps[lam]

    def sums(self, correction: Correction, level: Level | None = None) -> Floats:
        """The sums of a correction, by group, (groups, 8), from which `figures` come.

        Args:
            correction: the correction.
            level: whether it is measured against exact weights of tokens or of sequences; None: by its own level.

        Raises:
            ValueError: the correction needs what the sample lacks.
        """
        sequence = (correction.level if level is None else level) is Level.SEQUENCE
        laid, reference = self._sequences if sequence else self._tokens
        pairs = [self._pair(correction, block) for block in laid]
        total = sum(float(weight.sum()) for _, weight, _ in pairs)
        with np.errstate(all="ignore"):
            scale = float(reference.sums[:, 0].sum()) / total if total > 0 else 0.0
            found = np.zeros((self.groups, 5))
            for block, exact, (accept, weight, square) in zip(laid, reference.exact, pairs, strict=True):
                kept = np.minimum(weight, exact) * self._size(block)
                columns = (kept, weight, square, np.abs(exact - scale * weight), accept)
                self._add(found, block, *columns)
        return np.concatenate([found, reference.sums], axis=1)

    @cached_property
    def _overlaps(self) -> dict[float, Floats | None]:
        return {}

    @cached_property
    def _tokens(self) -> tuple[list[Block], _Reference]:
        laid = list(blocks.in_a_row(self.batch))
        return laid, self._reference(laid, self.batch.log_ratio)

    @cached_property
    def _sequences(self) -> tuple[list[Block], _Reference]:
        laid = list(blocks.by_length(self.batch))
        return laid, self._reference(laid, np.repeat(self.batch.total, self.batch.table.lengths))

    def _reference(self, laid: list[Block], log_ratio: Floats) -> _Reference:
        with overflow_to_inf(), np.errstate(over="ignore"):
            exact = [np.exp(block.of(log_ratio)) for block in laid]
        sums = np.zeros((self.groups, 3))
        for block, r in zip(laid, exact, strict=True):
            self._add(sums, block, r, r * self._size(block), np.ones_like(r))
        return _Reference(exact, sums)

    def _size(self, block: Block) -> Floats:
        """|A| of the block's tokens, (n,)."""
        return np.ones(int(block.lengths.sum())) if self._gain is None else block.of(self._gain)

    @cached_property
    def _gain(self) -> Floats | None:
        """|A| of each token, (N,); None, which is 1, also where all advantages are 0: such a batch has no signal."""
        advantages = self.batch.table.advantages
        return None if advantages is None or not advantages.any() else np.abs(advantages)

    def _pair(self, correction: Correction, block: Block) -> tuple[Floats, Floats, Floats]:
        """a, a·w and a·w² of the block's tokens, (n,) each."""
        tokens, lam = block.tokens, correction.overlap_lam
        if lam is not None and (estimate := self.overlap(float(lam))) is not None:
            tokens = tokens.with_overlap(block.shaped(block.of(estimate)))
        pair = correction.weights(tokens)
        accept, expected, weight = (block.flat(np.asarray(x)) for x in (pair.accept, pair.expected(), pair.weight))
        with np.errstate(over="ignore"):
            return accept, expected, expected * np.where(accept > 0, weight, 0.0)

    def _add(self, sums: Floats, block: Block, *columns: Floats) -> None:
        per_sequence = np.add.reduceat(np.stack(columns, axis=-1), block.starts, axis=0)
        np.add.at(sums, block.rows % self.groups, per_sequence)


def figures(sums: Floats) -> Figures:
    """The figures of sums, (..., 8); nan where a sum is not finite or there is no weight."""
    kept, weight, square, gap, accept, exact, signal, tokens = np.moveaxis(sums, -1, 0)
    with np.errstate(all="ignore"):
        return Figures(kept / signal, weight**2 / (tokens * square), gap / (2 * exact), accept / tokens)


def left_out(sums: Floats) -> Floats:
    """The sums of all groups but each, (..., groups, k) → the same shape."""
    with np.errstate(invalid="ignore"):  # infinite sums leave no number, and no interval
        return np.asarray(sums.sum(axis=-2, keepdims=True) - sums)
