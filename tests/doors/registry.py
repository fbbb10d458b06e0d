"""The doors of all packages, and the public functions that have none."""

from __future__ import annotations

from collections.abc import Mapping

from tests.doors import core, corrections, environments, estimators, objective
from tests.doors.harness import Door

DOORS: tuple[Door, ...] = (*core.DOORS, *corrections.DOORS, *estimators.DOORS, *environments.DOORS, *objective.DOORS)
PACKAGES = ("core", "estimators")
"""The packages in which whatever takes arrays has a door, or a reason to have none."""

EXEMPT: Mapping[str, str] = {**core.EXEMPT, **corrections.EXEMPT, **estimators.EXEMPT}
"""Public functions that take arrays and have no door, with the reason."""
