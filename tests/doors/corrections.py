"""The doors of the corrections."""

from __future__ import annotations

from tests.doors.harness import Door

DOORS: tuple[Door, ...] = ()
