"""The errors of centring from the top-k, in the cells of a study."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.states.topk_centring import topk_errors
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.topk_centring import errors

ENV = {"kind": "logit-noise", "base": {"kind": "zipf", "vocab": 30, "states": 3}, "sigma": 0.5}


def test_a_row_for_each_cell_correction_and_k() -> None:
    study = spec.parse({"env": ENV, "estimators": ["none", "jackpot"], "seeds": 2})
    rows = list(errors(study, (2, 30)))
    assert [(row["seed"], row["estimator"], row["k"]) for row in rows] == [
        (seed, name, k) for seed in (0, 1) for name in ("none", "jackpot") for k in (2, 30)
    ]
    pair = study.env[0].build(1).pair  # type: ignore[union-attr]
    norms, missed = topk_errors(pair.policy_log_probs, pair.actor_log_probs, estimators.get("jackpot"), [2])
    assert rows[6]["error"] == pytest.approx(math.sqrt(missed.sum() / norms.sum()), rel=1e-12)
    assert rows[6]["norm"] == pytest.approx(np.sqrt(norms.mean()), rel=1e-12)


def test_other_worlds_have_no_tables_of_laws() -> None:
    study = spec.parse({"env": {"kind": "small-lm"}, "estimators": ["none"]})
    with pytest.raises(StudyError, match="small-lm has no table of laws"):
        list(errors(study, (2,)))
