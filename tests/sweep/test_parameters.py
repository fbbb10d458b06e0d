"""The parameters of corrections in the records: every field has its column, and a new one needs no edit here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators import Tokens
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import column_meanings, parameters, records, schema, spec
from tests.estimators.gap_mask import ProbabilityGapMask
from tests.sweep.studies import run_serially

STUDY = {
    "env": {"kind": "top-k", "k": 3, "base": {"kind": "zipf", "vocab": 5, "states": 2}},
    "seeds": 1,
    "estimators": [{"kind": "gap-mask", "gap": 0.25}, {"kind": "tis", "masked_by": "strict"}, "tis"],
}


@dataclasses.dataclass(frozen=True)
class Strict(TokenCorrection):
    """A correction with parameters of every type, one of them an older correction's."""

    hard: bool = True
    clip: float = 3.0
    how: str = "soft"

    def weight(self, tokens: Tokens) -> Any:
        return 2 * tokens.ones()


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two corrections that are not ours, registered after everything else was imported."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register("strict")(Strict)
    registry.register("gap-mask")(ProbabilityGapMask)


@pytest.mark.usefixtures("plugged")
def test_new_parameters_of_new_corrections_are_recorded_and_described(tmp_path: Path) -> None:
    root = run_serially(spec.parse(STUDY), tmp_path / "run")
    own = schema.RECORDS.names
    end = own.index(schema.AFTER_PARAMETERS)
    names = [*own[:end], "gap", "hard", "how", *own[end:]]
    (shard,) = (root / "records").glob("*.parquet")
    assert pq.read_schema(shard).names == names
    assert list(column_meanings.described(["strict", "tis", "gap-mask"])["records"]) == names
    told = column_meanings.described(["gap-mask", "strict"])["records"]
    assert told["gap"] == "parameter (gap-mask)"
    assert told["clip"] == f"C, the largest weight ({', '.join(parameters.owners()['clip'])}, strict)"
    rows = records.load(root)
    assert rows["gap"].dropna().tolist() == [0.25]
    assert list(rows.columns) == names


def test_records_are_read_without_the_correction_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        registry.register("gap-mask")(ProbabilityGapMask)
        root = run_serially(spec.parse(STUDY | {"estimators": ["gap-mask", "none"]}), tmp_path / "run")
    assert "gap-mask" not in estimators.names()
    rows = records.load(root)
    assert rows["gap"].tolist()[0] == ProbabilityGapMask.gap
    assert set(rows["estimator"]) == {"gap-mask", "none"}


@pytest.mark.usefixtures("plugged")
def test_a_study_without_them_has_the_columns_of_before() -> None:
    assert schema.tables(["tis", "no such name"]) == schema.TABLES
    assert column_meanings.described()["records"].keys() == set(schema.RECORDS.names)


def test_a_parameter_named_like_another_column_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register("odd")(dataclasses.make_dataclass("Odd", [("bias", float, 1.0)], bases=(Strict,), frozen=True))
    with pytest.raises(StudyError, match="odd: the records have a column bias already"):
        schema.tables(["odd"])


@pytest.mark.parametrize("name", estimators.names())
def test_every_parameter_has_a_column(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(registry.registered(name))}
    types = parameters.types()
    assert fields <= set(types)
    columns = parameters.columns_of(estimators.get(name))
    given = {field: value for field, value in estimators.get(name).parameters().items() if value is not None}
    assert columns == given
    assert {field: type(value) for field, value in columns.items()} == {field: types[field] for field in given}


def test_a_parameter_for_each_state_is_no_column_of_the_cell() -> None:
    correction = estimators.get("jackpot", lam=np.ones((3, 1)), c1=3)
    assert parameters.columns_of(correction) == {"c1": 3.0, "c2": 2.0, "clip_on": "weight"}


def test_parts_of_a_combination_have_no_columns() -> None:
    both = estimators.combined(estimators.get("tis"), estimators.get("veto"))
    assert parameters.columns_of(both) == {}
