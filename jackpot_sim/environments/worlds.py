"""The account that an environment gives of itself to a study: its world, its usual sizes and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

TARGET_PASSES = 25
"""Evaluations of the KL behind a knob that is solved for, roughly."""


class World(StrEnum):
    """The form in which an environment gives the laws of policy and actor."""

    STATES = "states"
    """A table of laws at independent states."""
    SEQUENCES = "sequences"
    """Sequences of tiny language models, enumerated where they fit in memory and drawn beyond."""
    ROLLOUTS = "rollouts"
    """Rollouts of real models, scored at every token."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a study of one world, where the study does not give them."""

    n_samples: int = 256
    """Proposals per state or prompt in an update."""
    seeds: int = 3
    replicates: int = 32
    """Simulated updates behind each Monte Carlo figure."""


class Cost(NamedTuple):
    """A rough estimate of the work that an environment makes, in serial seconds."""

    tokens: int | None
    """States × vocabulary; None where sequences are drawn."""
    build: float
    """Seconds to build the pair."""
    exact: float | None
    """Seconds for the exact figures of one estimator with one denominator; None where they are always drawn."""
    write: float
    """Seconds to draw one proposal of every state or prompt, which all estimators share."""
    draw: float
    """Seconds for one estimator with one denominator to measure one proposal of every state or prompt."""
