"""The plain schema, this project's own, for users who write their dumps themselves: its columns are in plain_schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.formats.plain_rows import Rows, holds_lists
from jackpot_sim.readers.formats.plain_schema import BY_NAME, LOG_PROBS, SCHEMA, described
from jackpot_sim.readers.formats.plain_values import shown
from jackpot_sim.readers.sequence import DumpedSequence

__all__ = ["SCHEMA", "Plain", "described"]


class Plain:
    """The format of plain rows in JSON lines or Parquet."""

    name = "plain"
    expects = "actor_log_prob and policy_log_prob, one row a token or lists"

    def recognises(self, record: Record) -> bool:
        """True for a row with a column of log-probs."""
        return isinstance(record.content, dict) and any(
            name in record.content for name, column in BY_NAME.items() if column.name in LOG_PROBS
        )

    def together(self, path: Path) -> str:
        """The path itself: each file is read alone."""
        return str(path)

    def sequences(self, records: Iterable[Record], refuse: Refuse) -> Iterator[DumpedSequence]:
        """The sequences in the rows of one file, in order."""
        rest = iter(records)
        for first in rest:
            try:
                rows = _rows(first, refuse)
            except DumpError as error:
                refuse(error)
                continue
            yield from rows.sequences(_with(first, rest))
            return


def _rows(first: Record, refuse: Refuse) -> Rows:
    if not isinstance(first.content, dict):
        raise DumpError(f"{first.place} holds {shown(first.content)}: expected an object with columns")
    return Rows(first, refuse, holds_lists(first.content))


def _with(first: Record, rest: Iterator[Record]) -> Iterator[Record]:
    yield first
    yield from rest
