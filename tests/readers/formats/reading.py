"""Files, and records made up on the spot, read through the formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Format, Record, raises
from jackpot_sim.readers.formats import FORMATS
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.sequence import DumpedSequence

BY_NAME: dict[str, Format] = {each.name: each for each in FORMATS}


def read(name: str, paths: Sequence[Path]) -> list[DumpedSequence]:
    """The sequences of a dump, whose format is to be known by its content."""
    dump = open_dump(paths)
    assert dump.format == name
    return list(dump.sequences())


def of_contents(
    name: str, *contents: Any, file: str = "file", skip: list[DumpError] | None = None
) -> list[DumpedSequence]:
    """The sequences of records of these contents; with `skip`, errors go there."""
    given = [Record(f"{file}, line {number}", content, file) for number, content in enumerate(contents, 1)]
    return list(BY_NAME[name].sequences(given, raises if skip is None else skip.append))
