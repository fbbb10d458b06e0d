"""Rows of the plain schema as sequences: groups of rows of tokens, or one row with lists."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jackpot_sim.core.arrays import Ints
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.foreign import Foreign
from jackpot_sim.readers.format import Record, Refuse
from jackpot_sim.readers.formats.plain_schema import BY_NAME, LOG_PROBS, OF_TOKENS, SCHEMA, Column, Kind
from jackpot_sim.readers.formats.plain_values import WrongValueError, flags, integers, numbers, shown, top_k
from jackpot_sim.readers.sequence import DumpedSequence

_READ = {Kind.INTEGER: integers, Kind.NUMBER: numbers, Kind.FLAG: flags, Kind.IDS: integers}
_ALIKE = 0.9
"""The likeness (difflib's ratio) from which a name is taken for a slip."""
_COLUMN = {column.name: column for column in SCHEMA}


def holds_lists(row: Mapping[str, Any]) -> bool:
    """True for a row of a sequence, False for one of a token."""
    return list in map(type, map(row.get, OF_TOKENS))


class Rows:
    """The rows of one file, which have the same columns, and in which a sequence stands in one piece."""

    def __init__(self, first: Record, refuse: Refuse, lists: bool) -> None:
        """Takes the columns from the first row; `lists` says that rows are those of sequences.

        Raises:
            DumpError: it lacks a column that rows need, or has one under two names.
        """
        self._refuse, self._seen, self._lists = refuse, set[str](), lists
        self._first, self._keys = first.place, first.content.keys()
        self.columns = _columns(first, self._lists)

    def sequences(self, records: Iterable[Record], at: int = 0) -> Iterator[DumpedSequence]:
        """The sequences in some rows, which begin and end with whole sequences, after `at` rows that are read."""
        groups = ([record] for record in records) if self._lists else self._by_name(records)
        for number, rows in enumerate(groups, at + 1):
            try:
                yield self._sequence(rows, str(number))
            except DumpError as error:
                error.rows = len(rows)
                self._refuse(error)

    def begin(self, names: Sequence[str]) -> bool:
        """Notes sequences that are read elsewhere; False, and nothing noted, where one has been there before."""
        new = set(names)
        if len(new) < len(names) or not self._seen.isdisjoint(new):
            return False
        self._seen |= new
        return True

    def _by_name(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        """The rows of tokens, one sequence at a time; a row without a sequence is refused alone."""
        rows: list[Record] = []
        last: object = None
        for record in records:
            name = record.content.get("sequence") if isinstance(record.content, dict) else None
            if type(name) not in (int, str):
                self._refuse(_no_sequence(record))
                continue
            if rows and name != last:
                yield rows
                rows = []
            last = name
            rows.append(record)
        if rows:
            yield rows

    def _sequence(self, rows: list[Record], number: str) -> DumpedSequence:
        for record in rows:
            self._check_columns(record)
        first = rows[0]
        name = str(first.content.get("sequence", number))
        if not self.begin([name]):
            raise DumpError(
                f"{first.place}: sequence {name} comes back after others: rows of a sequence stand together"
            )
        if self._lists:
            return _built(
                name, first.place, _of_lists(first, self.columns), lambda at: f"{first.place}, entry {at + 1}"
            )
        columns = {of: [record.content[key] for record in rows] for of, key in self.columns.items()}
        return _built(name, first.place, columns, lambda at: rows[at].place)

    def _check_columns(self, record: Record) -> None:
        if not isinstance(record.content, dict):
            raise DumpError(f"{record.place} holds {shown(record.content)}: expected an object with columns")
        if record.content.keys() != self._keys:
            known = {key for key in record.content if key in BY_NAME}
            if differs := sorted(known ^ {key for key in self._keys if key in BY_NAME}):
                raise DumpError(
                    f"{record.place} and {self._first} differ in the columns {', '.join(differs)}: all rows of a file "
                    "have the same, with null where a value is not known"
                )
        if holds_lists(record.content) != self._lists:
            kinds = ("a row of a token", "one of a sequence with lists")
            raise DumpError(
                f"{record.place} is {kinds[not self._lists]}, {self._first} {kinds[self._lists]}: use one kind a file"
            )


def _columns(first: Record, lists: bool) -> dict[str, str]:
    """The key of each column of the schema that a row has."""
    found: dict[str, str] = {}
    for key in first.content:
        column = BY_NAME.get(key)
        if column is None or (not lists and key != column.name):
            continue
        if column.name in found:
            raise DumpError(f"{first.place} has both {found[column.name]} and {key}: give one of them")
        found[column.name] = key
    for name in LOG_PROBS:
        near = difflib.get_close_matches(name, [str(key) for key in first.content if key not in BY_NAME], 1, _ALIKE)
        if near and name not in found:
            raise DumpError(f"{first.place} has the column {near[0]}: did you mean {name}?")
    if not any(name in found for name in LOG_PROBS):
        raise DumpError(
            f"{first.place} has neither {' nor '.join(LOG_PROBS)} (columns: {', '.join(map(str, first.content))}): "
            "a row needs at least one"
        )
    if not lists and "sequence" not in found:
        raise _no_sequence(first)
    for side in ("actor", "policy"):
        parts = [f"{side}_topk_ids", f"{side}_topk_log_probs"]
        missing = [name for name in parts if name not in found]
        if len(missing) == 1:
            raise DumpError(f"{first.place} has no {missing[0]}: a top-k has both {' and '.join(parts)}")
    return found


def _no_sequence(record: Record) -> DumpError:
    if not isinstance(record.content, dict):
        return DumpError(f"{record.place} holds {shown(record.content)}: expected an object with columns")
    if "sequence" not in record.content:
        return DumpError(
            f"{record.place} has no column sequence (columns: {', '.join(map(str, record.content))}): a row of a token "
            "names its sequence"
        )
    return DumpError(f"{record.place}: sequence is {shown(record.content['sequence'])}, where {Kind.NAME} was expected")


def _of_lists(record: Record, columns: Mapping[str, str]) -> dict[str, list[Any]]:
    """The columns of a row of a sequence as lists, one entry a token or, of what belongs to the sequence, one."""
    lengths = {
        key: len(record.content[key])
        for of, key in columns.items()
        if not _COLUMN[of].of_sequence and isinstance(record.content[key], list)
    }
    length = next(iter(lengths.values()), 0)
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in lengths.items())
        raise DumpError(f"{record.place} has lists of different lengths ({told}): expected one entry a token in each")
    if not length:
        raise DumpError(f"{record.place} has no token: expected lists with at least one entry")
    lists: dict[str, list[Any]] = {}
    for of, key in columns.items():
        value, column = record.content[key], _COLUMN[of]
        if column.of_sequence:
            lists[of] = [value]
        elif isinstance(value, list):
            lists[of] = value
        elif value is None or column.one_for_all:
            lists[of] = [value] * length
        else:
            raise DumpError(f"{record.place}: {key} is {shown(value)}, where a list was expected")
    return lists


def _built(
    name: str, place: str, columns: Mapping[str, Sequence[Any]], place_of: Callable[[int], str]
) -> DumpedSequence:
    """The sequence of some columns, which stands at `place`, and its tokens where `place_of` says."""
    fields: dict[str, Any] = {}
    for of, values in columns.items():
        column = _COLUMN[of]
        try:
            if column.kind in (Kind.TOP_IDS, Kind.TOP_LOG_PROBS):
                if column.kind is Kind.TOP_IDS:
                    fields[column.field] = top_k(values, columns[of.replace("_ids", "_log_probs")])
            elif of == "prompt":
                fields["prompt"] = None if values[0] is None else _prompt(values[0])
            elif of != "sequence":
                fields[column.field] = _values(column, values)
        except WrongValueError as error:
            at = place if len(values) == 1 and column.of_sequence else place_of(error.at)
            shown_as = column.field if column.kind is Kind.TOP_IDS else of
            raise DumpError(f"{at}: {shown_as} holds {error}") from None
    _check_position(fields.get("position"), place_of)
    return DumpedSequence(name, place, **fields)


def _prompt(value: Foreign) -> Ints:
    if not isinstance(value, list):
        raise WrongValueError(0, shown(value), Kind.IDS)
    return integers(value)


def _values(column: Column, values: Sequence[Any]) -> Foreign:
    """A column of one sequence; None where no value of it is known, unless it holds log-probs."""
    if column.name not in LOG_PROBS and all(value is None or value != value for value in values):
        return None
    found = _READ[column.kind](values)
    return _one(found, values) if column.of_sequence else found


def _one(found: NDArray[Any], values: Sequence[Any]) -> float | int:
    """The one value of a sequence."""
    differs = found != found[0]
    if found[0] != found[0]:
        differs = found == found
    if np.any(differs):
        at = int(np.argmax(differs))
        raise WrongValueError(at, shown(values[at]), f"{shown(values[0])}, as in the sequence's first row,")
    only: float | int = found[0].item()
    return only


def _check_position(position: Ints | None, place_of: Callable[[int], str]) -> None:
    if position is None:
        return
    falls = np.diff(position, prepend=-1) <= 0
    if np.any(falls):
        at = int(np.argmax(falls))
        raise DumpError(
            f"{place_of(at)}: position is {position[at]}"
            + (f" after {position[at - 1]}" if at else "")
            + ", where a larger one was expected: positions count from 0 and rise"
        )
