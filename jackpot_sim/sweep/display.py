"""The progress of a run on the terminal, and the cells of a study with their cost."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from jackpot_sim.environments.progress import Report, listened
from jackpot_sim.sweep import plan
from jackpot_sim.sweep.costs import Timed
from jackpot_sim.sweep.labels import kinds_of
from jackpot_sim.sweep.remaining import Remaining
from jackpot_sim.sweep.run import Progress
from jackpot_sim.sweep.spec import Study


@contextlib.contextmanager
def shown(study: Study, quiet: bool, costs: Sequence[Timed] = ()) -> Iterator[Callable[[Progress], None]]:
    """A function that tells of the progress of a run on standard error.

    On a terminal it is a bar, which is gone when the run ends; elsewhere real models have a line for each stage.

    Args:
        study: the study.
        quiet: whether nothing is told.
        costs: the estimates of the cells of real models that are left, in their order, if there are such.
    """
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar(study, costs) as report:
            yield report
    else:
        told = _Told(study, costs)
        with listened(told.hear):
            yield told.cell


@contextlib.contextmanager
def _bar(study: Study, costs: Sequence[Timed]) -> Iterator[Callable[[Progress], None]]:
    """A bar of cells; where their cost is known, of seconds, with the stage and the time left."""
    places = (TextColumn("{task.fields[left]}"),) if costs else (MofNCompleteColumn(), TimeRemainingColumn())
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(20 if costs else 40),
        *(places[:1]),
        TimeElapsedColumn(),
        *(places[1:]),
        console=Console(stderr=True),
        transient=True,
    )
    told = _Told(study, costs, lambda line: None)
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
            told.draw(bar, task)

        with listened(hear):
            yield cell


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


def duration(seconds: float) -> str:
    """A time in its unit.

    >>> duration(42), duration(150), duration(9000)
    ('42 s', '2.5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


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
