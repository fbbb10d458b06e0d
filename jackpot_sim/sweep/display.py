"""The progress of a run on the terminal, and the cells of a study with their cost."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from typing_extensions import override

from jackpot_sim.sweep import plan
from jackpot_sim.sweep.labels import kinds_of
from jackpot_sim.sweep.run import Progress
from jackpot_sim.sweep.spec import Study


@contextlib.contextmanager
def shown(study: Study, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A function that draws the progress of a run: on a terminal only, and gone when the run ends.

    Real models log what they are doing, since a cell of theirs may take long; it stands beside the bar.
    """
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(study.name, total=None)

        def report(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.finished)

        with _logged_to(lambda text: bar.update(task, description=f"{study.name}: {text}")):
            yield report


@contextlib.contextmanager
def _logged_to(show: Callable[[str], object]) -> Iterator[None]:
    """The messages of environments, at level INFO, go to `show`."""

    class Handler(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger("jackpot_sim.environments"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def cost_table(study: Study) -> Table:
    """The cells of a study by their kinds, with a rough estimate of their cost."""
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
        costs = [plan.seconds(cell, study) for cell in members]
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
