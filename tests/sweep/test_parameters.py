"""The parameters of corrections in the records: every field has its column, and a new one needs no edit here."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.corrections.registry import registered
from jackpot_sim.sweep import parameters

NEW = """
import dataclasses
from jackpot_sim.estimators.corrections.registry import register
from tests.estimators.gap_mask import ProbabilityGapMask
register("gap-mask")(ProbabilityGapMask)
from jackpot_sim import estimators
from jackpot_sim.sweep import column_meanings, parameters, records, schema, spec
from jackpot_sim.sweep.cell import measure
from jackpot_sim.sweep.plan import cells
names = schema.RECORDS.names
assert names.index("inverted") < names.index("gap") < names.index("acceptance_budget"), names
assert column_meanings.described()["records"]["gap"] == "parameter (gap-mask)"
study = spec.parse({"env": {"kind": "top-k", "k": 3, "base": {"kind": "zipf", "vocab": 5, "states": 2}}, "seeds": 1,
                    "estimators": [{"kind": "gap-mask", "gap": 0.25}, "tis"]})
rows = measure(cells(study)[0], study).rows
assert [row.get("gap") for row in rows] == [0.25, None], rows
"""


def test_a_new_parameter_of_a_new_correction_is_recorded_and_described() -> None:
    finished = subprocess.run([sys.executable, "-c", NEW], capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", estimators.names())
def test_every_parameter_has_a_column(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(registered(name))}
    assert fields <= set(parameters.TYPES)
    columns = parameters.columns_of(estimators.get(name))
    given = {field: value for field, value in estimators.get(name).parameters().items() if value is not None}
    assert columns == given
    assert {field: type(value) for field, value in columns.items()} == {
        field: parameters.TYPES[field] for field in given
    }


def test_a_parameter_for_each_state_is_no_column_of_the_cell() -> None:
    correction = estimators.get("jackpot", lam=np.ones((3, 1)), c1=3)
    assert parameters.columns_of(correction) == {"c1": 3.0, "c2": 2.0}


def test_parts_of_a_combination_have_no_columns() -> None:
    both = estimators.combined(estimators.get("tis"), estimators.get("veto"))
    assert parameters.columns_of(both) == {}


def test_defaults_of_one_name_and_two_types_cannot_share_a_column() -> None:
    with pytest.raises(TypeError, match="clip of a, b cannot be one column"):
        parameters._type_of("clip", {"a": 1.0, "b": "soft"})
