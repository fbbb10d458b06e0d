"""The effects of corrections on a dump, in one pass over its tokens; `findings` has the formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.backend import overflow_to_inf
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.results import Effect
from jackpot_sim.diagnose.what_if import blocks
from jackpot_sim.diagnose.what_if.blocks import Block
from jackpot_sim.diagnose.what_if.candidates import Candidate
from jackpot_sim.diagnose.what_if.cells import Cells
from jackpot_sim.diagnose.what_if.findings import effect, refusal
from jackpot_sim.diagnose.what_if.overlaps import overlap
from jackpot_sim.diagnose.what_if.tally import Tally, Totals
from jackpot_sim.estimators import Correction, Tokens, TokenWeights
from jackpot_sim.estimators.corrections.composed import Combined, Wrapper
from jackpot_sim.estimators.corrections.correction import Level, is_ours

Key: TypeAlias = tuple[object, ...]
_LACKING = {
    "advantages": "it needs advantages, which the dump lacks for some tokens",
    "overlap": "it needs the overlap of both laws, and the dump lacks the top-k of a side",
}


class Effects:
    """The effects of candidates on a dump, a batch at a time; corrections that are equal are computed once.

    The batch of a correction that looks at one is made of the sequences of the same step within a `Batch`
    (`blocks.by_step`). The overlap Z is the estimate of `overlaps.overlap`.

    Args:
        candidates: what is tried, in the order of the results.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = tuple(candidates)
        self._corrections = {each.key: each.correction for each in candidates if each.correction is not None}
        self._tallies = {key: Tally() for key in self._corrections}
        self._refused: dict[Key, str] = {}
        self._totals = Totals()

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""
        has_advantages = batch.table.advantages is not None and bool(np.isfinite(batch.table.advantages).all())
        self._totals.add(batch, has_advantages)
        absent = () if has_advantages else ("advantages",)
        for key, correction in self._live():
            self._refuse_lacking(key, correction, absent)
        overlaps = self._overlaps(batch)
        for layout, takes in _LAYOUTS:
            taken = {key: correction for key, correction in self._live() if takes(correction)}
            for block in layout(batch) if taken else ():
                self._weigh(block, taken, overlaps, has_advantages)

    def merge(self, later: Effects) -> None:
        """Takes in what another one has of the batches that come next."""
        self._totals.merge(later._totals)
        self._refused = later._refused | self._refused
        for key, tally in self._tallies.items():
            tally.merge(later._tallies[key])

    def results(self) -> list[Effect]:
        """The effect of each candidate, in their order."""
        return [self._result(each) for each in self._candidates]

    def _result(self, candidate: Candidate) -> Effect:
        if candidate.correction is None:
            return refusal(candidate, candidate.refused or "no correction here expresses it")
        if not self._totals.tokens:
            return refusal(candidate, "no token is left to try it on")
        reason = self._refused.get(candidate.key)
        if reason is not None:
            return refusal(candidate, reason)
        return effect(candidate, candidate.correction, self._tallies[candidate.key], self._totals)

    def _live(self) -> list[tuple[Key, Correction]]:
        """The corrections that are not refused."""
        return [(key, each) for key, each in self._corrections.items() if key not in self._refused]

    def _refuse_lacking(self, key: Key, correction: Correction, absent: Sequence[str]) -> None:
        for name in sorted(correction.needs.intersection(absent)):
            self._refused.setdefault(key, _LACKING[name])

    def _overlaps(self, batch: Batch) -> dict[object, Floats]:
        """Ẑ of each λ that a correction needs, (N,) each."""
        found: dict[object, Floats] = {}
        for key, correction in self._live():
            lam = correction.overlap_lam
            if lam is None or lam in found:
                continue
            try:
                estimate = overlap(batch, float(lam))
            except ValueError as error:
                self._refused[key] = str(error)
                continue
            if estimate is None:
                self._refuse_lacking(key, correction, ("overlap",))
            else:
                found[lam] = estimate
        return found

    def _weigh(
        self,
        block: Block,
        taken: Mapping[Key, Correction],
        overlaps: Mapping[object, Floats],
        has_advantages: bool,
    ) -> None:
        cells = cells_of(block, has_advantages)
        for key, correction in taken.items():
            if key in self._refused:
                continue
            tokens, lam = block.tokens, correction.overlap_lam
            if lam is not None:
                tokens = tokens.with_overlap(block.shaped(block.of(overlaps[lam])))
            try:
                pair = _pair(correction, tokens)
            except ValueError as error:
                self._refused[key] = str(error)
                continue
            self._tallies[key].add(*weighed(block, cells, pair))


_LAYOUTS: tuple[tuple[Callable[[Batch], Iterator[Block]], Callable[[Correction], bool]], ...] = (
    (blocks.in_a_row, lambda each: each.is_per_token),
    (blocks.by_length, lambda each: each.level is Level.SEQUENCE and not each.looks_at_batch),
    (blocks.by_step, lambda each: each.looks_at_batch),
)


def _pair(correction: Correction, tokens: Tokens) -> TokenWeights:
    """The pair of each token, or for all tokens of a sequence, (s, 1); any at padding.

    It is that of `Correction.weights`, which spreads it over the tokens first.
    """
    if not all(map(is_ours, _types(correction))):
        return correction.weights(tokens)
    with overflow_to_inf():
        return correction.pair(correction.checked(tokens))


def _types(correction: Correction) -> Iterator[type[Correction]]:
    """The classes of a correction and of those that it is made of."""
    yield type(correction)
    if isinstance(correction, Combined | Wrapper):
        for part in correction.parts if isinstance(correction, Combined) else (correction.of,):
            yield from _types(part)


def cells_of(block: Block, has_advantages: bool) -> Cells:
    """The tokens of a block as cells."""
    batch = block.batch
    log_ratio = block.of(batch.log_ratio)
    gain = positive = negative = None
    if has_advantages:
        assert batch.table.advantages is not None
        advantages = block.of(batch.table.advantages)
        gain, positive = np.abs(advantages), np.maximum(advantages, 0.0)
        negative = positive - advantages
    with overflow_to_inf():
        ratio = np.exp(log_ratio)
    lengths = block.lengths.astype(np.float64)
    return Cells(None, gain, positive, negative, ratio, log_ratio, block.starts, lengths, batch.group[block.rows])


def weighed(block: Block, cells: Cells, pair: TokenWeights) -> tuple[Cells, Floats | None, Floats | None]:
    """The cells with a and w of each, as `Tally.add` takes them: sequences where all their tokens weigh the same."""
    accept, weight = (_folded(block, np.asarray(each)) for each in pair)
    sizes = [len(each) for each in (accept, weight) if each is not None]
    if block.padded and all(size == len(block.rows) for size in sizes):
        return cells.of_sequences, accept, weight
    return cells, _spread(block, cells, accept), _spread(block, cells, weight)


def _folded(block: Block, values: Floats) -> Floats | None:
    """Values of the pair: None where they are all 1, (s,) where they are the same within each sequence, or (n,)."""
    if block.padded:
        first = values[:, :1]
        # The first row alone tells most that differ.
        if bool(np.all(values[0] == first[0])) and bool(np.all(values == first)):
            values = np.ascontiguousarray(first[:, 0])
        else:
            values = block.flat(values)
    return None if bool(np.all(values == 1)) else values


def _spread(block: Block, cells: Cells, values: Floats | None) -> Floats | None:
    """Values of each sequence, (s,), or of each token, as those of each token, (n,)."""
    if values is None or len(values) == len(cells):
        return values
    return np.repeat(values, block.lengths)
