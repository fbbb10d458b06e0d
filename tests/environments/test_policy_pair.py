import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jackpot_sim.environments.policy_pair import PolicyPair
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.environments.states.base_laws import Zipf

HALF = np.log(np.full((2, 2), 0.5))


def first(*key: object) -> float:
    return keyed_generator(0, *key).random()


def test_the_key_decides_and_nothing_else() -> None:
    assert first("a", {"x": 1, "y": 2.5}) == first("a", {"y": 2.5, "x": 1.0})
    assert first(Zipf(vocab=7)) == first({"states": 64, "vocab": 7, "kind": "zipf", "exponent": 1.2})
    assert first(Path("a/b"), (1, np.int64(2))) == first("a/b", [1, 2])
    assert first("a", "b") != first("ab")
    assert first("1") != first(1)
    assert first(None) != first()
    assert keyed_generator(1, "a").random() != first("a")


def test_the_key_means_the_same_in_another_process() -> None:
    """str hashes are salted per process: a digest that used them would differ here."""
    code = "from jackpot_sim.environments.randomness import keyed_generator as k; print(repr(k(0, 'a', 1.5).random()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(out.stdout) == first("a", 1.5)


def test_golden_stream() -> None:
    """Records carry seeds: what a seed means must not change by accident."""
    assert keyed_generator(0, "golden").integers(2**32, size=3).tolist() == [978147494, 2917372752, 571668462]


@pytest.mark.parametrize("seed", [-1, None, 0.5, True])
def test_bad_seed(seed: object) -> None:
    with pytest.raises(ValueError, match=r"^seed must be an integer of at least 0"):
        keyed_generator(seed, "a")  # type: ignore[arg-type]


def test_what_cannot_be_a_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        keyed_generator(0, float("nan"))
    with pytest.raises(TypeError):
        keyed_generator(0, object())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actor_log_probs": np.log(np.full((2, 4), 0.25))}, "policy_log_probs has shape .* actor_log_probs has shape"),
        ({"advantage": np.zeros((1, 2))}, "advantage has shape"),
        ({"advantage": np.array([[0.0, np.nan], [0.0, 0.0]])}, "advantage holds NaN or inf"),
        ({"advantage": np.array([[0.0, np.inf], [0.0, 0.0]])}, "advantage holds NaN or inf"),
        ({"actor_log_probs": np.zeros((2, 2))}, "actor_log_probs is not normalised"),
        ({"policy_log_probs": np.full((2, 2), np.nan)}, "policy_log_probs holds NaN"),
        ({"policy_log_probs": HALF.astype(np.float32)}, "policy_log_probs must be a float64 .* got float32"),
        ({"actor_log_probs": HALF[0]}, r"actor_log_probs must be .* got float64 of shape \(2,\)"),
        ({"advantage": [[0.0, 0.0]] * 2}, "advantage must be a float64 numpy array .* got list"),
        ({"advantage": np.zeros((0, 2))}, r"advantage must be .* shape \(0, 2\)"),
    ],
)
def test_a_bad_pair_is_refused_by_name(changed: dict[str, np.ndarray], message: str) -> None:
    arrays = {"policy_log_probs": HALF, "actor_log_probs": HALF, "advantage": np.zeros((2, 2))}
    PolicyPair(**arrays)
    with pytest.raises(ValueError, match=message):
        PolicyPair(**(arrays | changed))
