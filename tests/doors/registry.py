"""The doors of all packages, and the public functions that have none."""

from __future__ import annotations

from collections.abc import Mapping

from tests.doors import core, corrections, environments, estimators, figures, integrations, objective
from tests.doors.harness import Door

AREAS = (core, corrections, estimators, environments, figures, objective, integrations)
DOORS: tuple[Door, ...] = tuple(door for area in AREAS for door in area.DOORS)
PACKAGES = ("core", "estimators", "environments", "training", "integrations")
"""The packages in which whatever takes arrays has a door, or a reason to have none."""

EXEMPT: Mapping[str, str] = {name: reason for area in AREAS for name, reason in getattr(area, "EXEMPT", {}).items()}
"""Public functions that take arrays and have no door, with the reason."""
