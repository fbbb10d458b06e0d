"""A head applied to slices of the vocabulary: the same law as the whole of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core.backend import to_numpy
from jackpot_sim.core.heads import ChunkedLaw, Head
from tests.cases import each, every
from tests.conftest import ToLibrary

INF = math.inf


def log_normalizer(law: ChunkedLaw) -> Any:
    return (law.peak + law.log_total)[..., 0]


def log_sum_exp(logits: Any) -> Any:
    """By extended precision, over the last axis."""
    x = np.asarray(logits, dtype=np.longdouble)
    peak = np.max(x, axis=-1)
    return np.asarray(peak + np.log(np.sum(np.exp(x - peak[..., None]), axis=-1)), dtype=np.float64)


def one_hot_head(logits: Any) -> tuple[Any, Any]:
    """(hidden, weight) whose logits are the rows given: state i reads column i of the weight."""
    rows = np.asarray(logits, dtype=np.float64)
    return np.eye(len(rows)), rows.T


def test_by_hand(xp: ToLibrary) -> None:
    head = Head(xp([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), bias=xp([0.0, 1.0, -1.0]), temperature=0.5)
    hidden = xp([[1.0, 3.0], [0.0, -1.0]])
    np.testing.assert_array_equal(to_numpy(head.logits(hidden)), [[2.0, 14.0, 6.0], [0.0, -2.0, -4.0]])
    np.testing.assert_array_equal(to_numpy(head.logits(hidden, slice(1, 3))), [[14.0, 6.0], [-2.0, -4.0]])
    np.testing.assert_array_equal(to_numpy(head.logits(hidden[0, ...])), [2.0, 14.0, 6.0])
    np.testing.assert_array_equal(to_numpy(head.logits(hidden[None, :, ...]))[0], to_numpy(head.logits(hidden)))


@each("chunk", [None, 1, 7, 64, 1000])
def test_the_same_law_for_every_chunk(xp: ToLibrary, chunk: int | None) -> None:
    rng = np.random.default_rng(0)
    hidden, weight, bias = rng.normal(size=(2, 3, 5)), 3 * rng.normal(size=(200, 5)), rng.normal(size=200)
    head = Head(xp(weight), xp(bias), temperature=0.7)
    assert [at for each in head.chunks(chunk) for at in range(200)[each]] == list(range(200))
    law = ChunkedLaw.of(head, xp(hidden), chunk)
    logits = (hidden @ weight.T + bias) / 0.7
    expected = log_sum_exp(logits)
    np.testing.assert_allclose(to_numpy(log_normalizer(law)), expected, rtol=1e-14)
    np.testing.assert_allclose(
        to_numpy(law.log_probs(slice(30, 95))), (logits - expected[..., None])[..., 30:95], rtol=1e-12
    )


@given(
    rows=st.lists(
        st.lists(st.sampled_from([-INF, -1e5, -700.0, -1.0, 0.0, 0.5, 700.0, 1e5]), min_size=6, max_size=6).filter(
            lambda row: max(row) > -INF
        ),
        min_size=1,
        max_size=3,
    ),
    chunk=st.integers(1, 7),
)
def test_any_logits(rows: list[list[float]], chunk: int) -> None:
    """Cut tokens come as −inf in the bias, whole chunks of them too, and logits may be of any size."""
    for row in rows:
        law = ChunkedLaw.of(Head(np.zeros((6, 1)), bias=np.array(row)), np.zeros((2, 1)), chunk)
        np.testing.assert_allclose(log_normalizer(law), log_sum_exp(row), rtol=1e-14)
        assert np.all(law.peak == max(row))
        total = np.sum(
            np.exp(np.concatenate([law.log_probs(each) for each in law.head.chunks(chunk)], axis=-1)), axis=-1
        )
        np.testing.assert_allclose(total, 1, rtol=1e-14)


@each("last", [-1e5, -2.0, 1e5])
def test_whole_chunks_may_be_cut(xp: ToLibrary, last: float) -> None:
    """Nothing is summed before the last token, and nothing overflows when its peak is met."""
    head = Head(xp(np.zeros((6, 1))), bias=xp([-INF, -INF, -INF, -INF, -INF, last]))
    law = ChunkedLaw.of(head, xp(np.zeros((2, 1))), 2)
    assert to_numpy(law.peak)[:, 0].tolist() == [last, last]
    assert to_numpy(law.log_probs(slice(4, 6))).tolist() == [[-INF, 0.0]] * 2


def test_large_logits_keep_their_law_in_single_precision() -> None:
    """Added to the peak, the log-total would be rounded at the size of the logits."""
    row = 30_000 + np.arange(8.0)
    hidden, weight = (each.astype(np.float32) for each in one_hot_head([row]))
    law = ChunkedLaw.of(Head(weight), hidden, 3)
    expected = row - log_sum_exp(row)
    np.testing.assert_allclose(law.log_probs(slice(None))[0], expected, atol=1e-6)


@each("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    hidden = torch.tensor(rng.normal(size=(4, 16))).to(getattr(torch, dtype))
    weight = torch.tensor(rng.normal(size=(300, 16))).to(getattr(torch, dtype))
    law = ChunkedLaw.of(Head(weight, bias=weight[:, 0]), hidden)
    assert log_normalizer(law).dtype == torch.float32
    exact = ChunkedLaw.of(Head(weight.double(), bias=weight[:, 0].double()), hidden.double())
    np.testing.assert_allclose(log_normalizer(law), log_normalizer(exact), rtol=1e-6)
    mixed = Head(weight).logits(hidden.double())
    assert mixed.dtype == torch.float64


def test_a_constant_of_differentiation() -> None:
    torch = pytest.importorskip("torch")
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    assert not log_normalizer(ChunkedLaw.of(Head(weight), hidden)).requires_grad


def test_errors_name_the_argument(xp: ToLibrary) -> None:
    weight = xp(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"weight has shape \(3,\): it must be \(vocab, hidden\)"):
        Head(xp(np.ones(3)))
    with pytest.raises(ValueError, match=r"weight has shape \(0, 2\)"):
        Head(xp(np.ones((0, 2))))
    with pytest.raises(ValueError, match=r"bias has shape \(2,\): it must be \(3,\)"):
        Head(weight, bias=xp(np.ones(2)))
    for temperature in (0.0, -1.0, math.nan, INF):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            Head(weight, temperature=temperature)
    for chunk in (0, -1):
        with pytest.raises(ValueError, match=f"chunk must be at least 1, got {chunk}"):
            ChunkedLaw.of(Head(weight), xp(np.ones((1, 2))), chunk)
    with pytest.raises(ValueError, match=r"hidden has shape \(1, 3\), the head's weight has shape \(3, 2\)"):
        Head(weight).logits(xp(np.ones((1, 3))))


@each("chunk, row", every([1, 2, 3], [[math.nan, 0.0, 0.0], [0.0, 0.0, math.nan], [0.0, INF, 0.0], [-INF, -INF, -INF]]))
def test_what_is_no_law_is_refused(xp: ToLibrary, row: list[float], chunk: int) -> None:
    head = Head(xp(np.zeros((3, 2))), bias=xp(row))
    with pytest.raises(ValueError, match=r"a state holds NaN or \+inf, or nothing but -inf"):
        ChunkedLaw.of(head, xp(np.zeros((2, 2))), chunk)
