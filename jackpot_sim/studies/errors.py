"""The error of a study that cannot be done as asked."""

from __future__ import annotations


class StudyError(Exception):
    """A request that cannot be met; its message, one sentence, names the cause and the remedy."""
