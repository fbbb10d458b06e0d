"""The one kind of failure that is the user's to mend: one clear sentence, exit code 2."""

from __future__ import annotations


class StudyError(Exception):
    """Something asked for that cannot be done; its message names the thing and says what to do."""
