"""The schema of the records: the columns of every table, with their types and in their order.

`column_meanings` says what each column is. Parameters of estimators have a column each, which their corrections name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pyarrow as pa

from jackpot_sim.estimators.statistics import StateStatistics
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import parameters
from jackpot_sim.sweep.rows import DIVERGENCES, SAMPLED, SEQUENCE_DIVERGENCES

_TEXT, _REAL, _WHOLE, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_PARAMETERS = {float: _REAL, str: _TEXT, bool: _FLAG}

BEFORE_PARAMETERS, AFTER_PARAMETERS = "batch_normalize", "acceptance_budget"
"""The columns of the records between which stand `centred`, the parameters of estimators, and what only top-k actors
have: records of other versions may lack these.
"""

RECORDS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "env_kind", "base_kind", "knob_name")),
        ("knob", _REAL),
        ("target_divergence", _TEXT),
        *((name, _REAL) for name in ("target_kl", "achieved_kl", "achieved_kl_se")),
        *((name, _WHOLE) for name in ("vocab", "states", "length", "seed")),
        ("space", _TEXT),
        *((name, _TEXT) for name in ("estimator", "estimator_kind", "level", "masked_by", "target")),
        *((name, _FLAG) for name in ("rao_blackwell", "batch_normalize", "centred")),
        ("laws", _TEXT),
        *((name, _REAL) for end in ("low", "high") for name in (f"acceptance_{end}", f"acceptance_{end}_se")),
        *((name, _PARAMETERS[kind]) for name, kind in parameters.types().items()),
        ("acceptance_budget", _REAL),
        ("budget_per_state", _FLAG),
        *((name, _TEXT) for name in ("denominator", "method")),
        *((name, _REAL) for name in (*DIVERGENCES, *SEQUENCE_DIVERGENCES)),
        *((f"{name}_se", _REAL) for name in (*DIVERGENCES, *SEQUENCE_DIVERGENCES)),
        ("prefix_total_variation", _REAL),
        *((name, _REAL) for name in SAMPLED),
        *((f"{name}_se", _REAL) for name in SAMPLED),
        *((f"bias_share_{name}", _REAL) for name in ("prefix", "continuation", "weight")),
        *((name, _REAL) for name in ("grad_norm_sq", "grad_norm_sq_se", "on_policy_variance", "noise_to_signal")),
        *((name, _WHOLE) for name in ("degenerate_states", "n_samples", "replicates")),
        *((name, _TEXT) for name in ("config_hash", "version", "numpy", "python", "commit")),
        *((name, _REAL) for name in ("seconds", "weight_seconds")),
    ]
)

STATES = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "estimator", "denominator")),
        ("state", _WHOLE),
        ("kl_policy_actor", _REAL),
        *((field.name, _REAL) for field in dataclasses.fields(StateStatistics)),
    ]
)

DIAGNOSTICS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "figure")),
        *((name, _REAL) for name in ("value", "se", "low", "high")),
        ("clusters", _WHOLE),
    ]
)

NORMALIZERS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "way")),
        ("k", _WHOLE),
        ("lam", _REAL),
        ("tokens", _WHOLE),
        *((name, _REAL) for name in ("overlap", "kept", "kept_se", "error", "error_se", "error_max")),
        *((name, _REAL) for name in ("above_one", "outside", "width", "bytes_per_token", "seconds")),
    ]
)

THRESHOLDS = pa.schema(
    [
        *((name, _TEXT) for name in ("cell", "environment", "estimator", "denominator", "parameter")),
        ("n_samples", _WHOLE),
        *((name, _REAL) for name in ("given", "best", "mse", "mse_best", "mse_rescaled", "mse_rescaled_best", "saved")),
        ("is_exact", _FLAG),
        ("seconds", _REAL),
    ]
)

TABLES = {
    "records": RECORDS,
    "states": STATES,
    "diagnostics": DIAGNOSTICS,
    "normalizers": NORMALIZERS,
    "thresholds": THRESHOLDS,
}
"""The tables of a study whose corrections are all ours."""


def tables(kinds: Iterable[str]) -> dict[str, pa.Schema]:
    """The tables of a study; its records have columns for the parameters of corrections that are not ours too.

    Args:
        kinds: the corrections that the study names.

    Raises:
        StudyError: a parameter has the name of a column that is no parameter's.
    """
    records, kinds = RECORDS, tuple(kinds)
    owners, ours = parameters.owners(kinds), parameters.owners()
    for parameter, kind in parameters.types(kinds).items():
        if parameter in ours:
            continue
        if parameter in RECORDS.names:
            raise StudyError(
                f"{owners[parameter][0]}: the records have a column {parameter} already, which is no parameter: give "
                "the parameter another name"
            )
        records = records.insert(records.get_field_index(AFTER_PARAMETERS), pa.field(parameter, _PARAMETERS[kind]))
    return TABLES | {"records": records}


NOT_FIGURES = ("seconds", "weight_seconds", "version", "numpy", "python", "commit")
"""Columns of time and provenance, which may differ between two runs of one study."""
