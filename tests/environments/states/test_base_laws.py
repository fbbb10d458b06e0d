from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.states.base_laws import BaseLaw, Dirichlet, LmLike, LogitsFile, Zipf, log_dirichlet

GENERATED = [Dirichlet(vocab=30, states=5), Zipf(vocab=30, states=5), LmLike(vocab=30, states=5)]


def drawn(law: BaseLaw, seed: int = 0) -> np.ndarray:
    return law.log_probs(np.random.default_rng(seed))


@pytest.mark.parametrize("law", GENERATED, ids=lambda law: law.kind)
def test_laws_are_normalised_positive_and_reproducible(law: BaseLaw) -> None:
    log_probs = drawn(law)
    assert log_probs.shape == (5, 30)
    assert np.all(np.isfinite(log_probs))
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1.0, rtol=1e-13)
    np.testing.assert_array_equal(log_probs, drawn(law))
    assert np.any(log_probs != drawn(law, seed=1))


def test_dirichlet_moments() -> None:
    """E[p] = 1/V and Var[p] = (V − 1) / (V²(Va + 1)) for a symmetric Dirichlet(a)."""
    p = np.exp(drawn(Dirichlet(vocab=5, states=40_000, concentration=0.7)))
    np.testing.assert_allclose(p.mean(axis=0), 0.2, atol=0.005)
    np.testing.assert_allclose(p.var(axis=0), 4 / (25 * (5 * 0.7 + 1)), rtol=0.03)


def test_a_small_concentration_does_not_underflow() -> None:
    log_probs = log_dirichlet(np.random.default_rng(0), 1e-3, (50, 10))
    assert np.all(np.isfinite(log_probs))
    assert log_probs.min() < -1000


def test_zipf_by_rank() -> None:
    law = -np.sort(-drawn(Zipf(vocab=10, states=3, exponent=1.5)), axis=1)
    np.testing.assert_allclose(
        law[:, [0]] - law, np.tile(1.5 * np.log(np.arange(1, 11)), (3, 1)), rtol=1e-12, atol=1e-12
    )
    assert len({tuple(np.argsort(state)) for state in drawn(Zipf(vocab=10, states=5))}) == 5


def test_lm_like_has_its_share_of_near_certain_states() -> None:
    top = np.exp(drawn(LmLike(vocab=1000, states=200, near_certain=0.7)).max(axis=1))
    assert np.all((top[:140] >= 0.9) & (top[:140] <= 1 - 1e-5))
    assert np.all(top[140:] < 0.6)
    decades = -np.log10(1 - top[:140])
    assert decades.mean() == pytest.approx(3.0, abs=0.3)
    assert np.all(np.exp(drawn(LmLike(vocab=1000, near_certain=0.0)).max(axis=1)) < 0.6)


