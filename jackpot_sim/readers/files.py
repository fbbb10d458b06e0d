"""The files that a user's paths mean: files, folders and all below them, and globs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jackpot_sim.readers.beside import beside
from jackpot_sim.readers.errors import DumpError

_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".lock", ".swp", ".crdownload", "~")
_OF_WRITERS = ("_SUCCESS", "_metadata", "_common_metadata")
"""The files that writers of Parquet leave beside the rows."""
_SIGNS = re.compile(r"[*?\[]")


def files(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The files that the paths mean, each once; those of a folder or glob in the order of the numbers in their names.

    In a folder, hidden and temporary files are passed over, and so are hidden folders and what frameworks write beside
    their dumps.

    Args:
        paths: files, folders, or patterns with *, ? and **.

    Raises:
        DumpError: a path does not exist, is no regular file, may not be read, or means no file.
    """
    if not paths:
        raise DumpError("no dump is given: name at least one file or folder")
    found: dict[Path, Path] = {}
    for given in paths:
        for path in _meant(given):
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def reason(error: OSError) -> str:
    """The operating system's words for an error, for a sentence that names the file: "permission denied"."""
    return (error.strerror or str(error)).lower()


def _meant(given: str | Path) -> Iterator[Path]:
    path = Path(given)
    if not str(given).strip():
        raise DumpError("a path is empty: name a file or folder")
    try:
        if path.is_dir():
            if not (found := _below(path)):
                raise DumpError(f"{path} holds no file that could be a dump: hidden and temporary files do not count")
            yield from found
        elif path.exists():
            yield _regular(path)
        elif _SIGNS.search(str(given)):
            yield from _matching(str(given))
        else:
            raise DumpError(f"{path} does not exist: name a file or folder that does")
    except OSError as error:
        raise DumpError(f"{error.filename or path} cannot be read: {reason(error)}") from None


def _below(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for inner, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(inner, name) for name in names if _counts(name)]
        found += [path for path in paths if path.is_file() and not beside(path)]
    return sorted(found, key=_order)


def _matching(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern.
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)), key=_order)  # noqa: PTH207
    found: list[Path] = []
    for path in matches:
        if path.is_dir():
            found += _below(path)
        elif path.is_file() and _counts(path.name) and not beside(path):
            found.append(path)
    if not found:
        raise DumpError(f"no file matches {pattern}")
    return found


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise DumpError(f"{path} is no regular file: save the dump to a file first")
    return path


def _counts(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith(_TEMPORARY) and name not in _OF_WRITERS


def _order(path: Path) -> tuple[tuple[tuple[str, int], ...], ...]:
    """A key that puts step_2 before step_10: text and number in turn, for each part of the path."""
    pieces = (re.findall(r"(\D*)(\d*)", part) for part in path.parts)
    return tuple(tuple((text, int(digits or -1)) for text, digits in part) for part in pieces)
