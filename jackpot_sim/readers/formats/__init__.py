"""The formats of dumps, one file each: from the records of a file to the sequences in it."""

from __future__ import annotations

from jackpot_sim.readers.format import Format
from jackpot_sim.readers.formats.plain import Plain

PLAIN = Plain()
FORMATS: tuple[Format, ...] = (PLAIN,)
"""The formats that are known by their keys; a record must be known by one of them alone."""
