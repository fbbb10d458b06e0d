"""Sequences as paths of rows: what is gathered along them, what is summed up, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from jackpot_sim.core.sequences import (
    Enumeration,
    SampledSequences,
    SequenceLaws,
    Sequences,
    kl_of_measures,
    occupancy,
)
from tests.core.laws import normalised, of_probabilities

# Two sequences over three prefixes and two tokens: (0, 1) then (2, 0); and (0, 0) alone. Padding points anywhere.
PATHS = Sequences(np.array([[0, 2], [0, 1]]), np.array([[1, 0], [0, 1]]), np.array([[True, True], [True, False]]))
TABLE = np.array([[1.0, 2.0], [30.0, 40.0], [5.0, 6.0]])
LAW = of_probabilities(0.25, 0.75)[None] + np.zeros((3, 1))


def random_paths(seed: int, n: int = 20, length: int = 4, shape: tuple[int, int] = (5, 3)) -> Sequences:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, length + 1, size=(n, 1))
    prefix, token = (generator.integers(0, size, size=(n, length)) for size in shape)
    return Sequences(prefix, token, np.arange(length) < lengths)


def test_by_hand() -> None:
    assert len(PATHS) == 2
    assert PATHS.lengths.tolist() == [2.0, 1.0]
    assert PATHS.gather(TABLE).tolist() == [[2.0, 5.0], [1.0, 0.0]]
    assert PATHS.gather(TABLE[:, 0]).tolist() == [[1.0, 5.0], [1.0, 0.0]]
    assert PATHS.scatter(np.array([[1.0, 2.0], [4.0, 8.0]]), (3, 2)).tolist() == [[4.0, 1.0], [0.0, 0.0], [2.0, 0.0]]
    assert PATHS.scatter(np.array([[1.0], [4.0]]), (3, 2)).tolist() == [[4.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    assert np.exp(PATHS.log_probs(LAW)).tolist() == pytest.approx([0.75 * 0.25, 0.25])
    assert occupancy(PATHS, np.array([0.5, 0.25]), (3, 2)).sum() == 1.25


@pytest.mark.parametrize("seed", range(3))
def test_gather_and_scatter_are_loops(seed: int) -> None:
    paths, generator = random_paths(seed), np.random.default_rng(seed)
    table, values = generator.normal(size=(5, 3)), generator.normal(size=(20, 4))
    expected = np.zeros((5, 3))
    for i, t in np.argwhere(paths.mask):
        expected[paths.prefix[i, t], paths.token[i, t]] += values[i, t]
    np.testing.assert_allclose(paths.scatter(values, (5, 3)), expected, rtol=1e-13, atol=1e-13)
    # Gathering and scattering are each other's transpose.
    assert np.sum(paths.gather(table) * values) == pytest.approx(np.sum(paths.scatter(values, (5, 3)) * table))


def test_padding_does_not_matter_even_where_it_holds_nan() -> None:
    paths = random_paths(5)
    table = np.random.default_rng(1).normal(size=(5, 3))
    elsewhere = dataclasses.replace(
        paths, prefix=np.where(paths.mask, paths.prefix, 4), token=np.where(paths.mask, paths.token, 2)
    )
    assert not paths.mask.all()
    np.testing.assert_array_equal(paths.gather(table), elsewhere.gather(table))
    values = np.where(paths.mask, 1.0, math.nan)
    np.testing.assert_array_equal(paths.scatter(values, (5, 3)), elsewhere.scatter(values, (5, 3)))
    assert paths.scatter(values, (5, 3)).sum() == paths.lengths.sum()


def test_a_table_may_hold_visited_prefixes_alone() -> None:
    paths = random_paths(6, shape=(50, 3))
    table = np.random.default_rng(1).normal(size=(50, 3))
    visited, rows = np.unique(paths.prefix[paths.mask], return_inverse=True)
    fewer = paths.prefix.copy()
    fewer[paths.mask], fewer[~paths.mask] = rows, 0
    small = dataclasses.replace(paths, prefix=fewer)
    np.testing.assert_array_equal(small.gather(table[visited]), paths.gather(table))
    whole, part = paths.scatter(np.ones((20, 1)), (50, 3)), small.scatter(np.ones((20, 1)), (len(visited), 3))
    np.testing.assert_array_equal(part, whole[visited])


@pytest.mark.parametrize("rows", [slice(2, 5), np.array([7, 0, 7])])
def test_take(rows: Any) -> None:
    paths = random_paths(7)
    some = paths.take(rows)
    assert len(some) == 3
    np.testing.assert_array_equal(some.lengths, paths.lengths[rows])
    np.testing.assert_array_equal(some.token, paths.token[rows])


def test_an_impossible_sequence_has_log_probability_minus_infinity() -> None:
    never = of_probabilities(1.0, 0.0)[None] + np.zeros((3, 1))
    assert PATHS.log_probs(never).tolist() == [-math.inf, 0.0]


def test_occupancy_adds_up_to_the_expected_length() -> None:
    paths = random_paths(8)
    probability = np.random.default_rng(2).dirichlet(np.ones(len(paths)))
    assert occupancy(paths, probability, (5, 3)).sum() == pytest.approx(probability @ paths.lengths, rel=1e-13)


# ------------------------------------------------------------------------------------ divergence


def test_divergence_of_measures() -> None:
    first, second = np.array([[3.0, 1.0], [0.0, 0.0]]), np.array([[0.1, 0.1], [0.0, 0.2]])
    by_hand = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.25)
    assert kl_of_measures(first, second) == pytest.approx(by_hand, rel=1e-14)
    assert kl_of_measures(first, 7 * first) == pytest.approx(0.0, abs=1e-15)
    assert kl_of_measures(second, first) == math.inf
    nothing = np.zeros((2, 2))
    assert math.isnan(kl_of_measures(nothing, first))
    assert math.isnan(kl_of_measures(first, nothing))


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("field", ["token", "mask"])
def test_paths_of_different_shapes_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"prefix has shape .*{field} has shape"):
        dataclasses.replace(PATHS, **{field: getattr(PATHS, field)[:1]})


@pytest.mark.parametrize("field", ["policy_log_probs", "actor_log_probs", "reference_log_probs"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda x: x + 0.1, "is not normalised"), (lambda x: x * math.nan, "holds NaN"), (lambda x: x[:2], "has shape")],
)
def test_laws_are_checked_by_name(field: str, change: Any, message: str) -> None:
    laws = SequenceLaws(LAW, LAW, LAW)
    assert laws.shape == (3, 2)
    with pytest.raises(ValueError, match=message) as caught:
        dataclasses.replace(laws, **{field: change(LAW)})
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("advantage", "message"),
    [
        (np.ones(3), r"advantage has shape \(3,\), not \(2,\): one number per sequence"),
        (np.ones((2, 1)), r"advantage has shape \(2, 1\), not \(2,\)"),
        (np.ones(2, dtype=np.int64), "advantage must hold real floating numbers"),
        (np.array([1.0, math.nan]), "NaN"),
        (np.array([1.0, -math.inf]), "NaN or inf"),
    ],
)
def test_advantages_are_checked(advantage: Any, message: str) -> None:
    laws, good = SequenceLaws(LAW, LAW, LAW), np.array([1.0, 2.0])
    single = Sequences(np.zeros((2, 1), dtype=np.int64), np.array([[0], [1]]), np.ones((2, 1), dtype=bool))
    assert Enumeration(laws, single, good).advantage is good
    with pytest.raises((TypeError, ValueError), match=message):
        Enumeration(laws, single, advantage)
    with pytest.raises((TypeError, ValueError), match=message):
        SampledSequences(laws, PATHS, advantage, PATHS, good)
    with pytest.raises((TypeError, ValueError), match=message):
        SampledSequences(laws, PATHS, good, PATHS, advantage)


def test_as_many_sequences_of_the_policy_as_of_the_actor() -> None:
    laws = SequenceLaws(LAW, LAW, normalised(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="2 sequences of the actor and 1 of the policy"):
        SampledSequences(laws, PATHS, np.ones(2), PATHS.take(slice(0, 1)), np.ones(1))


COMPLETE = Sequences(
    np.array([[0, 1], [0, 1], [0, 2], [0, 2]]),
    np.array([[0, 0], [0, 1], [1, 0], [1, 1]]),
    np.ones((4, 2), dtype=bool),
)
"""Every sequence of two tokens over two, at the prefixes (), (0) and (1)."""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 1, 2], "is not every sequence: their probabilities under policy_log_probs add up to 0"),
        ([0, 1, 2, 3, 3], "holds a sequence twice"),
        ([0, 1, 2, 3] * 2, "holds a sequence twice"),
    ],
)
def test_an_enumeration_has_every_sequence_once(rows: list[int], message: str) -> None:
    laws = SequenceLaws(LAW, LAW, LAW)
    assert len(Enumeration(laws, COMPLETE, np.ones(4)).sequences) == 4
    with pytest.raises(ValueError, match=message):
        Enumeration(laws, COMPLETE.take(np.array(rows)), np.ones(len(rows)))


def test_a_sequence_that_the_policy_never_writes_may_be_one_that_the_actor_writes() -> None:
    certain = np.array([[0.0, -math.inf], LAW[1], LAW[2]])
    laws = SequenceLaws(certain, LAW, LAW)
    with pytest.raises(ValueError, match="under actor_log_probs"):
        Enumeration(laws, COMPLETE.take(slice(2)), np.ones(2))


@pytest.mark.parametrize("field", ["prefix", "token"])
@pytest.mark.parametrize("bad", [-1, 3])
def test_prefixes_and_tokens_lie_in_the_table(field: str, bad: int) -> None:
    fields = {name: getattr(COMPLETE, name).copy() for name in ("prefix", "token", "mask")}
    fields[field][0, 1] = bad
    with pytest.raises(ValueError, match=f"{field} must lie from 0 to"):
        Sequences(**fields).gather(LAW)
    with pytest.raises(ValueError, match=f"{field} must lie from 0 to"):
        Sequences(**fields).scatter(np.ones((4, 2)), (3, 2))
