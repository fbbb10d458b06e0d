"""The checks of arguments: each refuses in one sentence that names the argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core import checks, numerics
from jackpot_sim.core.backend import floating, to_numpy
from tests.conftest import ToLibrary

INF = math.inf


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, INF, -INF, [1.0, 0.0], [1.0, math.nan]])
def test_positive_names_what_it_refuses(xp: ToLibrary, bad: Any) -> None:
    with pytest.raises(ValueError, match="lam must be positive and finite, got"):
        checks.positive(bad, "lam", xp([0.0]))


def test_positive_takes_the_dtype_it_is_compared_with(xp: ToLibrary) -> None:
    like = xp([0.0])
    for value in (2, 2.0, np.float64(2.0)):
        out = checks.positive(value, "lam", like)
        assert out.dtype == like.dtype
        assert float(out) == 2.0


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ([math.nan, 0.0], "actor_log_probs holds NaN"),
        ([[0.0, -INF], [math.nan, 0.0]], "actor_log_probs holds NaN"),
        ([0.0, 0.0], r"actor_log_probs is not normalised: .* miss 1 by 1 "),
        ([-INF, -INF], r"actor_log_probs is not normalised: .* miss 1 by 1 "),
        ([[0.0, -INF], [math.log(0.5), math.log(0.49)]], r"actor_log_probs is not normalised: .* miss 1 by 0\.01 "),
        ([1000.0, 0.0], "actor_log_probs is not normalised: .* miss 1 by inf"),
    ],
)
def test_check_log_probs_names_what_is_wrong(xp: ToLibrary, law: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checks.check_log_probs(xp(law), "actor_log_probs")


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 1e-4)])
def test_normalisation_tolerance(dtype: type, tolerance: float) -> None:
    def shifted(by: float) -> Any:
        return np.log(np.array([0.5, 0.5 + by])).astype(dtype)

    checks.check_log_probs(shifted(0.8 * tolerance), "law")
    checks.check_log_probs(shifted(-0.8 * tolerance), "law")
    for by in (1.3 * tolerance, -1.3 * tolerance):
        with pytest.raises(ValueError, match="law is not normalised"):
            checks.check_log_probs(shifted(by), "law")


def test_check_at_most_one(xp: ToLibrary) -> None:
    checks.check_at_most_one(xp([0.0, 1.0, 1.0 + 1e-9]), "kept")
    for bad in (1.1, math.nan):
        with pytest.raises(ValueError, match="kept holds NaN, or"):
            checks.check_at_most_one(xp([0.5, bad]), "kept")


def test_check_pair_names_which_law_is_wrong(xp: ToLibrary) -> None:
    good, bad = xp([0.0, -INF]), xp([0.0, 0.0])
    checks.check_pair(good, good)
    with pytest.raises(ValueError, match="policy_log_probs is not normalised"):
        checks.check_pair(bad, good)
    with pytest.raises(ValueError, match="actor_log_probs is not normalised"):
        checks.check_pair(good, bad)
    with pytest.raises(ValueError, match=r"policy_log_probs has shape \(2,\), actor_log_probs has shape \(1, 2\)"):
        checks.check_pair(good, xp([[0.0, -INF]]))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="real floating"):
        floating(np.zeros(3, dtype=dtype))


def test_half_precision_becomes_float32() -> None:
    assert floating(np.zeros(3, dtype=np.float16)).dtype == np.float32
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        logits = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        law = numerics.log_softmax(logits)
        assert law.dtype == torch.float32
        torch.testing.assert_close(law, torch.log_softmax(logits.to(torch.float32), dim=-1))
        certain = checks.check_log_probs(torch.tensor([0.0, -INF], dtype=dtype), "law")
        assert certain.dtype == torch.float32


def test_bfloat16_log_probs_are_too_coarse_to_be_a_law() -> None:
    # Rounding log(1/3) to 8 bits misses 1 by 0.0014: refused, not renormalised in silence.
    torch = pytest.importorskip("torch")
    law = torch.log_softmax(torch.zeros(3), dim=-1).to(torch.bfloat16)
    with pytest.raises(ValueError, match="policy_log_probs is not normalised"):
        checks.check_log_probs(law, "policy_log_probs")


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint8])
def test_masks_of_numbers_are_refused(xp: ToLibrary, dtype: type) -> None:
    values = xp(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"mask must be boolean, .* pass mask != 0"):
        checks.check_mask(xp(np.ones((2, 3)).astype(dtype)), values, "values")


@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (3,), (3, 2), (2, 3, 1), ()])
def test_masks_do_not_broadcast(xp: ToLibrary, shape: tuple[int, ...]) -> None:
    values, mask = xp(np.ones((2, 3))), xp(np.ones(shape, dtype=bool))
    with pytest.raises(ValueError, match=r"values has shape \(2, 3\), mask has shape"):
        checks.check_mask(mask, values, "values")


def test_a_value_per_state_has_one_axis_less_or_one_token(xp: ToLibrary) -> None:
    # As many states as tokens: axes that were aligned from the right would take a state for a token.
    laws, values = xp(np.zeros((3, 3))), np.array([1.0, 2.0, 3.0])
    for given in (values, values[:, None]):
        np.testing.assert_array_equal(to_numpy(checks.per_state(xp(given), laws, "lam")), values[:, None])
    assert float(checks.per_state(2, laws, "lam")) == 2
    for wrong in (values[None], values[:2], np.ones((3, 3)), np.ones((3, 1, 1))):
        with pytest.raises(ValueError, match="lam has shape"):
            checks.per_state(xp(wrong), laws, "lam")


@pytest.mark.parametrize("states", [(2, 3), (), (2,)])
def test_a_value_per_state_of_laws_with_any_axes(xp: ToLibrary, states: tuple[int, ...]) -> None:
    laws, values = xp(np.zeros((*states, 4))), np.random.default_rng(0).random(states)
    for given in (values, values[..., None]):
        found = np.broadcast_to(to_numpy(checks.per_state(xp(given), laws, "lam")), (*states, 1))
        np.testing.assert_array_equal(found, values[..., None])
    for wrong in ((*states, 2), (*states, 4), (5, *states)):
        with pytest.raises(ValueError, match="lam has shape"):
            checks.per_state(xp(np.ones(wrong)), laws, "lam")


def test_values_stand_beside_others_axis_by_axis(xp: ToLibrary) -> None:
    like = xp(np.zeros((2, 3)))
    for shape in ((2, 3), (2, 1), (1, 3), (1, 1), ()):
        assert tuple(checks.beside(xp(np.ones(shape)), like, "lam", "log_ratio").shape) == shape
    for wrong in ((3,), (2,), (1,), (3, 2), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"lam has shape .* log_ratio has shape .* each as long or 1"):
            checks.beside(xp(np.ones(wrong)), like, "lam", "log_ratio")


@pytest.mark.parametrize(("ids", "words"), [([0, 5], "got 0 to 5"), ([-1, 0], "got -1 to 0")])
def test_ids_lie_in_the_vocabulary(xp: ToLibrary, ids: list[int], words: str) -> None:
    assert checks.check_ids(xp(np.array([0, 4])), 5, "token") is not None
    with pytest.raises(ValueError, match=f"token must lie from 0 to 4, {words}"):
        checks.check_ids(xp(np.array(ids)), 5, "token")
    with pytest.raises(TypeError, match="token must hold integers"):
        checks.check_ids(xp([0.0, 1.0]), 5, "token")


def test_no_ids_lie_nowhere() -> None:
    assert checks.check_ids(np.zeros((0, 3), dtype=np.int64), 0, "token").shape == (0, 3)


def test_alike_arrays_have_one_shape_and_hold_real_numbers(xp: ToLibrary) -> None:
    checks.check_alike(p=xp([1.0]), q=xp([2.0]))
    with pytest.raises(ValueError, match=r"p has shape \(1,\), q has shape \(2,\)"):
        checks.check_alike(p=xp([1.0]), q=xp([2.0, 3.0]))
    with pytest.raises(TypeError, match="q must hold real floating numbers"):
        checks.check_alike(p=xp([1.0]), q=xp(np.array([2])))


def test_states_agree_but_for_the_last_axis(xp: ToLibrary) -> None:
    checks.check_same_states(xp(np.ones((2, 3))), xp(np.ones((2, 5))), "law", "uniforms")
    checks.check_same_states(xp(np.ones((2, 3, 4))), xp(np.ones((2, 3, 5))), "law", "uniforms")
    checks.check_same_states(xp(np.ones(3)), xp(np.ones(5)), "law", "uniforms")
    with pytest.raises(ValueError, match="all axes but the last must be the same"):
        checks.check_same_states(xp(np.ones((2, 3, 4))), xp(np.ones((2, 4, 4))), "law", "uniforms")
    with pytest.raises(ValueError, match="all axes but the last must be the same"):
        checks.check_same_states(xp(np.ones(())), xp(np.ones(())), "law", "uniforms")
    for wrong in ((3, 5), (5,), (2, 1, 5), ()):
        with pytest.raises(ValueError, match="all axes but the last must be the same"):
            checks.check_same_states(xp(np.ones((2, 3))), xp(np.ones(wrong)), "law", "uniforms")


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_advantages_are_finite(xp: ToLibrary, bad: float) -> None:
    with pytest.raises(ValueError, match="advantage holds NaN or inf"):
        checks.check_advantage(xp([1.0, bad]))
    with pytest.raises(TypeError, match="advantage must hold real floating numbers"):
        checks.check_advantage(xp(np.array([1, 2])))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_a_vocabulary_has_a_token(xp: ToLibrary, shape: tuple[int, ...]) -> None:
    checks.require_vocabulary(xp(np.ones(1)), "law")
    checks.require_vocabulary(xp(np.ones((0, 1))), "law")
    with pytest.raises(ValueError, match=r"law has shape .*: the last axis is the vocabulary and must not be empty"):
        checks.require_vocabulary(xp(np.ones(shape)), "law")


def test_a_shape_is_exact() -> None:
    checks.check_shape(np.ones((2, 3)), (2, 3), "prompt", "one row per sequence")
    with pytest.raises(ValueError, match=r"prompt has shape \(3, 2\), not \(2, 3\): one row per sequence"):
        checks.check_shape(np.ones((3, 2)), (2, 3), "prompt", "one row per sequence")


def test_alike_arrays_have_one_shape_and_one_library(xp: ToLibrary) -> None:
    given = {"first": xp([[0.5, 1.0]]), "second": xp([[2.0, 3.0]])}
    assert all(found is array for found, array in zip(checks.check_alike(**given), given.values(), strict=True))
    for wrong in (xp([0.5, 1.0]), xp([[0.5]]), xp([[0.5], [1.0]]), xp(0.5)):
        with pytest.raises(ValueError, match=r"first has shape \(1, 2\), second has shape"):
            checks.check_alike(**given | {"second": wrong})
    for kind in (np.int64, np.bool_, np.complex128):
        with pytest.raises(TypeError, match="second must hold real floating numbers"):
            checks.check_alike(**given | {"second": np.ones((1, 2), dtype=kind)})
    strange: Any = [[2.0, 3.0]]
    with pytest.raises(TypeError):
        checks.check_alike(**given | {"second": strange})


def test_alike_arrays_of_two_libraries_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="namespaces"):
        checks.check_alike(first=np.ones(2), second=torch.ones(2, dtype=torch.float64))
    half = checks.check_alike(first=torch.ones(2, dtype=torch.bfloat16), second=torch.ones(2))
    assert [x.dtype for x in half] == [torch.float32] * 2


def test_check_floats_takes_numpy_arrays_of_one_shape() -> None:
    good = np.ones((2, 3))
    assert checks.check_floats(good, (2, 3), "z", "one number per token") is good
    checks.check_floats(good.astype(np.float32), (2, 3), "z", "one number per token")  # type: ignore[arg-type]
    for shape in ((3, 2), (2,), (2, 1), (2, 3, 1), ()):
        with pytest.raises(ValueError, match=r"z has shape .*, not \(2, 3\): one number per token"):
            checks.check_floats(np.ones(shape), (2, 3), "z", "one number per token")
    for kind in (np.int64, np.bool_, np.complex128, np.str_):
        with pytest.raises(TypeError, match="z must hold real floating numbers"):
            checks.check_floats(np.ones((2, 3)).astype(kind), (2, 3), "z", "one number per token")
    torch = pytest.importorskip("torch")
    for strange in ([[1.0]], 1.0, torch.ones(2, 3)):
        with pytest.raises(TypeError, match="z must be a numpy array, got"):
            checks.check_floats(strange, (2, 3), "z", "one number per token")


def test_check_axes_counts_them(xp: ToLibrary) -> None:
    checks.check_axes(xp([[1.0]]), "p", "states", "vocab")
    for wrong in (xp(1.0), xp([1.0]), xp([[[1.0]]])):
        with pytest.raises(ValueError, match=r"p has shape .*: it must be \(states, vocab\)"):
            checks.check_axes(wrong, "p", "states", "vocab")


def test_rows_are_a_slice_or_integers_of_one_axis(xp: ToLibrary) -> None:
    checks.check_rows(slice(1))
    checks.check_rows(xp(np.array([0, 2])))
    with pytest.raises(ValueError, match=r"rows has shape .*: it must be a slice, or integers of shape \(m,\)"):
        checks.check_rows(xp(np.array([[0], [2]])))
    with pytest.raises(TypeError, match="rows must hold integers"):
        checks.check_rows(xp(np.array([True, False])))


def test_padding_comes_after_all_tokens(xp: ToLibrary) -> None:
    checks.check_padding(xp(np.array([[True, True, False], [True, False, False]])))
    for wrong in ([[True, False, True]], [[False, False, False]], [[False, True, True]]):
        with pytest.raises(ValueError, match="mask has padding before a token"):
            checks.check_padding(xp(np.array(wrong)))


def test_axes_are_as_many_as_are_named_and_not_empty(xp: ToLibrary) -> None:
    checks.check_axes(xp(np.ones((1, 2))), "ids", "n", "length")
    with pytest.raises(ValueError, match=r"ids has shape \(2,\): it must be \(n, length\)"):
        checks.check_axes(xp(np.ones(2)), "ids", "n", "length")
    with pytest.raises(ValueError, match=r"ids has shape \(2, 1\): it must be \(n,\)"):
        checks.check_axes(xp(np.ones((2, 1))), "ids", "n")
    with pytest.raises(ValueError, match=r"ids has shape \(0, 2\): it is empty"):
        checks.check_axes(xp(np.ones((0, 2))), "ids", "n", "length")


def test_values_of_tokens_have_the_shape_of_the_mask(xp: ToLibrary) -> None:
    mask = xp(np.ones((2, 3), dtype=bool))
    checks.check_per_token(mask, log_ratio=xp(np.ones((2, 3))), factor=None)
    for wrong in (np.ones((2, 1)), np.ones(3), np.ones((3, 2))):
        with pytest.raises(ValueError, match=r"mask has shape \(2, 3\), factor has shape"):
            checks.check_per_token(mask, factor=xp(wrong))
    with pytest.raises(TypeError, match="factor must hold real floating numbers"):
        checks.check_per_token(mask, factor=xp(np.ones((2, 3), dtype=np.int64)))
    with pytest.raises(TypeError, match="mask must be boolean"):
        checks.check_per_token(xp(np.ones((2, 3), dtype=np.int64)))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\): it must be \(n, length\)"):
        checks.check_per_token(xp(np.ones(3, dtype=bool)))
