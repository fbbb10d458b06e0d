"""Running a study: unfinished cells go to the executor, and results to disk at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import Task, landing, outliving_workers
from jackpot_sim.studies.plugins import Plugin, load, require_unchanged
from jackpot_sim.sweep.cell import measure
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.plan import Cell, cells
from jackpot_sim.sweep.records import RunDirectory
from jackpot_sim.sweep.spec import Study


@dataclass(frozen=True)
class Progress:
    """The progress of a run, in cells."""

    finished: int
    total: int
    already_there: int
    done: frozenset[str] = frozenset()
    """The finished cells, by id."""


def run(
    study: Study,
    root: Path,
    executor: Executor,
    *,
    in_flight: int = 1,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Measures every cell of `study` that `root` does not hold yet.

    The records depend on the study alone: not on the executor, nor on the order in which cells
    finish, nor on the number of interruptions.

    Args:
        study: the study to run.
        root: the run's folder, new or of the same study.
        executor: measures the cells.
        in_flight: cells handed out at a time; a kill loses no more than these.
        report: called at the beginning and after every cell.

    Raises:
        StudyError: the folder holds something else or cannot be written, a shard cannot be read, or
            a cell cannot be measured as asked.
    """
    everything = cells(study)
    directory = RunDirectory(root, study, everything)
    with directory.opened(), outliving_workers("finished cells are kept"):
        done = directory.finished()
        missing = [cell for cell in everything if cell.id not in done]
        progress = Progress(len(done), len(everything), len(done), frozenset(done))
        report(progress)
        plugins = load(study.plugins)
        tasks = [Task(cell.id, _measure, (cell, study, plugins)) for cell in missing]
        for cell, future in landing(tasks, executor, in_flight):
            directory.write(_result(future, "; finished cells are kept" if progress.finished else ""))
            progress = Progress(progress.finished + 1, progress.total, len(done), progress.done | {cell})
            report(progress)
        return progress


def _measure(cell: Cell, study: Study, plugins: tuple[Plugin, ...]) -> Measured:
    require_unchanged(plugins)
    return measure(cell, study)


def _result(future: Future[Measured], addition: str) -> Measured:
    try:
        return future.result()
    except ValueError as error:
        raise StudyError(f"{error}{addition}") from error
    except MemoryError as error:
        raise StudyError("a cell did not fit into memory: make states, vocab or n_samples smaller") from error
