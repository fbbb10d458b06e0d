"""Log-space arithmetic, and the array libraries behind it."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.core import checks, numerics
from jackpot_sim.core.backend import kth_largest, logsumexp, searchsorted, to_numpy
from tests.conftest import ToLibrary

INF = math.inf
LOGITS = np.array([[0.0, 1.0, -2.0, -INF], [700.0, 699.0, -700.0, 3.0], [-1e4, -INF, -INF, -1e4]])

logits_lists = st.lists(st.floats(-700, 700) | st.just(-INF), min_size=1, max_size=12).filter(lambda x: max(x) > -INF)


def test_log_softmax_matches_scipy(xp: ToLibrary) -> None:
    # scipy.special.log_softmax, scipy 1.17
    result = to_numpy(numerics.log_softmax(xp(LOGITS)))
    np.testing.assert_allclose(result, scipy.special.log_softmax(LOGITS, axis=-1), rtol=1e-14)


def test_log_softmax_golden(xp: ToLibrary) -> None:
    # By hand: weights 1, 2, 1, 0 give probabilities 1/4, 1/2, 1/4, 0.
    result = to_numpy(numerics.log_softmax(xp([0.0, math.log(2), 0.0, -INF])))
    np.testing.assert_allclose(result, [-math.log(4), -math.log(2), -math.log(4), -INF], rtol=1e-15)


def test_log_softmax_keeps_the_digits_of_large_float32_logits() -> None:
    logits = np.array([4096.0, 4095.0, 4090.5], dtype=np.float32)
    expected = scipy.special.log_softmax(logits.astype(np.float64))
    np.testing.assert_allclose(numerics.log_softmax(logits), expected, rtol=3e-7)
    checks.check_log_probs(numerics.log_softmax(logits), "law")


@given(logits_lists, st.floats(-1e3, 1e3))
def test_log_softmax_is_a_law_and_ignores_a_shift(logits: list[float], shift: float) -> None:
    x = np.array(logits)
    law = numerics.log_softmax(x)
    assert abs(float(np.sum(np.exp(law.astype(np.longdouble)))) - 1) < 1e-12
    np.testing.assert_array_equal(np.isfinite(law), np.isfinite(x))
    np.testing.assert_allclose(numerics.log_softmax(x + shift), law, rtol=1e-12, atol=1e-11)


@given(logits_lists, st.randoms(use_true_random=False))
def test_log_softmax_is_equivariant(logits: list[float], random: Any) -> None:
    x = np.array(logits)
    order = np.array(random.sample(range(len(x)), len(x)))
    np.testing.assert_allclose(numerics.log_softmax(x[order]), numerics.log_softmax(x)[order], rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize(
    "bad", [[math.nan, 0.0], [INF, 0.0], [-INF, -INF], [[0.0, 0.0], [-INF, -INF]], [[0.0, 0.0], [math.nan, 0.0]]]
)
def test_log_softmax_refuses_logits_without_a_law(xp: ToLibrary, bad: Any) -> None:
    with pytest.raises(ValueError, match="logits"):
        numerics.log_softmax(xp(bad))


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_an_empty_vocabulary_is_refused(xp: ToLibrary, shape: tuple[int, ...]) -> None:
    for function in (numerics.log_softmax, lambda x: checks.check_log_probs(x, "logits")):
        with pytest.raises(ValueError, match=r"logits has shape .*vocabulary"):
            function(xp(np.zeros(shape)))


def test_log_softmax_gradient_with_holes() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor([0.3, -INF, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    law = numerics.log_softmax(logits)
    law[3].backward()
    expected = -torch.exp(law.detach())
    expected[3] += 1
    torch.testing.assert_close(logits.grad, expected, rtol=1e-14, atol=1e-16)


def test_log_softmax_gradcheck() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor([[0.3, -3.0, -1.0, 2.0], [0.0, 0.0, 5.0, -5.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(numerics.log_softmax, (logits,))


# ---------------------------------------------------------------- log ratios


def test_log_ratio_is_policy_over_actor(xp: ToLibrary) -> None:
    policy, actor = [-1.0, -1.0, -INF, -INF], [-3.0, -INF, -2.0, -INF]
    np.testing.assert_array_equal(to_numpy(numerics.log_ratio(xp(policy), xp(actor))), [2.0, INF, -INF, -INF])


def test_log_ratio_gradient_is_finite_with_holes() -> None:
    torch = pytest.importorskip("torch")
    policy = torch.tensor([-1.0, -INF, -INF], dtype=torch.float64, requires_grad=True)
    actor = torch.tensor([-2.0, -2.0, -INF], dtype=torch.float64, requires_grad=True)
    torch.exp(numerics.log_ratio(policy, actor)).sum().backward()
    r = math.exp(1.0)
    torch.testing.assert_close(policy.grad, torch.tensor([r, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(actor.grad, torch.tensor([-r, 0.0, 0.0], dtype=torch.float64))


def test_mul_exp_treats_zero_times_anything_as_zero(xp: ToLibrary) -> None:
    x, log_weight = [2.0, -INF, INF, 3.0, -INF], [math.log(3.0), -INF, -INF, -INF, 0.0]
    np.testing.assert_allclose(to_numpy(numerics.mul_exp(xp(x), xp(log_weight))), [6.0, 0, 0, 0, -INF], rtol=1e-15)


@pytest.mark.parametrize("x", [2.0, 0.0, INF, -INF])
def test_mul_exp_gradient_at_weight_zero(x: float) -> None:
    torch = pytest.importorskip("torch")
    value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    log_weight = torch.tensor(-INF, dtype=torch.float64, requires_grad=True)
    numerics.mul_exp(value, log_weight).backward()
    assert value.grad == 0
    assert log_weight.grad == 0


def test_entropy_gradient_is_finite_with_holes() -> None:
    torch = pytest.importorskip("torch")
    log_p = torch.log(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)).requires_grad_()
    entropy = -numerics.mul_exp(log_p, log_p).sum()
    entropy.backward()
    assert entropy.item() == pytest.approx(math.log(2), rel=1e-15)
    expected = [-0.5 * (1 - math.log(2))] * 2 + [0.0]  # −p(log p + 1), and 0 where p = 0
    np.testing.assert_allclose(log_p.grad.numpy(), expected, rtol=1e-15)


# ------------------------------------------------------------------- backend


def test_logsumexp_matches_scipy(xp: ToLibrary) -> None:
    expected = scipy.special.logsumexp(LOGITS, axis=-1)
    np.testing.assert_allclose(to_numpy(logsumexp(xp(LOGITS))), expected, rtol=1e-14)
    assert tuple(logsumexp(xp(LOGITS), keepdims=True).shape) == (3, 1)
    assert float(logsumexp(xp([-INF, -INF]))) == -INF


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_kth_largest(xp: ToLibrary, k: int) -> None:
    x = np.array([[3.0, 1.0, 2.0, 2.0, -INF], [0.0, 0.0, 0.0, 0.0, 0.0]])
    expected = np.sort(x, axis=-1)[..., ::-1][..., k - 1 : k]
    np.testing.assert_array_equal(to_numpy(kth_largest(xp(x), k)), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_searchsorted_takes_strided_arrays(xp: ToLibrary, side: Any) -> None:
    ascending = np.array([[0.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    values = np.array([[1.0, 0.5], [0.0, 2.0]])
    expected = [np.searchsorted(ascending[:, i], values[:, i], side=side) for i in range(2)]
    result = searchsorted(xp(ascending).T, xp(values).T, side)
    np.testing.assert_array_equal(to_numpy(result), expected)


@pytest.mark.cuda
def test_cuda_agrees_with_numpy() -> None:
    import torch

    from jackpot_sim.core import divergences, normalizer, obrs

    rng = np.random.default_rng(0)
    p, q = (numerics.log_softmax(2 * rng.normal(size=(4, 1000))) for _ in range(2))
    on_device = [torch.asarray(x, device="cuda") for x in (p, q)]
    functions = [divergences.kl, divergences.jensen_shannon, obrs.overlap, lambda a, b: normalizer.topk(a, b, 20)]
    for function in [*functions, lambda a, b: obrs.solve_lam(a, b, 0.5)]:
        result = function(*on_device)
        assert str(array_api_compat.device(result)).startswith("cuda")
        np.testing.assert_allclose(to_numpy(result), function(p, q), rtol=1e-11)