@pytest.mark.parametrize(
    ("law", "field", "bad"),
    [
        (Dirichlet, "vocab", 0), (Dirichlet, "states", 0), (Dirichlet, "concentration", 0.0), (Dirichlet, "vocab", 2.5),
        (Zipf, "vocab", -1), (Zipf, "states", True), (Zipf, "exponent", -0.1), (Zipf, "exponent", float("nan")),
        (LmLike, "vocab", 1), (LmLike, "states", 0), (LmLike, "near_certain", 1.2),
    ],
)  # fmt: skip
def test_bad_field_is_refused_by_name(law: Any, field: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must .*got {bad}"):
        law(**{field: bad})


def from_file(path: Path) -> np.ndarray:
    return drawn(LogitsFile(path=path))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_logits_are_read_and_flattened(tmp_path: Path, dtype: Any) -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(dtype)
    np.save(tmp_path / "a.npy", logits)
    np.savez(tmp_path / "a.npz", logits=logits)
    read = from_file(tmp_path / "a.npy")
    assert read.shape == (6, 7)
    shifted = read - logits.reshape(6, 7)
    np.testing.assert_allclose(shifted, np.tile(shifted[:, :1], (1, 7)), atol=1e-12)
    np.testing.assert_array_equal(read, from_file(tmp_path / "a.npz"))


def write_truncated(path: Path) -> None:
    np.save(path, np.zeros((4, 50)))
    path.write_bytes(path.read_bytes()[:-100])


def write_truncated_zip(path: Path) -> None:
    np.savez(path, np.zeros((4, 50)))
    path.write_bytes(path.read_bytes()[:-100])


BAD_FILES = {
    "missing.npy": (lambda path: None, "cannot read"),
    "folder.npy": (lambda path: path.mkdir(), "cannot read"),
    "empty.npy": (lambda path: path.touch(), "cannot read"),
    "empty.npz": (lambda path: path.touch(), "cannot read"),
    "truncated.npy": (write_truncated, "cannot read"),
    "truncated.npz": (write_truncated_zip, "cannot read"),
    "noise.npy": (lambda path: path.write_bytes(b"noise"), "cannot read"),
    "pickled.npy": (lambda path: np.save(path, np.array([[{}]], dtype=object)), "cannot read"),
    "pickled.npz": (lambda path: np.savez(path, np.array([[{}]], dtype=object)), "cannot read"),
    "two.npz": (
        lambda path: np.savez(path, a=np.zeros((2, 2)), b=np.zeros((2, 2))),
        "expected one array, found 2: a, b",
    ),
    "logits.csv": (lambda path: path.touch(), "expected a .npy or .npz file"),
    "nan.npy": (lambda path: np.save(path, np.array([[0.0, np.nan]])), "NaN"),
    "inf.npy": (lambda path: np.save(path, np.array([[0.0, np.inf]])), "inf"),
    "nothing.npy": (lambda path: np.save(path, np.full((1, 2), -np.inf)), "nothing but -inf"),
    "flat.npy": (lambda path: np.save(path, np.zeros(3)), r"\(3,\)"),
    "stateless.npy": (lambda path: np.save(path, np.zeros((0, 3))), r"\(0, 3\)"),
    "tokens.npy": (
        lambda path: np.save(path, np.zeros((2, 3), dtype=np.int64)),
        "int64: save the model's floating logits",
    ),
    "mask.npy": (lambda path: np.save(path, np.ones((2, 3), dtype=np.bool_)), "got dtype bool"),
    "probabilities.npy": (
        lambda path: np.save(path, np.full((2, 3, 4), 0.25)),
        "holds probabilities, not logits: save their logarithm$",
    ),
    "half.npy": (
        lambda path: np.save(path, np.random.default_rng(0).dirichlet(np.ones(999), size=9).astype(np.float16)),
        "holds probabilities, not logits",
    ),
    "one-hot.npz": (lambda path: np.savez(path, np.eye(3)), "holds probabilities, not logits"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_logits_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write, message = BAD_FILES[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        from_file(tmp_path / name)


@pytest.mark.parametrize(
    "logits",
    [
        [[0.25, 0.75], [0.2, 0.802]],  # one state misses 1 by more than rounding does
        [[0.25, 0.75], [-0.5, 1.5]],  # sums to 1 with a negative entry
        [[0.25, 0.75, -1.0]],  # its entries above 0 sum to 1
        [[0.0, 0.0]],
        [[1e308, 1e308]],
        [[-0.0, -np.inf]],
    ],
)
def test_what_is_no_table_of_probabilities_is_read_as_logits(tmp_path: Path, logits: list[list[float]]) -> None:
    np.save(tmp_path / "a.npy", logits)
    read = from_file(tmp_path / "a.npy")
    np.testing.assert_allclose(np.exp(read).sum(axis=1), 1.0, rtol=1e-13)
    np.save(tmp_path / "log.npy", read)  # what the error says to save is accepted, and means the same
    np.testing.assert_allclose(from_file(tmp_path / "log.npy"), read, rtol=1e-13)
