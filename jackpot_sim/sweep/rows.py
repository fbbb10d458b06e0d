"""What every row of the records says of its cell, whatever the cell measures estimators on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from jackpot_sim.core import divergences, sequence_divergences
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.estimators import Denominator
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.plan import Cell

Row: TypeAlias = dict[str, Any]

SAMPLED = (
    *("acceptance_rate", "kl_accepted", "kl_effective", "kl_prefix", "bias_sq", "bias", "direction_bias"),
    *("gain", "variance", "mse", "mse_rescaled", "ess_fraction"),
)
"""Measured figures that Monte Carlo gives too, with a standard error."""

DIVERGENCES = tuple(divergences.BY_NAME)
SEQUENCE_DIVERGENCES = tuple(name for name in sequence_divergences.NAMES if name not in DIVERGENCES)
"""Of sequences only."""


class Built(Protocol):
    """An environment that has been built, with the knob that it has."""

    @property
    def knob(self) -> float:
        """The knob that was used."""
        ...

    @property
    def target_kl(self) -> float | None:
        """The KL that was asked for, nats."""
        ...

    @property
    def achieved(self) -> float:
        """The KL that it has, nats."""
        ...


def asked_of(cell: Cell, realised: Built) -> Row:
    """What was asked of the environment."""
    return {
        "cell": cell.id,
        "environment": cell.environment,
        "env_kind": cell.env.family,
        "base_kind": cell.env.base_kind,
        "knob_name": cell.env.knob_name,
        "knob": realised.knob,
        "target_divergence": cell.env.target_divergence,
        "target_kl": realised.target_kl,
        "achieved_kl": realised.achieved,
        "seed": cell.seed,
    }


def normalizer_rows(cell: Cell, compared: Sequence[Comparison]) -> list[Row]:
    """A row for each way to estimate Z."""
    named = {"cell": cell.id, "environment": cell.environment}
    return [named | dataclasses.asdict(each) | {"way": str(each.way)} for each in compared]


def generator_of(cell: Cell, spec: EstimatorSpec, denominator: Denominator) -> np.random.Generator:
    """What the masks of an estimator are drawn from."""
    return keyed_generator(cell.seed, "monte-carlo", cell.environment, spec.label, str(denominator))
