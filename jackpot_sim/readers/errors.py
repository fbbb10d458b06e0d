"""The error of a dump that cannot be read."""

from __future__ import annotations


class DumpError(Exception):
    """A dump that cannot be read; its message, one sentence, names the file, the line and what was expected.

    Attributes:
        rows: the number of rows that --skip-bad leaves out for it: more than one where a row takes its sequence along.
    """

    def __init__(self, message: str, rows: int = 1) -> None:
        super().__init__(message)
        self.rows = rows
