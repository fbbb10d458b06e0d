"""Text to learn from: files, or the sources of Python's standard library, which every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def split_text(text: Path | None, max_bytes: int, held_out: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bytes to count and the bytes held out, read once per process; both of shape (bytes,).

    Args:
        text: a file; a folder, of which all *.py and *.txt files inside are read in sorted order; or None for
            the sources in the top folder of Python's standard library, which differ between Python versions.
        max_bytes: the most bytes that are read.
        held_out: the share at the end that is held out.

    Raises:
        ValueError: the text is missing, unreadable, or too short to split; the error names it.
    """
    symbols = np.frombuffer(b"".join(piece for _, piece in _pieces(text, max_bytes)), dtype=np.uint8)
    border = len(symbols) - round(held_out * len(symbols))
    if not 0 < border < len(symbols):
        raise ValueError(f"{name_of(text)}: {len(symbols)} bytes are too few to hold out a share of {held_out:g}")
    return symbols[:border], symbols[border:]


def files_read(text: Path, max_bytes: int) -> tuple[Path, ...]:
    """The files of a text that `max_bytes` reach, in the order of reading; a single file need not exist.

    Raises:
        ValueError: a folder holds no text, or text that cannot be read; the error names it.
    """
    return tuple(path for path, _ in _pieces(text, max_bytes)) if text.is_dir() else (text,)


def name_of(text: Path | None) -> str:
    """The text's name in errors."""
    return "the Python standard library's sources" if text is None else str(text)


def _pieces(text: Path | None, max_bytes: int) -> Iterator[tuple[Path, bytes]]:
    """The files that `max_bytes` reach, each with the bytes that are read of it."""
    left = max_bytes
    for path in _paths(text):
        try:
            with path.open("rb") as file:
                piece = file.read(left)
        except OSError as error:
            raise ValueError(f"{path}: cannot read text: {error}") from error
        yield path, piece
        left -= len(piece)
        if left == 0:
            break


def _paths(text: Path | None) -> list[Path]:
    if text is None:
        paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    elif Path(text).is_dir():
        paths = sorted(path for path in Path(text).rglob("*") if path.suffix in (".py", ".txt") and path.is_file())
    else:
        paths = [Path(text)]
    if not paths:
        raise ValueError(f"{name_of(text)}: no *.py or *.txt file inside")
    return paths
