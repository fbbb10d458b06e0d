"""Monte Carlo moments: honest standard errors, and the same draws for the same generator.

That they agree with the exact moments for every estimator is in `tests/contracts`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from jackpot_sim import estimators
from jackpot_sim.estimators.states import moments, sampled
from tests.estimators.brute import CELLS, Cell
from tests.estimators.cells import random_cell

CELL = CELLS["three states"]


def estimate(correction: Any, seed: int = 0, cell: Cell = CELL, **options: Any) -> sampled.Sampled:
    return sampled.estimate(*cell, correction, np.random.default_rng(seed), **({"n_samples": 200} | options))


@pytest.mark.parametrize("denominator", list(moments.Denominator))
@pytest.mark.parametrize("correction", [estimators.get("tis", clip=1.0), estimators.get("jackpot", c1=0.5)], ids=repr)
def test_standard_errors_are_honest(correction: Any, denominator: str) -> None:
    # 40 seeds: the mean z-score has a standard error of 0.16, and their variance one of about 0.23. Both are biased:
    # of an unbiased estimator's bias² the jackknife overstates the error.
    n_samples = 300
    found = moments.exact(*CELL, correction, denominator=denominator, n_samples=n_samples)
    expected = dataclasses.asdict(found) | {"bias_sq": found.bias**2}
    scores: dict[str, list[float]] = {}
    for seed in range(40):
        drawn = estimate(correction, seed, n_samples=n_samples, denominator=denominator)
        for column, value in drawn.value.items():
            if column != "bias" and drawn.standard_error[column] > 0:
                scores.setdefault(column, []).append((value - expected[column]) / drawn.standard_error[column])
    assert {"variance", "mse", "bias_sq", "direction_bias", "kl_effective", "ess_fraction"} <= set(scores)
    for column, z in scores.items():
        assert len(z) == 40, column
        assert abs(np.mean(z)) < 0.6, (column, np.mean(z))
        assert 0.5 < np.var(z) < 1.8, (column, np.var(z))


def test_errors_shrink_with_the_replicates() -> None:
    few, many = (estimate(estimators.get("tis"), replicates=r).standard_error for r in (40, 360))
    for column in ("variance", "direction_bias", "kl_effective", "ess_fraction"):
        assert few[column] / many[column] == pytest.approx(3.0, rel=0.4), column


def test_what_does_not_vary_has_no_error() -> None:
    found = estimate(estimators.get("none"))
    for column in ("acceptance_rate", "ess_fraction"):
        assert found.value[column] == 1.0
        assert found.standard_error[column] == 0.0
    assert (found.n_samples, found.replicates) == (200, 64)


def test_the_same_generator_gives_the_same() -> None:
    first, second, other = (estimate(estimators.get("jackpot"), seed) for seed in (1, 1, 2))
    assert first == second
    assert first.value["variance"] != other.value["variance"]


def test_torch_gives_the_same() -> None:
    found = sampled.estimate(
        *(torch.as_tensor(x) for x in CELL), estimators.get("obrs"), np.random.default_rng(0), n_samples=200
    )
    assert found == estimate(estimators.get("obrs"))


def test_a_threshold_per_state() -> None:
    lam = np.array([[0.5], [1.0], [2.0]])
    correction = estimators.get("jackpot", lam=lam)
    found = moments.exact(*CELL, correction)
    drawn = estimate(correction, n_samples=2000)
    for column in ("acceptance_rate", "kl_accepted", "variance", "ess_fraction"):
        assert abs(drawn.value[column] - getattr(found, column)) < 4 * drawn.standard_error[column], column


def test_a_negative_squared_bias_has_no_root() -> None:
    # IS is unbiased: half of the estimates of its squared bias must be negative.
    drawn = [estimate(estimators.get("is"), seed, n_samples=20, replicates=20) for seed in range(40)]
    negative = [d for d in drawn if d.value["bias_sq"] < 0]
    assert 8 <= len(negative) <= 32
    for d in drawn:
        assert math.isnan(d.value["bias"]) == (d.value["bias_sq"] < 0)
        assert d.standard_error["bias_sq"] > 0
    for d in negative:
        assert math.isnan(d.standard_error["bias"])


def test_a_support_violation_is_infinite() -> None:
    cell = CELLS["an actor that cannot reach the policy"]
    for name in ("is", "none", "jackpot"):
        drawn = estimate(estimators.get(name), cell=cell)
        assert drawn.value["kl_accepted"] == drawn.value["kl_effective"] == math.inf
        assert math.isnan(drawn.standard_error["kl_accepted"])


@pytest.mark.parametrize("denominator", list(moments.Denominator))
def test_a_correction_that_keeps_nothing(denominator: str) -> None:
    drawn = estimate(estimators.get("mis", low=50.0, high=60.0), denominator=denominator)
    assert drawn.value["acceptance_rate"] == 0.0
    assert math.isnan(drawn.value["ess_fraction"])
    assert drawn.value["bias_sq"] == 1.0 if denominator == "proposed" else math.isnan(drawn.value["bias_sq"])


def _nan_advantage() -> Cell:
    return CELL._replace(advantage=CELL.advantage * math.nan)


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (CELL, {"n_samples": 0}, "n_samples must be at least 1, got 0"),
        (CELL, {"replicates": 2}, "replicates must be at least 3, got 2"),
        (CELL, {"denominator": "kept"}, "kept"),
        (_nan_advantage(), {}, "advantage holds NaN"),
        (CELL._replace(advantage=CELL.advantage[0]), {}, "advantage has shape"),
        (CELL._replace(actor=CELL.actor[:1]), {}, "actor_log_probs has shape"),
        (CELL._replace(actor=CELL.actor + 0.1), {}, "actor_log_probs is not normalised"),
    ],
)
def test_errors_name_the_argument(cell: Cell, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(estimators.get("tis"), cell=cell, **options)


def test_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="clip has shape"):
        estimate(estimators.get("tis", clip=np.array([1.0, 2.0])))


def test_leading_axes_are_flattened() -> None:
    cell = random_cell(states=4, vocab=5, seed=1)
    folded = Cell(*(x.reshape(2, 2, 5) for x in cell))
    assert estimate(estimators.get("jackpot"), cell=cell) == estimate(estimators.get("jackpot"), cell=folded)


def test_a_violation_too_rare_to_be_drawn_is_infinite_all_the_same() -> None:
    policy, actor = np.log([[0.5, 0.5 - 1e-9, 1e-9]]), np.array([[math.log(0.5), math.log(0.5), -math.inf]])
    advantage = np.array([[0.0, 1.0, 2.0]])
    found = sampled.estimate(policy, actor, advantage, estimators.get("is"), np.random.default_rng(0), n_samples=16)
    assert found.value["kl_accepted"] == found.value["kl_effective"] == math.inf


def test_a_zero_gradient_has_no_bias() -> None:
    law = np.log([[0.5, 0.3, 0.2]])
    found = sampled.estimate(law, law, np.ones((1, 3)), estimators.get("tis"), np.random.default_rng(0), n_samples=8)
    assert math.isnan(found.value["bias_sq"])
    assert math.isnan(found.value["mse"])


class _Zeros(np.random.Generator):
    """A generator whose every number is 0, the least that a uniform number can be."""

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.zeros(size, dtype)


def test_a_token_that_is_never_accepted_is_not_accepted_at_a_uniform_of_zero() -> None:
    nowhere = estimators.get("mis", low=1e6, high=1e7)
    zeros = _Zeros(np.random.PCG64(0))
    found = sampled.estimate(*CELL, nowhere, zeros, n_samples=5)
    assert found.value["acceptance_rate"] == 0.0
    assert sampled.estimate(*CELL, estimators.get("none"), zeros, n_samples=5).value["acceptance_rate"] == 1.0
