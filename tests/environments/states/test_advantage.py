"""Laws of the advantage: normal, a binary reward, and a file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.states.advantage import BinaryReward, FileAdvantage, NormalAdvantage
from jackpot_sim.environments.states.base_laws import Dirichlet
from jackpot_sim.environments.states.perturbed import LogitNoise
from tests.cases import each

SMALL = Dirichlet(vocab=40, states=8)


def test_binary_reward_is_centred_under_the_policy() -> None:
    pair = LogitNoise(base=SMALL, sigma=0.1, advantage=BinaryReward(correct=0.3)).build(0).pair
    np.testing.assert_allclose(np.sum(np.exp(pair.policy_log_probs) * pair.advantage, axis=1), 0.0, atol=1e-15)
    levels = [np.unique(np.round(state, 12)) for state in pair.advantage]
    assert all(len(level) == 2 and level[1] - level[0] == pytest.approx(1.0) for level in levels)


@pytest.mark.parametrize(("law", "name"), [(BinaryReward, "correct"), (NormalAdvantage, "scale")])
def test_advantage_refuses_nonsense(law: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        law(**{name: -0.5})


def test_scale_of_the_advantage() -> None:
    single = LogitNoise(base=SMALL, sigma=0.1)
    double = dataclasses.replace(single, advantage=NormalAdvantage(scale=2.0))
    np.testing.assert_array_equal(2 * single.build(0).pair.advantage, double.build(0).pair.advantage)


@each("dtype", [np.float16, np.float64, np.int8])
def test_advantage_from_a_file(tmp_path: Path, dtype: Any) -> None:
    values = (3 * np.random.default_rng(0).standard_normal((8, 40))).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values.reshape(2, 4, 40))
    for name in ("a.npy", "a.npz"):
        family = LogitNoise(base=SMALL, sigma=0.1, advantage=FileAdvantage(path=tmp_path / name))
        np.testing.assert_array_equal(family.build(0).pair.advantage, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((40, 8)), r"has shape \(40, 8\), the laws have \(8, 40\)"),
        (np.zeros(40), r"has shape \(40,\), the laws have \(8, 40\)"),
        (np.zeros(()), r"has shape \(\), the laws"),
        (np.zeros((2, 3, 0)), r"has shape \(2, 3, 0\), the laws"),
        (np.full((8, 40), np.nan), "holds NaN or inf"),
        (np.full((8, 40), -np.inf), "holds NaN or inf"),
        (np.zeros((8, 40), dtype=np.bool_), "must hold real numbers, got dtype bool"),
        (np.zeros((8, 40), dtype=np.complex128), "must hold real numbers, got dtype complex128"),
        (np.full((8, 40), None), "cannot read an advantage"),
    ],
)
def test_bad_advantage_file_is_refused_by_name(tmp_path: Path, values: Any, message: str) -> None:
    np.save(tmp_path / "bad.npy", values)
    with pytest.raises(ValueError, match=rf"bad\.npy: .*{message}"):
        LogitNoise(base=SMALL, sigma=0.1, advantage=FileAdvantage(path=tmp_path / "bad.npy")).build(0)
