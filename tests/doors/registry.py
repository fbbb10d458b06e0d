"""The doors of all packages, and the public functions that have none."""

from __future__ import annotations

from tests.doors import core, corrections, environments, estimators, figures, objective
from tests.doors.harness import Door

DOORS: tuple[Door, ...] = (
    *core.DOORS,
    *corrections.DOORS,
    *estimators.DOORS,
    *environments.DOORS,
    *figures.DOORS,
    *objective.DOORS,
)
