"""The one pass over a dump: tables are read and screened here, and measured here or in worker processes.

Each batch is measured from nothing, and merged in the order of the dump: the figures do not depend, to the last bit,
on the number of workers. Memory does not grow with the dump, but for what is held of each step.
"""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, Self

from jackpot_sim.diagnose import results
from jackpot_sim.diagnose.batch import Accumulator, Batch
from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.diagnose.measure.breakdowns import Breakdowns
from jackpot_sim.diagnose.measure.figures import figures
from jackpot_sim.diagnose.measure.full_laws import FullLaws
from jackpot_sim.diagnose.measure.metrics import Metrics
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.measure.trends import Trends
from jackpot_sim.diagnose.measure.worst import Worst
from jackpot_sim.readers.left_out import LeftOut
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies import plugins
from jackpot_sim.studies.executors import outliving_workers
from jackpot_sim.studies.plugins import Plugin, require_unchanged
from jackpot_sim.studies.workers import ALONE, Workers

IN_FLIGHT = 2
"""The batches handed out per worker beyond the one whose result is awaited; each costs its memory."""


class Screens(Protocol):
    """The screen that leaves out, before anything is measured, the tokens that do not count."""

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


class WhatIf(Accumulator, Protocol):
    """An accumulator of the effects of corrections."""

    def results(self) -> list[results.Effect]:
        """The effect of each correction."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The findings of the pass.

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
    breakdowns: list[results.Breakdown]
    alarms: list[results.Alarm]
    worst_tokens: list[results.Worst]
    worst_sequences: list[results.Worst]
    effects: list[results.Effect]
    tokens: int
    sequences: int


class _Parts:
    """The accumulators that a worker fills."""

    def __init__(self, what_if: Callable[[], WhatIf]) -> None:
        self.metrics, self.breakdowns, self.trends, self.worst = Metrics(), Breakdowns(), Trends(), Worst()
        self.full_laws, self.effects = FullLaws(), what_if()

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
    workers: Workers = ALONE,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Reads, screens and measures a dump once.

    Args:
        tables: the dump.
        screening: what leaves tokens out.
        what_if: makes a fresh accumulator of effects of corrections; it goes to worker processes.
        workers: the processes that measure, besides this one, which reads; one of this machine: this one does both. A
            dump of one table is measured here too, unless a cluster is named.
        progress: called with the number of tokens of each table when it has been read.

    Raises:
        StudyError: a worker process died, or there is no such cluster.
    """
    sample, parts = Sample(), _Parts(what_if)
    batches = _batches(tables, screening, sample, progress or (lambda tokens: None))
    for measured in _measured(batches, what_if, workers):
        parts.merge(measured)
    evidence = Evidence(
        sample=sample.table(),
        left_out=screening.left_out,
        read=screening.read,
        metrics=figures(parts.metrics, parts.full_laws, sample),
        bypass=screening.bypass,
        shifted=dict(screening.shifted),
    )
    return Measured(
        evidence=evidence,
        breakdowns=parts.breakdowns.results(),
        alarms=parts.trends.alarms(),
        worst_tokens=parts.worst.tokens(),
        worst_sequences=parts.worst.sequences(),
        effects=parts.effects.results(),
        tokens=int(parts.metrics.tokens.units.sum()),
        sequences=sample.sequences,
    )


def _batches(
    tables: Iterable[TokenTable], screening: Screens, sample: Sample, progress: Callable[[int], None]
) -> Iterator[Batch]:
    """The tokens that count of each table; the sample takes its sequences here, so that none come back from workers."""
    first = 0
    for table in tables:
        screened = screening.screen(table)
        progress(len(table))
        if screened is not None:
            batch = Batch(screened, first)
            sample.add(batch)
            first += screened.sequences
            yield batch


def _measured(batches: Iterator[Batch], what_if: Callable[[], WhatIf], workers: Workers) -> Iterator[_Parts]:
    """The figures of the batches, in their order, at most `IN_FLIGHT` a worker ahead."""
    begun = list(itertools.islice(batches, 2))
    if workers.is_alone or (len(begun) < 2 and workers.ray_address is None):  # an address is not passed over
        yield from (_measure(batch, what_if) for batch in itertools.chain(begun, batches))
        return
    flying: deque[Future[_Parts]] = deque()
    with outliving_workers("nothing is kept"), workers.opened() as (executor, width):
        carried = pickle.dumps(what_if)
        for batch in itertools.chain(begun, batches):
            flying.append(executor.submit(_measure_elsewhere, batch, carried, plugins.loaded()))
            if len(flying) > IN_FLIGHT * width:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


def _measure(batch: Batch, what_if: Callable[[], WhatIf]) -> _Parts:
    parts = _Parts(what_if)
    parts.add(batch)
    return parts


def _measure_elsewhere(batch: Batch, what_if: bytes, plugged_in: tuple[Plugin, ...]) -> _Parts:
    """Measures in a worker, which has to run plug-ins before it can read corrections that are theirs."""
    require_unchanged(plugged_in)
    return _measure(batch, pickle.loads(what_if))
