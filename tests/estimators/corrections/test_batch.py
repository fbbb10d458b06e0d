"""Corrections that look at the whole batch: what they promise of it, and what they become in a large one."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim import estimators
from jackpot_sim.core.backend import to_numpy
from jackpot_sim.estimators import Level, Tokens, batch_normalize, combined, rao_blackwell
from jackpot_sim.estimators.corrections.correction import TokenCorrection
from tests.conftest import ToLibrary
from tests.estimators.corrections.test_sequence import toy_law

m2po = estimators.get("m2po", threshold=0.5)
NORMALISED = [
    batch_normalize(estimators.get(name))
    for name in ("is", "tis", "mis", "obrs", "sequence-is", "sequence-tis", "sequence-mis", "geometric-tis", "gspo")
] + [
    batch_normalize(rao_blackwell(estimators.get("obrs", lam=1.7))),
    batch_normalize(combined(estimators.get("tis"), estimators.get("mask-k1", low=0.5, high=2.0))),
    batch_normalize(m2po),
]


def batch(rows: int = 6, length: int = 5, scale: float = 0.7, seed: int = 0) -> tuple[Any, Any, Any]:
    """ℓ with NaN for padding, the mask, and an advantage per sequence."""
    generator = np.random.default_rng(seed)
    mask = np.arange(length) < generator.integers(1, length + 1, size=(rows, 1))
    return np.where(mask, generator.normal(scale=scale, size=mask.shape), math.nan), mask, np.ones((rows, 1))


# ------------------------------------------------------------------------ m2po


@given(values=st.lists(st.sampled_from([0.0, 0.1, -0.3, 0.5, -0.5, 0.9, -1.3, 2.0, math.inf]), min_size=1, max_size=9))
def test_m2po_keeps_as_many_as_the_mean_allows(values: list[float]) -> None:
    log_ratio = np.array(values)
    accept = m2po.weights(log_ratio).accept
    squares = np.sort(log_ratio**2)
    kept = round(float(accept.sum()))
    assert accept.sum() == pytest.approx(kept)
    assert kept == 0 or squares[:kept].mean() <= 0.5 + 1e-12
    if kept < len(values):
        assert squares[: kept + 1].mean() > 0.5 - 1e-12
    # Nothing is dropped while something larger stays, and ties are treated alike.
    for index, square in enumerate(log_ratio**2):
        assert np.all(accept[log_ratio**2 < square] >= accept[index])
        assert np.all((accept[log_ratio**2 < square] == 1) | (accept[index] == 0))
        assert np.all(accept[log_ratio**2 == square] == accept[index])


def test_m2po_keeps_tokens_at_the_threshold_itself() -> None:
    # ℓ² is 1/16 at three tokens and 1 at the last, all exact.
    quarter = estimators.get("m2po", threshold=0.0625)
    np.testing.assert_array_equal(quarter.weights(np.array([[0.25, -0.25], [0.25, 1.0]])).accept, [[1, 1], [1, 0]])


class _TokensOfABatch(TokenCorrection):
    """A rule of a user's own: each token has a weight of its own, which the other sequences change."""

    name = "tokens-of-a-batch"

    @property
    def looks_at_batch(self) -> bool:
        return True


def test_what_looks_at_the_batch_is_not_of_tokens_alone() -> None:
    correction = _TokensOfABatch()
    assert correction.level is Level.TOKEN
    assert not correction.is_per_token
    # Nor is one of whole sequences, though it looks at no other.
    whole = estimators.get("sequence-tis")
    assert not whole.looks_at_batch
    assert not whole.is_per_token
    assert estimators.get("tis").is_per_token


def test_m2po_by_hand() -> None:
    # Squares 0, 0, 1, 1, 1, 4 and τ = 0.5: two of the three at 1 stay, (0+0+1+1)/4 = 0.5.
    accept = m2po.weights(np.array([[0.0, 1.0, -1.0], [0.0, 1.0, 2.0]])).accept
    np.testing.assert_allclose(accept, [[1, 2 / 3, 2 / 3], [1, 2 / 3, 0]], rtol=1e-15)
    np.testing.assert_array_equal(m2po.weights(np.full((2, 2), 3.0)).accept, 0.0)
    np.testing.assert_array_equal(m2po.weights(np.full((2, 2), 0.3)).accept, 1.0)


def test_m2po_in_the_limit_keeps_a_fraction_at_the_cut() -> None:
    # Tokens at ℓ² = 0 with mass 1/4 and at 1 with mass 3/4: 1/4·1 of the latter makes the mean 0.5.
    log_ratio, probability = np.array([[0.0], [1.0]]), np.array([0.25, 0.75])
    limit = m2po.in_the_limit(Tokens(log_ratio), probability)
    np.testing.assert_allclose(limit.weights(np.array([0.0, -1.0, 1.0, 0.5, 2.0])).accept, [1, 1 / 3, 1 / 3, 1, 0])
    assert not limit.looks_at_batch
    assert limit.level is Level.TOKEN
    assert pickle.loads(pickle.dumps(limit)) == limit


