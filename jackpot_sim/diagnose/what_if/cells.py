"""Cells, the tokens or whole sequences that corrections weigh as one, and the figures that a pair (a, w) gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.diagnose.what_if.scales import LENGTHS, WEIGHTS
from jackpot_sim.estimators import TokenWeights


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a block: its tokens, or its sequences where all tokens of each weigh the same.

    Attributes:
        count: the tokens of each cell, (cells,); None: 1.
        gain: Σ |A| of each cell; None: `count`, for dumps without advantages.
        positive: Σ of A > 0 of each cell.
        negative: Σ of −A of A < 0.
        ratio: Σ r of each cell.
        log_ratio: Σ ℓ of each cell.
        starts: the first cell of each sequence, (s,); None where cells are sequences.
        lengths: the tokens of each sequence, (s,).
        group: the group of each sequence, (s,).
    """

    count: Floats | None
    gain: Floats | None
    positive: Floats | None
    negative: Floats | None
    ratio: Floats
    log_ratio: Floats
    starts: Ints | None
    lengths: Floats
    group: Ints

    def __len__(self) -> int:
        return len(self.ratio)

    def per_sequence(self, values: Floats) -> Floats:
        """Σ over the cells of each sequence, (s,)."""
        return values if self.starts is None else np.asarray(np.add.reduceat(values, self.starts))

    def counted(self, values: Floats) -> Floats:
        """Values of cells, once for each token."""
        return values if self.count is None else values * self.count

    def summed(self, values: Floats | None) -> Floats:
        """Σ of values over the tokens of each sequence, (s,); None: of 1."""
        return self.lengths if values is None else self.per_sequence(self.counted(values))

    def gained(self, values: Floats | None) -> Floats:
        """Σ of values times |A|, or times 1 without advantages, over the tokens of each sequence; None: of 1."""
        if self.gain is None:
            return self.summed(values)
        return self.all_gain if values is None else self.per_sequence(values * self.gain)

    @cached_property
    def ratio_bins(self) -> Ints:
        """The bin of each r among weights, (cells,)."""
        return WEIGHTS.bins(self.ratio)

    @cached_property
    def all_gain(self) -> Floats:
        """Σ |A| of each sequence, (s,); its length without advantages."""
        return self.lengths if self.gain is None else self.per_sequence(self.gain)

    @cached_property
    def bin(self) -> Ints:
        """The bin of each sequence's length, (s,)."""
        return LENGTHS.bins(self.lengths)

    @cached_property
    def of_sequences(self) -> Cells:
        """The same, with each sequence as one cell."""
        some = (self.gain, self.positive, self.negative)
        gain, positive, negative = (None if each is None else self.per_sequence(each) for each in some)
        ratio, log_ratio = self.per_sequence(self.ratio), self.per_sequence(self.log_ratio)
        return Cells(self.lengths, gain, positive, negative, ratio, log_ratio, None, self.lengths, self.group)


@dataclass(frozen=True, eq=False)
class Weighed:
    """Cells with a and w of each, (cells,); None: 1."""

    cells: Cells
    accept: Floats | None
    weight: Floats | None

    @cached_property
    def largest_weight(self) -> float:
        """The largest w of all cells, kept or not."""
        return 1.0 if self.weight is None else float(self.weight.max())

    @cached_property
    def whole(self) -> bool:
        """True where a is 0 or 1 at each cell."""
        return self.accept is None or not np.any(self.accept * (1 - self.accept))

    @cached_property
    def both(self) -> Floats | None:
        """aw, with 0 where a is 0; None: 1."""
        if self.accept is None or self.weight is None:
            return self.weight if self.accept is None else self.accept
        if self.largest_weight < math.inf:
            return self.accept * self.weight
        return np.asarray(TokenWeights(self.accept, self.weight).expected())

    @property
    def square(self) -> Floats | None:
        """aw², likewise."""
        both, weight = self.both, self.weight
        if both is None or weight is None:
            return both
        # 0 · inf would be nan.
        return both * weight if self.largest_weight < math.inf else np.where(both > 0, both * weight, 0.0)

    @cached_property
    def drops(self) -> bool:
        """True where aw is 0 at a cell."""
        return self.both is not None and not self.both.all()

    @property
    def largest(self) -> float:
        """The largest w of the cells that may be kept; −inf where none may."""
        if self.accept is None:
            return self.largest_weight
        kept = self.accept > 0
        if self.weight is None:
            return 1.0 if kept.any() else -math.inf
        if self.whole and self.drops and self.both is not None and (most := float(self.both.max())) > 0:
            return most
        return float(np.max(self.weight, where=kept, initial=-math.inf))

    def sequences_kept(self, kept: Floats) -> float:
        """Σ over sequences of the probability that any token is kept; `kept` is Σ a of each."""
        if self.accept is None:
            return float(len(kept))
        if self.whole:
            return float(np.count_nonzero(kept))
        missed = 1 - self.accept
        starts = self.cells.starts
        missed = missed**self.cells.lengths if starts is None else np.multiply.reduceat(missed, starts)
        return float(np.sum(1 - missed))

    def mass_by_weight(self) -> Floats:
        """Σ a of each bin of weights."""
        cells = self.cells
        mass = cells.count if self.accept is None else cells.counted(self.accept)
        if self.weight is None:
            total = cells.lengths.sum() if mass is None else mass.sum()
            return WEIGHTS.counts(_AT_ONE, np.asarray([total]))
        bins = cells.ratio_bins if self._is_ratio else WEIGHTS.bins(self.weight)
        return WEIGHTS.counts(bins, mass)

    @cached_property
    def _differs(self) -> Flags:
        """True where w is not r."""
        return np.asarray(self.weight != self.cells.ratio)

    @property
    def _is_ratio(self) -> bool:
        return self.cells.count is None and not self._differs.any()

    def log_both(self) -> Floats | None:
        """log aw, with any finite number where aw is 0; None: 0."""
        both = self.both
        if both is None or (self.weight is None and self.whole):
            return None
        if self.whole and self.weight is not None and self.cells.count is None:
            # Most weights are r, whose logarithm is known.
            other = self._differs
            if np.count_nonzero(other) < len(other) / 4:
                log_both = self.cells.log_ratio.copy()
                log_both[other] = np.log(self.weight[other], where=self.weight[other] > 0, out=np.zeros(other.sum()))
                return log_both
        return np.log(np.where(both > 0, both, 1.0) if self.drops else both)


_AT_ONE = WEIGHTS.bins(np.ones(1))


def dot(first: Floats | None, second: Floats) -> float:
    """Σ of the products; None: 1."""
    # Not by BLAS, whose threads would be waited for, and change the last digits.
    return float(second.sum() if first is None else np.einsum("i,i->", first, second))
