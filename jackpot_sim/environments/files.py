"""The files that a configuration reads: their arrays, their names, and a digest of their contents."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def load_array(path: Path, what: str) -> NDArray[np.generic]:
    """The array of a .npy file, or of a .npz file that holds one, of any shape. Pickled objects are never loaded.

    Args:
        path: the file.
        what: the expected content, for the error.

    Raises:
        ValueError: the file cannot be read, or is of another kind; the error names it.
    """
    path = Path(path)
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"{path}: expected a .npy or .npz file")
    try:
        # Opened here, because numpy leaves a broken archive open.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            if len(loaded.files) != 1:
                raise ValueError(f"expected one array, found {len(loaded.files)}: {', '.join(loaded.files)}")
            return np.asarray(loaded[loaded.files[0]])
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: cannot read {what}: {error}") from error


def files_of(environment: object) -> tuple[Path, ...]:
    """The files that a configuration names at any depth, in the order of its fields, each once.

    A folder of text, or a checkpoint, stands for its files. Python's own sources, the default text of `Ngram`, are
    not listed. A single file need not exist.

    Raises:
        ValueError: a folder of text holds none, or text that cannot be read; the error names it.
    """
    return tuple(dict.fromkeys(_files(environment)))


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256, in hex, over the contents of the files in their order, whatever their names.

    Each file enters by its own SHA-256, so that the border between two files counts.

    Raises:
        ValueError: a file is missing or cannot be read; the error names it.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ValueError(f"{path}: cannot read: {error}") from error
    return digest.hexdigest()


def _files(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif callable(own := getattr(value, "files", None)):
        yield from own()  # a configuration that stands for a folder of text, or for a checkpoint
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield from _files(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
