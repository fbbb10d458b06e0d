"""Batches of padded rows, (B, T), as trainers hold them: the fields of each row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from jackpot_sim.core.arrays import Flags
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record
from jackpot_sim.readers.formats.producer import inside


def rows(record: Record, leader: str) -> Iterator[Fields]:
    """The fields of each row of a batch; those that are not one entry for each row of `leader` stay whole.

    Raises:
        DumpError: `leader` has not two axes.
    """
    batch = Fields(record.content, record.place, record.name)
    first = batch.ints(leader)
    if first is None or first.ndim != 2:
        raise batch.error(f"{leader} must hold a row of token ids for each sequence")
    of_rows = {key: value for key, value in batch.content.items() if _size(value) == len(first)}
    others = {key: value for key, value in batch.content.items() if key not in of_rows}
    for at in range(len(first)):
        row = {key: value[at] for key, value in of_rows.items()}
        yield Fields({**others, **row, "row": at}, inside(record, f"row {at}"), record.name)


def _size(value: Foreign) -> int | None:
    """The number of entries of an array or list; None for anything else."""
    if isinstance(value, str | Mapping) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        return None
    return len(value)


def end(*marks: Flags | None) -> int:
    """One more than the last True in any of the marks, all of one length; 0 where there is none."""
    return max((int(np.flatnonzero(each)[-1]) + 1 for each in marks if each is not None and each.any()), default=0)


def step_of(name: str) -> int | None:
    """The step in a file's name, as in "global_step_12_training_input.pkl" or "step12.pt"."""
    found = re.search(r"step[_\-=]?(\d+)", name)
    return int(found[1]) if found else None
