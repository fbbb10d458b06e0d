"""An estimator by name and parameters is the correction that the registry has."""

from __future__ import annotations

from jackpot_sim.studies.estimator_spec import EstimatorSpec


def test_an_estimator_becomes_the_correction_it_names() -> None:
    correction = EstimatorSpec.model_validate({"kind": "jackpot", "c1": 4, "rao_blackwell": True}).correction()
    assert correction.name == "rao-blackwell(jackpot)"
    assert correction.parameters()["c1"] == 4
