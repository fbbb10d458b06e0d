"""The sums over a dump from which the figures of a correction follow."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.what_if.scales import LENGTHS, WEIGHTS
from jackpot_sim.estimators import TokenWeights, given


@dataclass(frozen=True, eq=False)
class Cells:
    """What is weighed as one: each token of a block, or each of its sequences where all its tokens weigh the same.

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

    def gained(self, values: Floats | None) -> Floats:
        """Σ of values times |A|, or times 1 without advantages, over each sequence; None: of 1."""
        if self.gain is None:
            return self.lengths if values is None else self.per_sequence(self.counted(values))
        return self.all_gain if values is None else self.per_sequence(values * self.gain)

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


@dataclass
class Totals:
    """Σ over tokens of what does not depend on a correction; all float64, each zero at first.

    Attributes:
        of_groups: the tokens, and Σ |A|, of each group of sequences, (GROUPS, 2).
        sequences_by_length: the sequences of each bin of lengths.
        tokens_by_length: their tokens.
        positive: Σ A of A > 0.
        negative: Σ −A of A < 0.
        ratio: Σ r.
        own: Σ rℓ.
        has_advantages: True where all tokens have finite advantages.
    """

    of_groups: Floats = field(default_factory=lambda: np.zeros((GROUPS, 2)))
    sequences_by_length: Floats = field(default_factory=LENGTHS.zeros)
    tokens_by_length: Floats = field(default_factory=LENGTHS.zeros)
    positive: float = 0.0
    negative: float = 0.0
    ratio: float = 0.0
    own: float = 0.0
    has_advantages: bool = True

    @property
    def tokens(self) -> float:
        """N."""
        return float(self.of_groups[:, 0].sum())

    @property
    def sequences(self) -> float:
        """The number of sequences."""
        return float(self.sequences_by_length.sum())

    def add(self, batch: Batch, has_advantages: bool) -> None:
        """Takes a batch in."""
        self.has_advantages &= has_advantages
        lengths, bins = batch.table.lengths.astype(np.float64), LENGTHS.bins(batch.table.lengths.astype(np.float64))
        self.sequences_by_length += LENGTHS.counts(bins)
        self.tokens_by_length += LENGTHS.counts(bins, lengths)
        self.of_groups[:, 0] += batch.by_group(lengths)
        if has_advantages:
            assert batch.table.advantages is not None
            positive, negative = np.maximum(batch.table.advantages, 0), np.maximum(-batch.table.advantages, 0)
            self.of_groups[:, 1] += batch.by_group(batch.table.per_sequence(positive + negative))
            self.positive += float(positive.sum())
            self.negative += float(negative.sum())
        with overflow_to_inf():
            ratio = np.exp(batch.log_ratio)
            self.ratio += float(ratio.sum())
            self.own += float(ratio @ batch.log_ratio)

    def merge(self, later: Totals) -> None:
        """Adds the sums over other tokens."""
        _add_up(self, later)


