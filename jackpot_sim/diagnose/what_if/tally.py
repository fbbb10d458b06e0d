"""The sums over a dump from which the figures of a correction follow."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import GROUPS, Batch
from jackpot_sim.diagnose.what_if.cells import Cells, Weighed, dot
from jackpot_sim.diagnose.what_if.scales import LENGTHS, WEIGHTS
from jackpot_sim.estimators import given


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
            self.own += dot(ratio, batch.log_ratio)

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
            self._add(Weighed(cells, accept, weight))

    def _add(self, weighed: Weighed) -> None:
        cells, both = weighed.cells, weighed.both
        kept = cells.summed(weighed.accept)
        masses = kept if weighed.weight is None else cells.summed(both)
        squares = kept if weighed.weight is None else cells.summed(weighed.square)
        for at, sums in enumerate((kept, cells.gained(weighed.accept), masses, squares)):
            self.of_groups[:, at] += np.bincount(cells.group, weights=sums, minlength=GROUPS)
        self.kept_by_length += LENGTHS.counts(cells.bin, kept)
        self.of_units += float(np.sum(masses / cells.lengths))
        if cells.positive is not None and cells.negative is not None:
            self.positive += dot(both, cells.positive)
            self.negative += dot(both, cells.negative)
        self.sequences_kept += weighed.sequences_kept(kept)
        self.mass_by_weight += weighed.mass_by_weight()
        self.largest = max(self.largest, weighed.largest)
        self._compare(weighed)

    def _compare(self, weighed: Weighed) -> None:
        """Adds to the sums of the two KL."""
        cells, both = weighed.cells, weighed.both
        self.towards += dot(both, cells.log_ratio)
        if weighed.drops:
            self.lost |= bool(np.any(cells.ratio[given(both) == 0] > 0))
        log_both = weighed.log_both()
        if both is not None and log_both is not None:
            self.cross += dot(cells.ratio, log_both)
            self.own += dot(cells.counted(both), log_both)


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
