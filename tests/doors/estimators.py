"""The doors of jackpot_sim.estimators."""

from __future__ import annotations

from tests.doors.harness import Door

DOORS: tuple[Door, ...] = ()
