"""The doors of the training objective and the loop."""

from __future__ import annotations

from tests.doors.harness import Door

DOORS: tuple[Door, ...] = ()
