"""The number of rollouts that would resolve a gradient, against the noise of simulated updates of so many."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.estimators.replicates import off_diagonal
from jackpot_sim.sweep.resolved import CLEAR, lost, more

UPDATES, DRAWS = 8, 1500


def clearness(rollouts: float, width: int) -> float:
    """‖g‖² = 1 over the scatter of its unbiased estimate from updates of so many rollouts each, of unit noise."""
    rng = np.random.default_rng(0)
    gradient = np.eye(1, width)[0]
    noise = rng.standard_normal((DRAWS, UPDATES, width)) / math.sqrt(rollouts)
    return 1 / float(np.std([off_diagonal(each @ each.T) for each in gradient + noise]))


@pytest.mark.parametrize(("width", "rollouts"), [(2, 1.5), (300, 4.0)], ids=["gradient", "noise"])
def test_so_many_rollouts_resolve_a_gradient(width: int, rollouts: float) -> None:
    before = clearness(rollouts, width)
    assert 1 < before < CLEAR
    least, most = more(1.0, 1 / before)
    assert clearness(rollouts * least, width) < CLEAR * 1.05
    assert clearness(rollouts * most, width) > CLEAR * 0.95
    near = most if width == 2 else least
    assert clearness(rollouts * near, width) == pytest.approx(CLEAR, rel=0.25)


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (0.0, 0.0, "all rollouts earn the same"),
        (2.0, math.nan, "with no standard error"),
        (2.0, 1.0, "rollouts of each model would resolve one"),
        (2.0, 4.0, "more than 3 times"),
    ],
)
def test_a_gradient_that_is_lost_says_why(value: float, error: float, told: str) -> None:
    row = {"base_kind": "hf", "cell": "a", "grad_norm_sq": value, "grad_norm_sq_se": error}
    sizes = {"n_samples": 8, "replicates": 4, "states": 3}
    (clause,) = lost(pd.DataFrame([row | sizes]))
    assert told in clause


def test_a_gradient_that_stands_out_is_not_lost() -> None:
    row = {"base_kind": "hf", "cell": "a", "grad_norm_sq": 2.0, "grad_norm_sq_se": 0.5}
    assert lost(pd.DataFrame([row | {"n_samples": 8, "replicates": 4, "states": 3}])) == []