def test_m2po_in_the_limit_has_exactly_the_mean_allowed() -> None:
    probability, log_ratio = toy_law()
    mask = np.arange(3) < np.arange(len(probability))[:, None] % 4
    accept = m2po.in_the_limit(Tokens(log_ratio, mask=mask), probability).weights(log_ratio, mask=mask).accept
    mass = probability[:, None] * mask * accept
    assert float((mass * log_ratio**2).sum() / mass.sum()) == pytest.approx(0.5, rel=1e-13)
    assert np.any((accept > 0) & (accept < 1))


def test_a_large_batch_is_near_its_limit() -> None:
    probability, log_ratio = toy_law()
    generator = np.random.default_rng(1)
    errors = []
    for size in (30, 3000, 300_000):
        drawn = generator.choice(len(probability), size=size, p=probability)
        found = 0.0
        for correction in (
            m2po,
            batch_normalize(estimators.get("is")),
            batch_normalize(estimators.get("sequence-tis")),
        ):
            limit = correction.in_the_limit(Tokens(log_ratio), probability).weights(log_ratio[drawn])
            finite = correction.weights(log_ratio[drawn])
            found = max(found, *(float(np.mean(np.abs(x - y))) for x, y in zip(finite, limit, strict=True)))
        errors.append(found)
    assert errors[0] > 0.02
    assert errors[2] < 0.006
    assert errors[2] < errors[0] / 5


def test_exact_copies_of_a_law_are_its_limit() -> None:
    log_ratio = np.array([[0.2, 1.0], [1.5, -0.4], [0.0, 1.0]])
    copies = np.repeat(log_ratio, [1000, 2000, 1000], axis=0)
    probability = np.array([0.25, 0.5, 0.25])
    for correction in (m2po, *NORMALISED):
        one_token = 1 / 2000 if "m2po" in correction.name else 0.0  # of 2000 tied ones, a whole number stays
        context = {"advantages": np.ones((1, 1))}
        limit = correction.in_the_limit(Tokens(log_ratio, **context), probability).weights(log_ratio, **context)
        finite = correction.weights(copies, **context)
        for x, y in zip(finite, limit, strict=True):
            np.testing.assert_allclose(x[[0, 1000, 3000]], y, rtol=1e-12, atol=one_token)


def test_a_sequence_of_probability_0_is_not_there() -> None:
    log_ratio, probability = np.array([[0.3, 0.2], [9.0, math.inf]]), np.array([1.0, 0.0])
    for correction in (m2po, batch_normalize(estimators.get("is")), batch_normalize(estimators.get("sequence-is"))):
        alone = correction.in_the_limit(Tokens(log_ratio[:1]), probability[:1])
        assert correction.in_the_limit(Tokens(log_ratio), probability) == alone


@pytest.mark.parametrize("correction", [m2po, batch_normalize(estimators.get("tis"))])
def test_what_is_no_law_is_refused(correction: Any) -> None:
    log_ratio = np.zeros((2, 3))
    for probability in ([0.5, 0.4], [1.5, -0.5], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="probability must be a law over the 2 sequences"):
            correction.in_the_limit(Tokens(log_ratio), np.array(probability))
    with pytest.raises(ValueError, match=r"probability has shape \(3,\)"):
        correction.in_the_limit(Tokens(log_ratio), np.full(3, 1 / 3))


# ------------------------------------------------------------- batch_normalize


@pytest.mark.parametrize("correction", NORMALISED, ids=lambda c: c.name)
def test_the_batch_mean_is_one(correction: Any) -> None:
    log_ratio, mask, advantages = batch()
    accept, weight = correction.weights(log_ratio, mask=mask, advantages=advantages)
    kept = accept * weight
    per_sequence = kept.sum(axis=1) / mask.sum(axis=1)
    mean = per_sequence.mean() if correction.of.unit is Level.SEQUENCE else kept[mask].mean()
    assert mean == pytest.approx(1.0, rel=1e-14)
    inner = correction.of.weights(log_ratio, mask=mask, advantages=advantages)
    np.testing.assert_array_equal(accept, inner.accept)
    np.testing.assert_array_equal(kept[~mask], 0.0)
    ratio = weight[inner.weight > 0] / inner.weight[inner.weight > 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-14)


@pytest.mark.parametrize("correction", NORMALISED, ids=lambda c: c.name)
def test_the_mean_under_the_law_is_one(correction: Any) -> None:
    probability, log_ratio = toy_law()
    mask = np.arange(3) < 1 + np.arange(len(probability))[:, None] % 3
    context = {"mask": mask, "advantages": np.ones((1, 1))}
    limit = correction.in_the_limit(Tokens(log_ratio, **context), probability)
    accept, weight = limit.weights(log_ratio, **context)
    kept, tokens = accept * weight, mask.sum(axis=1)
    if correction.of.unit is Level.SEQUENCE:
        mean = probability @ (kept.sum(axis=1) / tokens)
    else:
        mean = probability @ kept.sum(axis=1) / (probability @ tokens)
    assert mean == pytest.approx(1.0, rel=1e-13)
    assert not limit.looks_at_batch
    assert limit.level is (Level.TOKEN if correction.name == "batch-normalize(m2po)" else correction.of.level)
    assert limit.name == correction.name


