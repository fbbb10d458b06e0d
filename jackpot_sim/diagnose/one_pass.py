"""The one pass over a dump: tables are read and screened here, and measured here or in worker processes.

Each batch is measured from nothing, and merged in the order of the dump: the figures do not depend, to the last bit,
on the number of workers. Memory does not grow with the dump, but for what is held of each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.measure.figures import figures
from jackpot_sim.diagnose.measure.metrics import Metrics
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.results import Alarm, Breakdown, Effect, Worst
from jackpot_sim.readers.left_out import LeftOut
from jackpot_sim.readers.table import TokenTable


class Screens(Protocol):
    """What leaves out, before anything is measured, the tokens that do not count."""

    @property
    def left_out(self) -> LeftOut:
        """The tokens left out so far."""

    @property
    def read(self) -> int:
        """The tokens read so far."""

    @property
    def bypass(self) -> bool:
        """True where both log-probs are equal bit for bit at every token."""

    @property
    def shifted(self) -> Mapping[int, int]:
        """The tokens that agree far better when moved, by the move."""

    def screen(self, table: TokenTable) -> TokenTable | None:
        """The tokens of a table that count; None for none."""


class WhatIf(Protocol):
    """An accumulator of the effects of corrections."""

    def add(self, batch: Batch) -> None:
        """Takes the batch in."""

    def merge(self, later: Self) -> None:
        """Takes in what another one has of the batches that come next."""

    def results(self) -> list[Effect]:
        """The effect of each correction."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What the pass found.

    Attributes:
        evidence: what causes are named from.
        breakdowns: the mismatch by position, length, probability and so on.
        alarms: the rules, with the first step at which each would have rung; empty where the dump has no steps.
        worst_tokens: the tokens that disagree most.
        worst_sequences: the sequences that disagree most.
        effects: the effect of each correction, in the order given.
        tokens: the tokens that all this rests on.
        sequences: their sequences.
    """

    evidence: Evidence
    breakdowns: list[Breakdown]
    alarms: list[Alarm]
    worst_tokens: list[Worst]
    worst_sequences: list[Worst]
    effects: list[Effect]
    tokens: int
    sequences: int


class _Parts:
    """The accumulators that a worker fills."""

    def __init__(self, what_if: Callable[[], WhatIf]) -> None:
        self.metrics = Metrics()
        self.effects = what_if()

    def add(self, batch: Batch) -> None:
        for each in vars(self).values():
            each.add(batch)

    def merge(self, later: Self) -> None:
        for name, each in vars(self).items():
            each.merge(getattr(later, name))


def run(
    tables: Iterable[TokenTable],
    screening: Screens,
    what_if: Callable[[], WhatIf],
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Reads, screens and measures a dump once.

    Args:
        tables: the dump.
        screening: what leaves tokens out.
        what_if: makes a fresh accumulator of effects of corrections; it goes to worker processes.
        workers: processes that measure, besides this one, which reads; 1: this one does both.
        progress: called with the number of tokens of each table when it has been read.
    """
    sample, parts = Sample(), _Parts(what_if)
    for batch in _batches(tables, screening, progress or (lambda tokens: None)):
        sample.add(batch)
        parts.merge(_measured(batch, what_if))
    metrics = figures(parts.metrics, sample)
    evidence = Evidence(
        sample.table(), screening.left_out, screening.read, metrics, screening.bypass, dict(screening.shifted)
    )
    tokens = int(parts.metrics.tokens.units.sum())
    return Measured(evidence, [], [], [], [], parts.effects.results(), tokens, sample.sequences)


def _measured(batch: Batch, what_if: Callable[[], WhatIf]) -> _Parts:
    parts = _Parts(what_if)
    parts.add(batch)
    return parts


def _batches(tables: Iterable[TokenTable], screening: Screens, progress: Callable[[int], None]) -> Iterator[Batch]:
    first = 0
    for table in tables:
        screened = screening.screen(table)
        if screened is not None:
            yield Batch(screened, first)
            first += screened.sequences
        progress(len(table))
