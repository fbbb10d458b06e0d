"""Drawing by inversion: the right law, the same ids everywhere, and never a token of probability zero."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.sampling import categorical
from tests.conftest import ToLibrary
from tests.core.laws import Pair, law_pairs, normalised, of_probabilities

LARGEST = 1 - 2.0**-53
EDGES = np.array([0.0, 5e-324, 2.0**-53, 0.25, 0.5, LARGEST])


@pytest.fixture(autouse=True)
def torch_warns_always() -> Iterator[None]:
    """torch shows most warnings once per process: here every one of them is an error."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_by_hand(xp: ToLibrary) -> None:
    # Cumulative law of (1/4, 0, 1/2, 1/4): tokens change at 1/4 and 3/4, and u = 1/4 already belongs to token 2.
    law = of_probabilities(0.25, 0.0, 0.5, 0.25)
    uniforms = [0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, LARGEST]
    ids = categorical(xp(law), xp(uniforms))
    np.testing.assert_array_equal(to_numpy(ids), [0, 0, 2, 2, 2, 3, 3])
    assert to_numpy(ids).dtype == np.int64


def test_the_same_ids_on_every_backend(xp: ToLibrary) -> None:
    rng = np.random.default_rng(0)
    laws, uniforms = normalised(3 * rng.normal(size=(2, 3, 500))), rng.random((2, 3, 1000))
    np.testing.assert_array_equal(to_numpy(categorical(xp(laws), xp(uniforms))), categorical(laws, uniforms))


def test_a_batch_is_its_states(xp: ToLibrary) -> None:
    rng = np.random.default_rng(1)
    laws, uniforms = normalised(rng.normal(size=(2, 3, 7))), rng.random((2, 3, 5))
    ids = to_numpy(categorical(xp(laws), xp(uniforms)))
    assert ids.shape == (2, 3, 5)
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(ids[i], to_numpy(categorical(xp(laws[i]), xp(uniforms[i]))))


def test_strided_arrays_bring_no_warning(xp: ToLibrary) -> None:
    rng = np.random.default_rng(2)
    laws, uniforms = normalised(rng.normal(size=(4, 6))), rng.random((4, 6))
    columns = [xp(np.ascontiguousarray(x.T)).T for x in (laws, uniforms)]
    np.testing.assert_array_equal(to_numpy(categorical(*columns)), categorical(laws, uniforms))


@pytest.mark.parametrize("seed", [0, 1])
def test_frequencies_follow_the_law(xp: ToLibrary, seed: int) -> None:
    """200,000 draws with a fixed seed: every token within 5 standard errors."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(2, 20))
    logits[:, ::5] = -np.inf
    laws, draws = normalised(logits), 200_000
    ids = to_numpy(categorical(xp(laws), xp(rng.random((2, draws)))))
    for law, drawn in zip(laws, ids, strict=True):
        p = np.exp(law)
        frequency = np.bincount(drawn, minlength=20) / draws
        assert np.all(np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / draws))
        assert np.all(frequency[p == 0] == 0)


@given(pair=law_pairs(), uniforms=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_a_token_of_probability_zero_is_never_drawn(pair: Pair, uniforms: list[float]) -> None:
    u = np.sort(np.concatenate([uniforms, EDGES]))
    ids = categorical(pair.policy, u)
    assert np.all(np.exp(pair.policy[ids]) > 0)
    assert np.all(np.diff(ids) >= 0)
    cumulative = np.cumsum(pair.p)
    # The draw is the token whose share of the cumulative law holds u.
    assert np.all(cumulative[ids] >= u - 1e-15)
    assert np.all(cumulative[ids] - pair.p[ids] <= u + 1e-15)


@pytest.mark.parametrize(
    "probabilities", [(0.0, 0.5, 0.0, 0.5, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.1, 0.2, 0.7, 0.0)]
)
def test_edges_on_every_backend(xp: ToLibrary, probabilities: tuple[float, ...]) -> None:
    law = of_probabilities(*probabilities)
    ids = to_numpy(categorical(xp(law), xp(EDGES)))
    support = np.flatnonzero(np.isfinite(law))
    assert np.all(np.isin(ids, support))
    assert ids[0] == support[0]
    assert ids[-1] == support[-1]


def test_laws_that_miss_one_by_rounding() -> None:
    """Within the tolerance of the checks the law need not sum to one: u = 1 − ε still finds a token."""
    for total in (1 - 5e-7, 1 + 5e-7):
        law = np.append(np.log(np.full(3, total / 3)), -np.inf)
        np.testing.assert_array_equal(categorical(law, EDGES[[0, -1]]), [0, 2])


def test_a_large_vocabulary(xp: ToLibrary) -> None:
    rng = np.random.default_rng(3)
    law, uniforms = normalised(rng.normal(size=151_936)), rng.random(1000)
    ids = to_numpy(categorical(xp(law), xp(uniforms)))
    expected = np.searchsorted(np.cumsum(np.exp(law.astype(np.longdouble))), uniforms, side="right")
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_laws_are_cumulated_in_float64(dtype: type) -> None:
    # 2^24 + 1 is no float32: a float32 running sum would stop at the first token and never draw the rest.
    rare = 2.0**-26
    law = of_probabilities(1 - 1000 * rare, *[rare] * 1000).astype(np.float32)
    uniforms = (1 - rare * (np.arange(1000) + 0.5)).astype(np.float64)
    ids = categorical(law, uniforms)
    np.testing.assert_allclose(ids, 1000 - np.arange(1000), atol=8)
    zero = np.zeros(4, dtype=dtype)
    np.testing.assert_array_equal(categorical(law, zero), [0, 0, 0, 0])


def test_torch_takes_mixed_precision() -> None:
    torch = pytest.importorskip("torch")
    law = torch.log_softmax(torch.arange(5, dtype=torch.float32), dim=-1)
    for dtype in (torch.float32, torch.float64):
        assert categorical(law, torch.tensor([0.0, 0.999], dtype=dtype)).tolist() == [0, 4]


@pytest.mark.parametrize("bad", [1.0, -1e-9, math.nan, math.inf])
def test_uniforms_lie_in_the_unit_interval(xp: ToLibrary, bad: float) -> None:
    with pytest.raises(ValueError, match="uniforms must lie in"):
        categorical(xp(of_probabilities(0.5, 0.5)), xp([0.5, bad]))


@pytest.mark.parametrize(
    ("law", "shape", "words"),
    [
        ([math.nan, 0.0], (1,), "log_probs holds NaN"),
        ([0.0, 0.0], (1,), "log_probs is not normalised"),
        ([], (1,), "log_probs has shape .*vocabulary"),
        ([[0.0, -math.inf]], (1,), r"log_probs has shape \(1, 2\), uniforms has shape \(1,\)"),
        ([0.0, -math.inf], (1, 1), r"log_probs has shape \(2,\), uniforms has shape \(1, 1\)"),
        ([0.0, -math.inf], (), r"log_probs has shape \(2,\), uniforms has shape \(\)"),
    ],
)
def test_errors_name_the_argument(xp: ToLibrary, law: Any, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        categorical(xp(np.array(law, dtype=np.float64)), xp(np.zeros(shape)))
