"""Running a study: what is unfinished goes to the executor, what comes back goes to disk at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep.cell import Measured, measure
from jackpot_sim.sweep.plan import Cell, cells
from jackpot_sim.sweep.records import RunDirectory
from jackpot_sim.sweep.spec import Study


@dataclass(frozen=True)
class Progress:
    """How far a run has come, in cells."""

    finished: int
    total: int
    already_there: int


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
    finish, nor on how often the run was interrupted.

    Args:
        study: what to run.
        root: the run's folder, new or of the same study.
        executor: where cells are measured.
        in_flight: cells handed out at a time; a kill loses no more than these.
        report: called after every cell.

    Raises:
        StudyError: the folder holds something else or cannot be written, a shard cannot be read, or
            a cell cannot be measured as asked.
    """
    everything = cells(study)
    directory = RunDirectory(root, study, everything)
    with directory.opened():
        done = directory.finished()
        waiting = [cell for cell in everything if cell.id not in done]
        try:
            return _drain(study, waiting, directory, executor, in_flight, report, len(done))
        except BrokenExecutor as error:
            raise StudyError(
                "a worker process died, perhaps for lack of memory; finished cells are kept: "
                "run the same command again, with fewer --workers"
            ) from error


def _drain(
    study: Study,
    waiting: list[Cell],
    directory: RunDirectory,
    executor: Executor,
    in_flight: int,
    report: Callable[[Progress], None],
    already_there: int,
) -> Progress:
    progress = Progress(already_there, already_there + len(waiting), already_there)
    report(progress)
    flying: set[Future[Measured]] = set()
    queue = iter(waiting)
    # What flies when this is left early is for the executor's owner to end: a future that is cancelled here
    # and then failed by an executor that shuts down makes loky print a traceback.
    while True:
        while len(flying) < in_flight and (cell := next(queue, None)) is not None:
            flying.add(executor.submit(measure, cell, study))
        if not flying:
            return progress
        landed, flying = wait(flying, return_when=FIRST_COMPLETED)
        for future in sorted(landed, key=_failed):  # an error must not lose the cells that landed beside it
            directory.write(_result(future, kept="; finished cells are kept" if progress.finished else ""))
            progress = Progress(progress.finished + 1, progress.total, already_there)
            report(progress)


def _failed(future: Future[Measured]) -> bool:
    return future.exception() is not None


def _result(future: Future[Measured], kept: str) -> Measured:
    try:
        return future.result()
    except ValueError as error:
        raise StudyError(f"{error}{kept}") from error
    except MemoryError as error:
        raise StudyError("a cell did not fit into memory: make states, vocab or n_samples smaller") from error
