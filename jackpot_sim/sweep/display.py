"""The progress of a run on the terminal, and the cells of a study with their cost."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from jackpot_sim.environments.progress import Report, listened
from jackpot_sim.studies.counting import duration
from jackpot_sim.sweep import plan, records
from jackpot_sim.sweep.answers import in_a_line
from jackpot_sim.sweep.costs import Timed
from jackpot_sim.sweep.labels import kinds_of
from jackpot_sim.sweep.remaining import Pace, Remaining
from jackpot_sim.sweep.run import Progress
from jackpot_sim.sweep.spec import Study

_LONG = 15.0
"""The seconds after which a run is long: off a terminal a shorter one tells its figures at its end alone."""
_ANY_CELL = 0.05
"""The seconds that any cell takes, however small."""


@contextlib.contextmanager
def shown(study: Study, root: Path, quiet: bool, costs: Sequence[Timed] = ()) -> Iterator[Callable[[Progress], None]]:
    """A function that tells of the progress of a run on standard error, with the first figures as soon as there are.

    On a terminal it is a bar, which is gone when the run ends; elsewhere real models have a line for each stage, and
    long runs one from time to time.

    Args:
        study: the study.
        root: the run's folder.
        quiet: whether nothing is told.
        costs: the estimates of the cells of real models that are left, in their order, if there are such.
    """
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar(study, root, costs) as report:
            yield report
    else:
        told, early = _Told(study, costs), Early(study, root, first=_LONG)

        def cell(progress: Progress) -> None:
            told.cell(progress)
            if line := early.line(progress):
                print(line, file=sys.stderr, flush=True)

        with listened(told.hear):
            yield cell


@contextlib.contextmanager
def _bar(study: Study, root: Path, costs: Sequence[Timed]) -> Iterator[Callable[[Progress], None]]:
    """A bar of cells; where their cost is known, of seconds, with the stage; and the time left."""
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(20),
        *([] if costs else [MofNCompleteColumn()]),
        TextColumn("{task.fields[left]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False, markup=False),
        transient=True,
    )
    told, early = _Told(study, costs, lambda line: None), Early(study, root)
    with bar:
        task = bar.add_task(study.name, total=None, left="")

        def hear(report: Report) -> None:
            told.hear(report)
            counted = f" {report.done}/{report.total}" if report.total else ""
            bar.update(task, description=f"{study.name}: {report.stage}{counted}")
            told.draw(bar, task)

        def cell(progress: Progress) -> None:
            told.cell(progress)
            bar.update(task, total=progress.total, completed=progress.finished)
            line = early.line(progress)
            if costs:
                told.draw(bar, task)
            elif early.left is not None:
                bar.update(task, left=f"about {duration(early.left)} left")
            if line:
                bar.console.print(line)

        with listened(hear):
            yield cell


class Early:
    """The first figures of environments whose cells are all done, in a line from time to time, and the time left.

    Args:
        study: the study.
        root: the run's folder.
        first: the seconds before which nothing is told.
        every: the seconds between two lines.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        study: Study,
        root: Path,
        *,
        first: float = 0.0,
        every: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._name, self._root, self._every, self._clock = study.name, root, every, clock
        self._next = clock() + first
        self._left: dict[str, set[str]] = {}
        for each in plan.cells(study):
            self._left.setdefault(each.environment, set()).add(each.id)
        self._pace = Pace({each.id: _work(each, study) for each in plan.cells(study)}, clock)

    @property
    def left(self) -> float | None:
        """The seconds that are left, as far as the pace tells."""
        return self._pace.seconds

    def line(self, progress: Progress) -> str:
        """The line to be told at this moment; empty where there is none."""
        self._pace.finished(progress.done)
        done = [cells for cells in self._left.values() if cells <= progress.done]
        if not done or progress.finished == progress.total or self._clock() < self._next:
            return ""
        self._next = self._clock() + self._every
        rows = records.load(self._root)
        figures = in_a_line(rows[rows["cell"].isin(done[-1])], rows)
        left = "" if self.left is None else f", about {duration(self.left)} left"
        return f"{self._name}, {progress.finished} of {progress.total} cells{left}: {figures}"


