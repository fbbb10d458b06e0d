"""The error of a dump that cannot be read."""

from __future__ import annotations


class DumpError(Exception):
    """A dump that cannot be read; its message, one sentence, names the file, the line and what was expected."""
