"""Z from hidden states over chunks of the vocabulary: exact, and small in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.bench.timing import peak_bytes
from jackpot_sim.core import normalizer, obrs
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.heads import Head
from jackpot_sim.core.numerics import log_softmax
from tests.conftest import ToLibrary
from tests.core import torch_memory
from tests.core.laws import Pair, law_pairs, normalised

lams = st.sampled_from([1e-3, 0.3, 1.0, 1.7, 1e3])

Models = tuple[Any, Any, Any, Any]
"""Hidden states and head of the policy, then of the actor."""


def models(seed: int, states: tuple[int, ...], vocab: int, sizes: tuple[int, int], scale: float = 3.0) -> Models:
    rng = np.random.default_rng(seed)
    hidden = [rng.normal(size=(*states, size)) for size in sizes]
    weights = [scale / math.sqrt(size) * rng.normal(size=(vocab, size)) for size in sizes]
    return hidden[0], weights[0], hidden[1], weights[1]


def by_hand(of: Models, lam: Any = 1.0) -> Any:
    policy, actor = (np.exp(normalised(hidden @ weight.T)) for hidden, weight in (of[:2], of[2:]))
    return np.sum(np.minimum(actor, policy / np.asarray(lam)[..., None]), axis=-1)


def chunked(of: Models, lam: Any = None, chunk: int | None = None) -> Any:
    given = () if lam is None else (lam,)
    return normalizer.chunked(of[0], of[2], Head(of[1]), Head(of[3]), *given, chunk=chunk)


@pytest.mark.parametrize("chunk", [None, 1, 33, 100, 5000])
def test_exact_for_every_chunk_and_two_hidden_sizes(xp: ToLibrary, chunk: int | None) -> None:
    of = models(0, (3, 4), 100, (5, 7))
    found = to_numpy(chunked(tuple(map(xp, of)), chunk=chunk))
    np.testing.assert_allclose(found, by_hand(of), rtol=1e-13)


def test_one_lam_per_state(xp: ToLibrary) -> None:
    of = models(1, (2, 3), 80, (6, 6))
    lam = np.exp(np.random.default_rng(2).normal(size=(2, 3)))
    np.testing.assert_allclose(to_numpy(chunked(tuple(map(xp, of)), xp(lam))), by_hand(of, lam), rtol=1e-13)
    one = to_numpy(normalizer.chunked(xp(of[0][0, 0]), xp(of[2][0, 0]), Head(xp(of[1])), Head(xp(of[3])), 0.5))
    assert float(one) == pytest.approx(by_hand(of, 0.5)[0, 0], rel=1e-13)


@given(pair=law_pairs(shared=False), lam=lams, chunk=st.integers(1, 13))
def test_any_laws_with_cut_tokens(pair: Pair, lam: float, chunk: int) -> None:
    """The laws themselves as biases: −inf where a token is cut."""
    vocab = len(pair.policy)
    policy, actor = (Head(np.zeros((vocab, 1)), bias=law) for law in pair)
    z = normalizer.chunked(np.zeros((2, 1)), np.zeros((2, 1)), policy, actor, lam, chunk=chunk)
    np.testing.assert_allclose(z, obrs.overlap(pair.policy, pair.actor, lam), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-4), ("float64", 1e-10)])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_within_the_target_of_the_full_law(library: str, dtype: str, within: float) -> None:
    of = models(3, (64,), 8192, (48, 32), scale=5.0)
    rounded = tuple(each.astype(dtype) for each in of)
    expected = by_hand(tuple(each.astype(np.float64) for each in rounded))
    if library == "torch":
        torch = pytest.importorskip("torch")
        rounded = tuple(map(torch.tensor, rounded))
    found = chunked(rounded)
    assert str(found.dtype).endswith(dtype)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=within)


def test_half_precision() -> None:
    torch = pytest.importorskip("torch")
    of = tuple(torch.tensor(each).bfloat16() for each in models(4, (16,), 500, (8, 8)))
    for lam in (1.0, 1.3):  # 1.3 itself would lose digits in half precision
        found = chunked(of, lam)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand(tuple(each.double().numpy() for each in of), lam), rtol=1e-5)


def share_of_full(peak: int, of: Models, itemsize: int) -> float:
    """Of both full tensors of log-probs together."""
    return peak / (2 * of[0].shape[0] * of[1].shape[0] * itemsize)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_memory_of_numpy(dtype: str) -> None:
    of = tuple(each.astype(dtype) for each in models(5, (256,), 8192, (32, 32)))
    full = peak_bytes(lambda: obrs.overlap(log_softmax(of[0] @ of[1].T), log_softmax(of[2] @ of[3].T)))
    assert share_of_full(full, of, of[0].itemsize) > 1  # what it is compared with is seen
    assert share_of_full(peak_bytes(lambda: chunked(of)), of, of[0].itemsize) < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_memory_of_torch(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    of = tuple(
        torch.tensor(each).to(getattr(torch, dtype)).requires_grad_() for each in models(5, (256,), 8192, (32, 32))
    )
    itemsize = max(4, of[0].itemsize)
    full = torch_memory.peak_bytes(
        lambda: [torch.log_softmax(of[0] @ of[1].T, -1), torch.log_softmax(of[2] @ of[3].T, -1)]
    )
    assert share_of_full(full, of, of[0].itemsize) >= 1
    assert share_of_full(torch_memory.peak_bytes(lambda: chunked(of)), of, itemsize) < 0.1


def test_memory_is_that_of_a_chunk() -> None:
    of = models(6, (128,), 8192, (16, 16))
    peaks = [peak_bytes(lambda chunk=chunk: chunked(of, chunk=chunk)) for chunk in (64, 1024)]
    assert 8 < peaks[1] / peaks[0] <= 16.5


@pytest.mark.cuda
def test_on_a_device() -> None:
    import torch

    of = models(8, (32,), 3000, (16, 24))
    found = chunked(tuple(torch.tensor(each, device="cuda") for each in of), chunk=100)
    assert found.device.type == "cuda"
    np.testing.assert_allclose(to_numpy(found), by_hand(of), rtol=1e-10)


def test_a_constant_of_differentiation() -> None:
    torch = pytest.importorskip("torch")
    of = tuple(torch.tensor(each).requires_grad_() for each in models(7, (3,), 20, (4, 4)))
    assert not chunked(of).requires_grad


def test_errors_name_the_argument(xp: ToLibrary) -> None:
    hidden, other = xp(np.zeros((2, 3))), xp(np.zeros((3, 3)))
    head, larger = Head(xp(np.zeros((5, 3)))), Head(xp(np.zeros((6, 3))))
    with pytest.raises(ValueError, match="policy_head has 5 tokens, actor_head has 6: the vocabularies"):
        normalizer.chunked(hidden, hidden, head, larger)
    with pytest.raises(ValueError, match=r"policy_hidden has shape \(2, 3\), actor_hidden has shape \(3, 3\)"):
        normalizer.chunked(hidden, other, head, head)
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        normalizer.chunked(hidden, hidden, head, head, chunk=0)
    for lam in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="lam must be positive"):
            normalizer.chunked(hidden, hidden, head, head, lam)
