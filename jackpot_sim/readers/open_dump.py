"""A dump opened: its files found, its format known, its sequences read one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from jackpot_sim.readers import build, containers
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.files import files
from jackpot_sim.readers.format import Format, Record, Refuse, raises
from jackpot_sim.readers.formats import FORMATS, PLAIN, plain_parquet
from jackpot_sim.readers.left_out import LeftOut, Reason
from jackpot_sim.readers.sequence import DumpedSequence
from jackpot_sim.readers.table import TokenTable

_SHOWN_KEYS, _SHOWN_LETTERS = 8, 40
"""The keys of a record that an error shows, and of each so many letters."""
SIDES = ("actor_log_probs", "policy_log_probs")


def open_dump(paths: Sequence[str | Path], *, format: str | None = None, skip_bad: bool = False) -> Dump:  # noqa: A002
    """Opens a dump: looks for its files, and knows the format by the first record.

    Args:
        paths: files, folders or patterns; see `files`.
        format: the format's name, where it is not to be known by the keys of the first record.
        skip_bad: True to pass over files, rows and sequences that cannot be read, and count them in `Dump.left_out`.

    Raises:
        DumpError: there is no file, the first record cannot be read, or no format, or more than one, knows it.
    """
    found, passed_over = _dumps(files(paths), given={Path(each) for each in paths})
    known = _known(_first(found, skip_bad), several=len(found) > 1) if format is None else _named(format)
    return Dump(found, known, forced=format is not None, skip_bad=skip_bad, passed_over=passed_over)


class Dump:
    """The files of a dump, all of one format.

    Attributes:
        files: the files, in the order in which they are read.
        passed_over: the files of folders that are no dumps by their content: logs, pictures.
        left_out: what the last reading passed over, with the sentences of the first errors; empty without `skip_bad`.
    """

    def __init__(
        self, found: tuple[Path, ...], known: Format, *, forced: bool, skip_bad: bool, passed_over: tuple[Path, ...]
    ) -> None:
        """Takes the files; `forced` says that the format is the user's word, and not looked for in each file."""
        self.files, self.passed_over, self.left_out = found, passed_over, LeftOut()
        self._format, self._forced, self._skip_bad = known, forced, skip_bad

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._format.name

    @cached_property
    def sides(self) -> frozenset[str]:
        """The sides of which the first sequence has log-probs: "actor_log_probs", "policy_log_probs"."""
        first = next(self._sequences(_passes if self._skip_bad else raises), None)
        if first is None:
            raise self._nothing()
        return frozenset(side for side in SIDES if getattr(first, side) is not None)

    def sequences(self) -> Iterator[DumpedSequence]:
        """The sequences of all files, in order; each call reads the files anew.

        Raises:
            DumpError: a record cannot be read, a file is of another format, or there is no sequence at all.
        """
        refuse, found = self._begun(), False
        for sequence in self._sequences(refuse):
            found = True
            yield sequence
        if not found:
            raise self._nothing()

    def tables(self) -> Iterator[TokenTable]:
        """The tokens of all files, in tables; each call reads the files anew.

        Raises:
            DumpError: as `sequences`, or columns of a sequence have different lengths.
        """
        refuse, found = self._begun(), False
        for table in build.full(self._tables(refuse)):
            found = True
            yield table
        if not found:
            raise self._nothing()

    def _begun(self) -> Refuse:
        self.left_out.count.clear()
        self.left_out.sample.clear()
        return self._counts if self._skip_bad else raises

    def _counts(self, error: DumpError) -> None:
        self.left_out.add(Reason.BAD_ROW, error.rows, [str(error)])

    def _nothing(self) -> DumpError:
        bad = self.left_out.sample.get(Reason.BAD_ROW)
        return DumpError(
            f"{self.files[0]}{f' and {len(self.files) - 1} more hold' if self.files[1:] else ' holds'} no sequence "
            + (f"that can be read; the first error: {bad[0]}" if bad else "at all: expected at least one")
        )

    def _sequences(self, refuse: Refuse) -> Iterator[DumpedSequence]:
        for group in self._groups():
            yield from self._read(group, refuse)

    def _tables(self, refuse: Refuse) -> Iterator[TokenTable]:
        for in_columns, groups in itertools.groupby(self._groups(), self._in_columns):
            if in_columns:
                for (path,) in groups:
                    yield from plain_parquet.tables(path, refuse)
            else:
                sequences = (sequence for group in groups for sequence in self._read(group, refuse))
                yield from build.tables(sequences, refuse=refuse)

    def _in_columns(self, group: list[Path]) -> bool:
        """True for Parquet of the plain schema."""
        return self._format is PLAIN and plain_parquet.reads(group[0])

    def _read(self, group: list[Path], refuse: Refuse) -> Iterator[DumpedSequence]:
        records = itertools.chain.from_iterable(self._checked(path, refuse) for path in group)
        return self._format.sequences(records, refuse)

    def _groups(self) -> Iterable[list[Path]]:
        """The files that are read together, in the order of the first of each."""
        groups: dict[str, list[Path]] = {}
        for path in self.files:
            groups.setdefault(self._format.together(path), []).append(path)
        return groups.values()

    def _checked(self, path: Path, refuse: Refuse) -> Iterator[Record]:
        """The records of a file, whose first one may not be of another format than the dump's."""
        for at, record in enumerate(containers.records(path, refuse)):
            expected = at or self._forced or self._format.recognises(record)
            others = [] if expected else [each.name for each in _recognising(record)]
            if others:
                refuse(
                    DumpError(
                        f"{path} is of the format {' or '.join(others)}, and {self.files[0]} of {self.format}: read "
                        "them one at a time"
                    )
                )
                return
            yield record


