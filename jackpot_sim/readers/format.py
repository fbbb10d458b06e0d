"""The contract of a format: it knows its records by their keys, and reads the sequences out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.sequence import DumpedSequence

Refuse: TypeAlias = Callable[[DumpError], None]
"""The answer to a bad record: raises the error, or with --skip-bad counts it and returns, to go on with the next."""


def raises(error: DumpError) -> None:
    """The answer to a bad record where none is passed over.

    Raises:
        DumpError: always.
    """
    raise error


class Record(NamedTuple):
    """One object of a file: a line of JSONL, a row of Parquet, or all that a .pt, .pkl or .json file holds.

    A .json file that holds a list gives its items.
    """

    place: str
    """Where it stands, as errors name it: the file, and the line or row."""
    content: Foreign
    """The object: dictionaries, lists, numbers, strings, numpy arrays or torch tensors, and nothing else."""
    name: str
    """The file's name without its folder, in which some frameworks write the step and the rank."""


class Format(Protocol):
    """A producer of dumps."""

    @property
    def name(self) -> str:
        """The producer, as reports and --format name it."""

    @property
    def expects(self) -> str:
        """The keys by which a record is known, for the error of an unknown one: "token_ids, inference_logprobs"."""

    def recognises(self, record: Record) -> bool:
        """True for the first record of a file of this format, by its keys alone; False for what is no dictionary."""

    def together(self, path: Path) -> str:
        """The key of the files that are read as one with this file; the path itself where a file stands alone.

        Some frameworks write a file per rank, or one for each side, and a sequence lies in several of them. The files
        of a dump of which this is equal are handed over as one, in the natural order of their paths, wherever they lie.
        """

    def sequences(self, records: Iterable[Record], refuse: Refuse) -> Iterator[DumpedSequence]:
        """The sequences in the records of one file, or of files that are read together, in order.

        A record that lacks a field, or whose fields do not fit together, goes to `refuse`, and is passed over where
        that returns.
        """
