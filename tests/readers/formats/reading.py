"""Files read through formats alone, without the search for files and formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jackpot_sim.readers import pickles, tensors
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.format import Format, Record
from jackpot_sim.readers.formats import (
    miles,
    nemo_rl,
    open_instruct,
    openai,
    prime_rl,
    sglang,
    skyrl,
    slime,
    trl,
    verl,
    vllm,
)
from jackpot_sim.readers.sequence import DumpedSequence

_MODULES = (miles, nemo_rl, open_instruct, openai, prime_rl, sglang, skyrl, slime, trl, verl, vllm)
FORMATS: dict[str, Format] = {each.FORMAT.name: each.FORMAT for each in _MODULES}


def records(path: Path) -> Iterator[Record]:
    """The records of a file."""
    if path.suffix != ".jsonl":
        load = tensors.load if path.suffix == ".pt" else pickles.load
        yield Record(str(path), load(path, str(path)), path.name)
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield Record(f"{path}:{number}", json.loads(line), path.name)


def refuse(error: DumpError) -> NoReturn:
    """Raises the error."""
    raise error


def read(name: str, paths: Iterable[Path]) -> list[DumpedSequence]:
    """The sequences of files of a format that are read together."""
    return list(FORMATS[name].sequences((each for path in paths for each in records(path)), refuse))


def of_content(
    name: str, *contents: Any, file: str = "file", skip: list[DumpError] | None = None
) -> list[DumpedSequence]:
    """The sequences of records made up on the spot; with `skip`, errors go there."""
    given = [Record(f"{file}:{number}", content, file) for number, content in enumerate(contents, 1)]
    return list(FORMATS[name].sequences(given, refuse if skip is None else skip.append))
