"""The frame of a format whose records each hold whole sequences: how a record is split, and how a sequence is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jackpot_sim.core.arrays import Flags
from jackpot_sim.core.topk import TopK
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.fields import Fields
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.readers.table import OF_TOKENS, TOP_K


def whole(record: Record) -> Iterator[Fields]:
    """The one sequence of a record."""
    yield Fields(record.content, record.place, record.name)


def inside(record: Record, part: str) -> str:
    """The place of a part of a record: after a comma where the record is the file, else within its line or row."""
    return f"{record.place}{', ' if record.place.endswith(record.name) else ' '}{part}"


@dataclass(frozen=True)
class Producer:
    """A format, spelt out by its parts.

    Attributes:
        name: the producer, as reports and --format name it.
        keys: the keys by which a record is known.
        read: one sequence out of its fields, None where it has no token; raises a DumpError where they do not fit.
        split: the fields of each sequence of a record; raises a DumpError where the record is none of this format.
        knows: True for the fields of a record of this format, where the keys do not tell.
    """

    name: str
    keys: tuple[str, ...]
    read: Callable[[Fields], DumpedSequence | None]
    split: Callable[[Record], Iterable[Fields]] = whole
    knows: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def expects(self) -> str:
        """The keys by which a record is known."""
        return ", ".join(self.keys)

    def recognises(self, record: Record) -> bool:
        """True for the first record of a file of this format, by its keys alone."""
        if not isinstance(record.content, Mapping):
            return False
        return self.knows(record.content) if self.knows else all(key in record.content for key in self.keys)

    def together(self, path: Path) -> str:
        """The path itself: each file is read alone."""
        return str(path)

    def sequences(self, records: Iterable[Record], refuse: Refuse) -> Iterator[DumpedSequence]:
        """The sequences in the records, in order; what cannot be read goes to `refuse`."""
        for record in records:
            try:
                if not isinstance(record.content, Mapping):
                    raise DumpError(f"{record.place}: {self.name} writes objects with named fields here")
                parts = list(self.split(record))
            except DumpError as error:
                refuse(error)
                continue
            for fields in parts:
                try:
                    sequence = self.read(fields)
                except DumpError as error:
                    refuse(error)
                    continue
                if sequence is not None:
                    yield sequence


def sequence(fields: Fields, name: str, **columns: Foreign) -> DumpedSequence | None:
    """A sequence whose columns have one length; None where that is 0.

    Raises:
        DumpError: a column has another length than the first one.
    """
    lengths = {
        key: len(value.ids if isinstance(value, TopK) else value)
        for key, value in columns.items()
        if value is not None and key in (*OF_TOKENS, *TOP_K, "text")
    }
    first, length = next(iter(lengths.items()))
    for key, found in lengths.items():
        if found != length:
            raise fields.error(f"{key} is {found} long where {first} is {length} long")
    return DumpedSequence(name, fields.place, **columns) if length else None


def completion(mask: Flags, end: int) -> slice:
    """The completion in a row that begins with the prompt: from the first token of the mask up to `end`.

    The first token of a row has no law, so that a completion begins at 1 or later; so it does where the mask is empty.
    """
    return slice(max(1, int(np.argmax(mask)) if mask.any() else 1), end)


def named(*parts: object) -> str:
    """A sequence's name out of the numbers by which a framework counts it, without those that are absent."""
    return "-".join(str(each) for each in parts if each is not None)
