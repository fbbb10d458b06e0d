"""A report from the folders of runs: the page of each, rendered into one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, TRAINING, Kind

from . import diagnoses, sweeps, training
from .page import Run
from .render import rendered

_PAGES: Mapping[Kind, Callable[[Path], Run]] = {
    SWEEP: sweeps.of_run,
    TRAINING: training.of_run,
    DIAGNOSIS: diagnoses.of_run,
}


def write(runs: Sequence[tuple[Path, Kind]], out: Path) -> int:
    """Writes the report of some runs, one below the other; the bytes of the file.

    Raises:
        StudyError: a run has nothing to show, or the file cannot be written.
    """
    text = rendered([_PAGES[kind](root) for root, kind in runs]).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, lambda path: path.write_bytes(text))
    except OSError as error:
        raise unwritable(out, error) from error
    return len(text)