@pytest.mark.parametrize("correction", [m2po, *NORMALISED], ids=lambda c: c.name)
def test_every_library_sees_the_same_batch(correction: Any, xp: ToLibrary) -> None:
    log_ratio, mask, advantages = batch()
    expected = correction.weights(log_ratio, mask=mask, advantages=advantages)
    found = correction.weights(xp(log_ratio), mask=xp(mask), advantages=xp(advantages))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_numpy(x), y, rtol=1e-13)
    clean = np.where(mask, log_ratio, 0.0)
    law = xp(np.full(len(mask), 1 / len(mask)))
    limit = correction.in_the_limit(Tokens(xp(log_ratio), mask=xp(mask), advantages=xp(advantages)), law)
    assert type(limit.weights(xp(clean), mask=xp(mask), advantages=xp(advantages)).weight) is type(xp(clean))


def test_all_live_tokens_of_the_array_are_the_batch() -> None:
    log_ratio, _, _ = batch(scale=0.4)
    log_ratio = np.nan_to_num(log_ratio)
    correction = combined(batch_normalize(estimators.get("sequence-tis")), m2po)
    flat = correction.weights(log_ratio)
    folded = correction.weights(log_ratio.reshape(2, 3, -1))
    for x, y in zip(folded, flat, strict=True):
        np.testing.assert_allclose(x.reshape(y.shape), y, rtol=1e-14)


def test_normalising_what_is_dropped_altogether_changes_nothing() -> None:
    nothing = batch_normalize(estimators.get("mis", low=10.0, high=20.0))
    accept, weight = nothing.weights(np.zeros((2, 2)))
    np.testing.assert_array_equal(accept, 0.0)
    np.testing.assert_array_equal(weight, 1.0)
    empty = nothing.weights(np.zeros((2, 2)), mask=np.zeros((2, 2), dtype=bool))
    np.testing.assert_array_equal(empty.weight, 0.0)


def test_what_is_never_accepted_does_not_count_whatever_its_weight() -> None:
    # By hand: of 1, 2 and a token beyond reach the mean of a·w is 3/3.
    correction = batch_normalize(estimators.get("mis", low=0.0, high=2.0))
    accept, weight = correction.weights(np.array([[0.0, math.log(2), math.inf]]))
    np.testing.assert_array_equal(accept, [[1, 1, 0]])
    np.testing.assert_allclose(weight[0, :2], [1.0, 2.0], rtol=1e-15)
    jackpot = batch_normalize(estimators.get("jackpot", c1=math.inf))
    mask = np.array([[True, False]])
    assert jackpot.weights(np.array([[0.3, math.nan]]), np.array(0.8), mask=mask).weight[0, 1] == 0


def test_a_batch_without_a_time_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch-normalize\(is\) needs log_ratio of shape"):
        batch_normalize(estimators.get("is")).weights(np.array(0.1))


def test_an_infinite_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch-normalize\(is\): the mean weight is infinite; truncate"):
        batch_normalize(estimators.get("is")).weights(np.array([[0.0, math.inf]]))


def test_wrappers_take_the_limits_of_what_they_wrap() -> None:
    probability, log_ratio = toy_law()
    limit = m2po.in_the_limit(Tokens(log_ratio), probability)
    assert rao_blackwell(m2po).in_the_limit(Tokens(log_ratio), probability) == rao_blackwell(limit)
    both = combined(estimators.get("tis"), m2po).in_the_limit(Tokens(log_ratio), probability)
    assert both == combined(estimators.get("tis"), limit)
    assert both.level is Level.TOKEN
    scaled = batch_normalize(m2po).in_the_limit(Tokens(log_ratio), probability)
    assert scaled.of == limit  # type: ignore[attr-defined]


def test_a_normalised_jackpot_gets_its_overlap() -> None:
    correction = batch_normalize(estimators.get("jackpot", lam=1.5))
    assert correction.overlap_lam == 1.5
    log_ratio, overlap = np.array([[0.3, -0.2], [0.1, 0.9]]), np.array([[0.6, 0.5], [0.4, 0.7]])
    accept, weight = correction.weights(log_ratio, overlap)
    assert float(np.mean(accept * weight)) == pytest.approx(1.0, rel=1e-14)
    limit = correction.in_the_limit(Tokens(log_ratio, overlap=overlap), np.array([0.5, 0.5]))
    assert limit.overlap_lam == 1.5
    np.testing.assert_allclose(limit.weights(log_ratio, overlap).weight, weight, rtol=1e-14)
    assert correction.parameters() == correction.of.parameters()
