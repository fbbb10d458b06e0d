"""The columns of a row of the records that are the same in every world."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np

from jackpot_sim.core import divergences, sequence_divergences
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.estimators.mismatch.overlap_estimates import Comparison
from jackpot_sim.estimators.replicates import Sampled
from jackpot_sim.estimators.statistics import Moments
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep import parameters
from jackpot_sim.sweep.plan import Cell

Row: TypeAlias = dict[str, object]
"""A row of a table, by column."""

SAMPLED = (
    *("acceptance_rate", "kl_accepted", "kl_effective", "kl_prefix", "bias_sq", "bias", "direction_bias"),
    *("gain", "variance", "mse", "mse_rescaled", "ess_fraction"),
)
"""Figures of estimators that Monte Carlo gives too, with a standard error."""

DIVERGENCES = tuple(divergences.BY_NAME)
SEQUENCE_DIVERGENCES = tuple(name for name in sequence_divergences.NAMES if name not in DIVERGENCES)
"""Divergences that sequences alone have."""


class Built(Protocol):
    """An environment that has been built."""

    @property
    def knob(self) -> float:
        """The knob, given or solved for."""
        ...

    @property
    def target_kl(self) -> float | None:
        """The mean KL that was asked for, nats."""
        ...

    @property
    def achieved(self) -> float:
        """The mean KL at the knob, nats."""
        ...


def environment_columns(cell: Cell, built: Built) -> Row:
    """The environment as it was asked for and built."""
    return {
        "cell": cell.id,
        "environment": cell.environment,
        "laws": "whole",
        "env_kind": cell.env.family,
        "base_kind": cell.env.base_kind,
        "knob_name": cell.env.knob_name,
        "knob": built.knob,
        "target_divergence": cell.env.target_divergence,
        "target_kl": built.target_kl,
        "achieved_kl": built.achieved,
        "seed": cell.seed,
    }


def estimator_columns(spec: EstimatorSpec, correction: Correction) -> Row:
    """The estimator with its parameters."""
    return parameters.columns_of(correction) | {
        "estimator": spec.label,
        "estimator_kind": spec.kind,
        "level": str(correction.level),
        "rao_blackwell": spec.rao_blackwell,
        "batch_normalize": spec.batch_normalize,
        "centred": spec.centred,
        "masked_by": None if spec.masked_by is None else spec.masked_by.label,
        "target": str(spec.target),
        "acceptance_budget": spec.acceptance_rate,
        "budget_per_state": spec.per_state if spec.acceptance_rate is not None else None,
    }


def exact_columns(moments: Moments) -> Row:
    """Exact figures of one estimator."""
    skipped = ("per_state", "n_samples")
    fields = (field.name for field in dataclasses.fields(Moments) if field.name not in skipped)
    return {name: getattr(moments, name) for name in fields} | {"bias_sq": moments.bias**2}


def sampled_columns(sampled: Sampled) -> Row:
    """Monte Carlo figures of one estimator, with their standard errors."""
    values: Row = {name: sampled.value[name] for name in SAMPLED}
    errors: Row = {f"{name}_se": sampled.standard_error.get(name, math.nan) for name in SAMPLED}
    return values | errors | {"replicates": sampled.replicates}


def normalizer_rows(cell: Cell, comparisons: Sequence[Comparison]) -> list[Row]:
    """A row for each way to estimate Z."""
    labels = {"cell": cell.id, "environment": cell.environment}
    return [labels | dataclasses.asdict(each) | {"way": str(each.way)} for each in comparisons]


def mask_generator(cell: Cell, spec: EstimatorSpec, denominator: Denominator) -> np.random.Generator:
    """The generator from which the masks of an estimator are drawn."""
    return keyed_generator(cell.seed, "monte-carlo", cell.environment, spec.label, str(denominator))