def _passes(error: DumpError) -> None:
    pass


def _dumps(found: tuple[Path, ...], given: set[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files that are dumps by their first bytes, and those of folders that are not.

    A file that the user names counts as a dump, to be refused when it is read.
    """
    dumps: list[Path] = []
    others: list[Path] = []
    for path in found:
        try:
            (dumps if path in given or containers.container(path) is not None else others).append(path)
        except DumpError:
            dumps.append(path)
    if not dumps:
        raise DumpError(
            f"{found[0].parent} holds no dump, only {len(found)} other file{'s' * (len(found) > 1)} such as "
            f"{found[0].name}: expected {', '.join(containers.Container)}"
        )
    return tuple(dumps), tuple(others)


def _first(found: tuple[Path, ...], skip_bad: bool) -> Record:
    """The first record that can be read."""
    errors: list[DumpError] = []
    for path in found:
        for record in containers.records(path, errors.append if skip_bad else raises):
            return record
    raise errors[0] if errors else DumpError(f"{found[0]} holds no record")


def _named(name: str) -> Format:
    for each in FORMATS:
        if each.name == name:
            return each
    raise DumpError(f"no format is called {name}: choose one of {', '.join(each.name for each in FORMATS)}")


def _recognising(record: Record) -> list[Format]:
    return [each for each in FORMATS if each.recognises(record)]


def _known(record: Record, *, several: bool) -> Format:
    known = _recognising(record)
    if len(known) == 1:
        return known[0]
    if known:
        raise DumpError(
            f"{record.place} could be of the formats {' and '.join(each.name for each in known)}: choose with --format"
        )
    plain, *others = FORMATS
    raise DumpError(
        f"{record.place} holds {_keys(record.content)}, by which no format is known; expected those of {plain.name} "
        f"({plain.expects}), or of {', '.join(each.name for each in others)}: --formats lists them"
        + (", or name the files that are dumps, if this one is none" if several else "")
    )


def _keys(content: object) -> str:
    """The keys of a record, as an error names them."""
    if not isinstance(content, dict):
        return "no keys"
    first = ", ".join(str(key)[:_SHOWN_LETTERS] for key in [*content][:_SHOWN_KEYS])
    more = len(content) - _SHOWN_KEYS
    return f"the keys {first}{f' and {more} more' if more > 0 else ''}"
