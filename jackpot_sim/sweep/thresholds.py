"""The best threshold of every estimator that has one, beside the threshold that the study gives it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

from jackpot_sim.estimators import Correction, Denominator
from jackpot_sim.studies.estimator_spec import EstimatorSpec
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.rows import Row
from jackpot_sim.sweep.spec import Method, Study


class Found(NamedTuple):
    """The best threshold of one estimator with one denominator, at the study's n_samples."""

    best: float
    mse_best: float
    mse_rescaled_best: float
    is_exact: bool


Finder: TypeAlias = Callable[[EstimatorSpec, Correction, Denominator], Found]
"""A search for the best threshold of a correction."""

_ROUNDING = 1e-12
"""The share of an MSE below which nothing is saved."""
_NOTHING = Found(math.nan, math.nan, math.nan, False)


def with_thresholds(measured: Measured, study: Study, find: Finder) -> Measured:
    """The measured cell with a row of `thresholds` for each estimator that has one, if the study asks for them."""
    if not study.best_thresholds:
        return measured
    exact = {(row["estimator"], row["denominator"]): row for row in measured.rows if row["method"] == Method.EXACT}
    found: dict[tuple[object, ...], tuple[Found, float]] = {}
    rows: list[Row] = []
    for spec in (each for each in study.estimators if each.has_threshold):
        correction = spec.correction()
        parameter = str(correction.threshold_parameter)
        fixed = {name: value for name, value in correction.parameters().items() if name != parameter}
        for denominator in study.denominators_of(spec):
            row = exact[spec.label, str(denominator)]
            # Estimators that differ in their thresholds alone have the same best one.
            key = correction.name, spec.target, repr(fixed), denominator
            if key not in found:
                started = time.perf_counter()
                best = find(spec, correction, denominator) if row["grad_norm_sq"] != 0 else _NOTHING
                found[key] = best, time.perf_counter() - started
            rows.append(_row(row, parameter, correction.parameters()[parameter], *found[key]))
    return dataclasses.replace(measured, tables={**measured.tables, "thresholds": rows})


def _row(row: Row, parameter: str, given: float, found: Found, seconds: float) -> Row:
    labels = {name: row[name] for name in ("cell", "environment", "estimator", "denominator", "n_samples")}
    mse = cast("float", row["mse"])
    figures = {"given": float(given), "mse": mse, "mse_rescaled": row["mse_rescaled"], "seconds": seconds}
    if found.mse_best >= mse * (1 - _ROUNDING):  # the threshold given is as good: a flat stretch moves nothing
        found = found._replace(best=float(given), mse_best=mse, mse_rescaled_best=cast("float", row["mse_rescaled"]))
    saved = 1 - found.mse_best / mse if mse else 0.0
    return labels | {"parameter": parameter, "saved": saved} | figures | found._asdict()
