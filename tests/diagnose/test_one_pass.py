"""The one pass: everything read once, counted once, and the same to the last bit with any number of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from typing_extensions import override

from jackpot_sim.core.arrays import Flags
from jackpot_sim.diagnose import one_pass
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.one_pass import Measured, WhatIf
from jackpot_sim.diagnose.results import Effect
from jackpot_sim.diagnose.what_if.candidates import candidates
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.readers.left_out import LeftOut, Reason
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies.workers import ALONE, Workers
from tests.diagnose.measure.tables import drawn


class Half:
    """A screening that leaves out tokens at odd positions, the fourth sequence, and tables of one sequence."""

    bypass = False

    def __init__(self) -> None:
        self.left_out, self.read, self.shifted = LeftOut(), 0, {1: 3}

    def screen(self, table: TokenTable) -> TokenTable | None:
        self.read += len(table)
        if table.sequences == 1:
            return None
        kept = counted(table)
        self.left_out.add(Reason.MASKED, int((~kept).sum()))
        return table.keep(kept)


def counted(table: TokenTable) -> Flags:
    return (table.position % 2 == 0) & (table.owner != 3)


class Tokens:
    """A stand-in for the effects of corrections: the number of tokens."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: list[int] = []

    def add(self, batch: Batch) -> None:
        self.count += len(batch.table)
        self.numbers.append(batch.first)

    def merge(self, later: Tokens) -> None:
        self.count += later.count
        self.numbers += later.numbers

    def results(self) -> list[Effect]:
        return [Effect(name="tokens", label=str(self.numbers), effective_kl=self.count)]


class Failing(Tokens):
    """Effects that cannot be computed."""

    @override
    def add(self, batch: Batch) -> None:
        raise ZeroDivisionError("of this batch")


TABLES = [
    dataclasses.replace(drawn(n, seed, scale=0.5), step=np.full(n, seed))
    for seed, n in enumerate((30, 1, 20, 40, 9, 8, 7, 9, 8))
]


def passed(what_if: Callable[[], WhatIf] = Tokens, workers: Workers = ALONE) -> tuple[Measured, list[int]]:
    told: list[int] = []
    return one_pass.run(TABLES, Half(), what_if, workers=workers, progress=told.append), told


def test_everything_is_read_once() -> None:
    measured, told = passed()
    assert told == [len(table) for table in TABLES]
    kept = sum(int(counted(table).sum()) for table in TABLES if table.sequences > 1)
    assert measured.tokens == measured.effects[0].effective_kl == kept
    sizes = [table.sequences - 1 for table in TABLES if table.sequences > 1]
    assert measured.sequences == sum(sizes)
    assert measured.effects[0].label == str(np.cumsum([0, *sizes[:-1]]).tolist())
    evidence = measured.evidence
    assert evidence.read == sum(told)
    assert evidence.shifted == {1: 3}
    assert evidence.sample is not None
    assert len(evidence.sample) == kept
    ratio = np.concatenate([Batch(table, 0).log_ratio[counted(table)] for table in TABLES[:1] + TABLES[2:]])
    assert evidence.metrics["k1"].value == pytest.approx(-ratio.mean(), rel=1e-12)


def test_the_figures_are_the_same_to_the_last_bit_with_any_number_of_workers() -> None:
    what_if = partial(Effects, candidates())
    alone, told = passed(what_if)
    together, told_together = passed(what_if, workers=Workers(workers=2))
    assert told == told_together
    assert len(alone.effects) > 100
    for name in ("breakdowns", "alarms", "worst_tokens", "worst_sequences", "effects", "tokens", "sequences"):
        assert getattr(alone, name) == getattr(together, name), name
    assert alone.alarms[0].step == 0
    assert alone.evidence.metrics == together.evidence.metrics
    assert alone.evidence.sample is not None
    assert together.evidence.sample is not None
    assert alone.evidence.sample.name == together.evidence.sample.name


def test_an_error_of_a_worker_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError, match="of this batch"):
        one_pass.run(TABLES, Half(), Failing, workers=Workers(workers=2))


def test_a_dump_without_tokens_that_count_has_no_figures() -> None:
    measured = one_pass.run([drawn(1)], Half(), Tokens)
    assert measured.evidence.sample is None
    assert measured.evidence.metrics == {}
    assert measured.tokens == measured.sequences == 0
