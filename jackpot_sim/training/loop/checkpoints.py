"""Checkpoints of a run: all that its next step depends on, in one file that is whole or missing.

    RUN/checkpoint-000050.pt    weights, optimisers, strengths, and the rows recorded so far

The last two are kept, so that one is whole whenever a run is killed.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import write_atomically

if TYPE_CHECKING:
    from jackpot_sim.training.loop.trainer import Row, TrainerState

KEPT = 2
"""The number of checkpoints that are kept."""


class Checkpoint(TypedDict):
    """The contents of a checkpoint."""

    trainer: TrainerState
    rows: list[Row]
    """The rows recorded so far."""
    models: NotRequired[str]
    """The folder of the first models, "" without a taught policy; older versions told none."""


def save(folder: Path, step: int, state: Checkpoint) -> None:
    """Writes the checkpoint of a step, and deletes those before the last two.

    Raises:
        OSError: the disk refuses; the earlier ones are still there.
    """
    import torch

    write_atomically(folder / f"checkpoint-{step:06d}.pt", lambda path: torch.save(state, path))
    for old in _paths(folder)[KEPT:]:
        old.unlink()


def newest(folder: Path) -> Checkpoint | None:
    """The last checkpoint that can be read, None if there is none; a file that a kill left unfinished is deleted.

    Raises:
        StudyError: there are checkpoints, and none can be read.
    """
    import torch

    for path in folder.glob(".checkpoint-*.tmp"):
        path.unlink()
    for path in _paths(folder):
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch does not look at the checksums that it writes
                    continue
            state: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # damaged from outside, which torch meets with errors of any kind: the one before it serves
            continue
        if isinstance(state, dict):
            return state
    if damaged := _paths(folder):
        raise StudyError(f"{damaged[0]} cannot be read, nor one before it: move {folder} away to begin this run anew")
    return None


def latest(folder: Path) -> Path | None:
    """The path of the last checkpoint, None if there is none."""
    return next(iter(_paths(folder)), None)


def delete(folder: Path) -> None:
    """Deletes all checkpoints of a run."""
    for path in _paths(folder):
        path.unlink()


def _paths(folder: Path) -> list[Path]:
    """The checkpoints, the last one first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)
