"""The producers of dumps, all of whose files are written from the same rollouts."""

from tests.readers.formats import one_sided, trainers
from tests.readers.formats.written import WRITTEN, Written

__all__ = ["WRITTEN", "Written", "one_sided", "trainers"]