@dataclass
class Tally:
    """Σ over tokens of a correction's expected mask a and weight w; all float64, each zero at first.

    Attributes:
        of_groups: Σ a, Σ a|A|, Σ aw and Σ aw² of each group of sequences, (GROUPS, 4).
        kept_by_length: Σ a of the sequences of each bin of lengths.
        mass_by_weight: Σ a of the tokens of each bin of weights.
        positive: Σ awA of A > 0.
        negative: Σ aw(−A) of A < 0.
        sequences_kept: Σ over sequences of the probability that any token is kept.
        of_units: Σ over sequences of the mean of aw over their tokens.
        largest: the largest w of a token that may be kept.
        cross: Σ r log(aw), over tokens with aw > 0.
        own: Σ aw log(aw).
        towards: Σ awℓ.
        lost: True where r > 0 and aw = 0 at a token.
    """

    of_groups: Floats = field(default_factory=lambda: np.zeros((GROUPS, 4)))
    kept_by_length: Floats = field(default_factory=LENGTHS.zeros)
    mass_by_weight: Floats = field(default_factory=WEIGHTS.zeros)
    positive: float = 0.0
    negative: float = 0.0
    sequences_kept: float = 0.0
    of_units: float = 0.0
    largest: float = -math.inf
    cross: float = 0.0
    own: float = 0.0
    towards: float = 0.0
    lost: bool = False

    def merge(self, later: Tally) -> None:
        """Adds the sums over other tokens."""
        _add_up(self, later)

    def add(self, cells: Cells, accept: Floats | None, weight: Floats | None) -> None:
        """Adds some tokens.

        Args:
            cells: what is weighed.
            accept: a of each cell, (cells,); None: 1.
            weight: w of each cell; None: 1.
        """
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            self._add(cells, accept, weight)

    def _add(self, cells: Cells, accept: Floats | None, weight: Floats | None) -> None:
        both = _expected(accept, weight)
        kept = cells.lengths if accept is None else cells.per_sequence(cells.counted(accept))
        weighed = kept if weight is None else cells.per_sequence(cells.counted(given(both)))
        squared = kept if weight is None else cells.per_sequence(cells.counted(_times(given(both), weight)))
        for at, sums in enumerate((kept, cells.gained(accept), weighed, squared)):
            self.of_groups[:, at] += np.bincount(cells.group, weights=sums, minlength=GROUPS)
        self.kept_by_length += LENGTHS.counts(cells.bin, kept)
        self.of_units += float(np.sum(weighed / cells.lengths))
        if cells.positive is not None and cells.negative is not None:
            self.positive += _dot(both, cells.positive)
            self.negative += _dot(both, cells.negative)
        self._count_sequences(cells, accept)
        self._count_weights(cells, accept, weight)
        self._compare(cells, both)

    def _count_sequences(self, cells: Cells, accept: Floats | None) -> None:
        if accept is None:
            self.sequences_kept += len(cells.lengths)
            return
        missed = 1 - accept
        missed = missed**cells.lengths if cells.starts is None else np.multiply.reduceat(missed, cells.starts)
        self.sequences_kept += float(np.sum(1 - missed))

    def _count_weights(self, cells: Cells, accept: Floats | None, weight: Floats | None) -> None:
        mass = cells.count if accept is None else cells.counted(accept)
        if weight is None:
            total = float(np.sum(cells.lengths)) if accept is None else float(np.sum(given(mass)))
            if total > 0:
                self.mass_by_weight[WEIGHTS.bins(np.ones(1))[0]] += total
                self.largest = max(self.largest, 1.0)
            return
        self.mass_by_weight += WEIGHTS.counts(WEIGHTS.bins(weight), mass)
        largest = np.max(weight) if accept is None else np.max(weight, where=accept > 0, initial=-math.inf)
        self.largest = max(self.largest, float(largest))

    def _compare(self, cells: Cells, both: Floats | None) -> None:
        """Adds to the sums of the two KL."""
        self.towards += _dot(both, cells.log_ratio)
        if both is None:
            return
        kept = both > 0
        self.lost |= not kept.all() and bool(np.any(~kept & (cells.ratio > 0)))
        log_both = np.log(np.where(kept, both, 1.0))
        self.cross += float(cells.ratio @ log_both)
        self.own += float(cells.counted(both) @ log_both)


def _add_up(sums: Totals | Tally, later: Totals | Tally) -> None:
    """Adds the fields of one to those of another: sums unless `_FOLDS` says otherwise."""
    for name, value in vars(later).items():
        old = getattr(sums, name)
        setattr(sums, name, _FOLDS[name](old, value) if name in _FOLDS else old + value)


_FOLDS: dict[str, Callable[[float, float], float]] = {
    "largest": max,
    "lost": operator.or_,
    "has_advantages": operator.and_,
}


def _expected(accept: Floats | None, weight: Floats | None) -> Floats | None:
    """aw, with 0 where a is 0; None: 1."""
    if accept is None or weight is None:
        return weight if accept is None else accept
    return TokenWeights(accept, weight).expected()


def _times(first: Floats, second: Floats) -> Floats:
    """The product, in which 0 · inf is 0."""
    product = first * second
    return product if np.isfinite(product.sum()) else np.where(first > 0, product, 0.0)


def _dot(first: Floats | None, second: Floats) -> float:
    """Σ of the products; None: 1."""
    return float(second.sum() if first is None else first @ second)