def _work(cell: plan.Cell, study: Study) -> float:
    """A cell's share of the work: what all cells take, and its own estimate."""
    return _ANY_CELL + (plan.seconds(cell, study) or 0.0)


class _Told:
    """The stage of a run, a line for each, and the time left where its cost is known."""

    def __init__(self, study: Study, costs: Sequence[Timed], show: Callable[[str], object] | None = None) -> None:
        self._name, self._total = study.name, sum(sum(each.seconds) for each in costs)
        self._show = show or (lambda line: print(line, file=sys.stderr, flush=True))
        self._remaining = Remaining(costs) if costs else None
        self._last: Report | None = None
        self._cells = ""

    def draw(self, bar: ProgressBar, task: TaskID) -> None:
        """Draws a bar of seconds, where the cost is known."""
        if self._remaining is not None:
            left = self._remaining.seconds
            bar.update(task, total=self._total, completed=self._total - left, left=f"about {duration(left)} left")

    def hear(self, report: Report) -> None:
        if self._remaining is not None:
            self._remaining.hear(report)
        begins = self._last is None or self._last.stage is not report.stage or (report.total and not report.done)
        self._last = report
        if begins:
            counted = f", {report.total} rollouts" if report.total else ""
            left = "" if self._remaining is None else f", about {duration(self._remaining.seconds)} left"
            self._show(f"{self._name}{self._cells}: {report.stage}{counted}{left}")

    def cell(self, progress: Progress) -> None:
        if self._remaining is not None and self._last is not None:
            self._remaining.next_cell()
        self._last = None
        self._cells = f", cell {min(progress.finished + 1, progress.total)} of {progress.total}"


def cost_line(costs: Mapping[str, Timed]) -> str:
    """The cost of the cells of real models, by their ids, in one sentence."""
    seconds = sum(sum(each.seconds) for each in costs.values())
    tokens = sum(each.tokens for each in costs.values())
    memory = max(each.bytes for each in costs.values()) / 2**30
    return (
        f"Real models: about {tokens:,.0f} tokens through a model, {memory:.2g} GiB of memory and {duration(seconds)}, "
        "from a few timed tokens: right within a factor of two."
    )


def cost_table(study: Study, measured: Mapping[str, Timed]) -> Table:
    """The cells of a study by their kinds, with a rough estimate of their cost.

    Args:
        study: the study.
        measured: the cost of cells of real models, by their ids, where it is known.
    """
    table = Table(title=f"{study.name}: config {study.config_hash}", title_justify="left")
    for heading in ("environment", "cells", "states x vocab", "rows", "about, serial"):
        table.add_column(heading, justify="left" if heading == "environment" else "right")
    rows = plan.estimates(study) * len(study.methods)
    groups: dict[str, list[plan.Cell]] = {}
    for cell in plan.cells(study):
        groups.setdefault(kinds_of(cell.env.family, cell.env.base_kind), []).append(cell)
    total, unknown = 0.0, False
    for label, members in groups.items():
        sizes = [plan.tokens(cell) for cell in members]
        costs = [
            sum(measured[cell.id].seconds) if cell.id in measured else plan.seconds(cell, study) for cell in members
        ]
        subtotal = sum(cost for cost in costs if cost is not None)
        total += subtotal
        size = "?" if None in sizes else f"{max(size for size in sizes if size is not None):,}"
        unknown = unknown or None in costs
        about = "?" if None in costs else f"{subtotal:.1f} s"
        table.add_row(label, str(len(members)), size, str(rows * len(members)), about)
    table.add_section()
    cells = sum(map(len, groups.values()))
    table.add_row("all", str(cells), "", str(rows * cells), f"{total:.1f} s{' and more' if unknown else ''}")
    return table
