"""When a run has collapsed: the definition, case by case, and as a law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.training.loop.collapse import course, running_mean

EVERY = 5
"""Steps between tests, where a test says nothing else."""


def steps_of(accuracy: Sequence[float], every: int = EVERY) -> list[int]:
    return [every * at for at in range(len(accuracy))]


def collapsed_at(accuracy: Sequence[float], every: int = EVERY) -> int | None:
    return course(steps_of(accuracy, every), accuracy).collapsed_at


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    gaps = draw(st.lists(st.integers(1, 30), min_size=0, max_size=40))
    steps = np.cumsum([0, *gaps]).tolist()
    accuracies = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))
    return steps, draw(st.lists(accuracies, min_size=len(steps), max_size=len(steps)))


def slow_means(steps: Sequence[int], accuracy: Sequence[float]) -> list[float]:
    found = []
    for step in steps:
        last = [a for at, a in zip(steps, accuracy, strict=True) if 0 <= step - at < 20]
        found.append(sum(last) / len(last))
    return found


# ------------------------------------------------------------------- the running mean


@given(runs())
def test_the_mean_is_that_of_the_last_twenty_steps(run: tuple[list[int], list[float]]) -> None:
    np.testing.assert_allclose(running_mean(*run), slow_means(*run), rtol=1e-12, atol=1e-15)


def test_a_test_twenty_steps_ago_no_longer_counts() -> None:
    assert running_mean([0, 1, 20], [1.0, 0.5, 0.0]).tolist() == [1.0, 0.75, 0.25]


# ------------------------------------------------------------------- the cases


def test_an_accuracy_that_falls_and_stays_down_has_collapsed() -> None:
    # Means of four tests: 0.5, …, 0.375, 0.25 (half is not below), 0.125, 0, ….
    assert collapsed_at([0.5] * 6 + [0.0] * 8) == EVERY * 8


def test_one_that_stays_has_not() -> None:
    assert collapsed_at([0.5] * 20) is None


def test_exactly_half_of_the_best_is_not_below_it() -> None:
    assert collapsed_at([0.5] * 6 + [0.25] * 20) is None
    assert collapsed_at([0.5] * 6 + [0.249] * 20) is not None


def test_a_recovery_is_no_collapse() -> None:
    fallen = [0.5] * 6 + [0.0] * 10
    assert collapsed_at(fallen) is not None
    assert collapsed_at([*fallen, *[0.5] * 6]) is None


def test_after_a_recovery_it_is_the_second_fall_that_counts() -> None:
    again = [0.5] * 6 + [0.0] * 10 + [0.5] * 6
    assert collapsed_at(again + [0.0] * 10) == EVERY * (len(again) + 2)


def test_twenty_further_steps_have_to_follow() -> None:
    # The first mean below half is at test 8, step 40.
    assert collapsed_at([0.5] * 6 + [0.0] * 6) is None  # the last test is at step 55
    assert collapsed_at([0.5] * 6 + [0.0] * 7) == 40  # at step 60


@pytest.mark.parametrize("accuracy", [[0.5], [0.0], [0.8, 0.1, 0.0]])
def test_a_run_that_was_hardly_tested_has_not_collapsed(accuracy: list[float]) -> None:
    assert collapsed_at(accuracy) is None


def test_without_a_test_nothing_can_be_said() -> None:
    with pytest.raises(ValueError, match="there is no test of the policy"):
        course([], [])


def test_a_run_that_never_learnt_has_not_collapsed() -> None:
    assert collapsed_at([0.0] * 30) is None


def test_a_steady_decline_collapses_where_it_passes_half() -> None:
    accuracy = np.linspace(1, 0, 101).tolist()
    means = slow_means(steps_of(accuracy), accuracy)
    first = next(at for at, mean in enumerate(means) if mean < 0.5)
    assert collapsed_at(accuracy) == EVERY * first


def test_half_of_the_best_until_then_and_not_of_a_better_one_later() -> None:
    # Means of 0.3125 are more than half of the 0.5 before them, and less than half of the 0.75 after.
    accuracy = [0.5] * 6 + [0.3125] * 6 + [0.75] * 6
    assert collapsed_at([*accuracy, *[0.0] * 10]) == EVERY * (len(accuracy) + 2)


def test_sparse_tests_stand_alone() -> None:
    assert course([0, 50, 100, 150], [0.8, 0.7, 0.1, 0.1]).collapsed_at == 100
    assert course([0, 50, 100], [0.8, 0.7, 0.1]).collapsed_at is None


def test_best_and_last_are_means() -> None:
    found = course([0, 5, 10, 30, 35], [0.2, 1.0, 0.6, 0.4, 0.0])
    assert found.best == pytest.approx(0.6)
    assert found.last == pytest.approx(0.2)


# ------------------------------------------------------------------- laws


@given(runs())
def test_the_definition(run: tuple[list[int], list[float]]) -> None:
    """collapsed_at is the first step from which on every mean is below half of the best until then."""
    steps = run[0]
    means = running_mean(*run).tolist()
    below = [mean < max(means[: at + 1]) / 2 for at, mean in enumerate(means)]
    first = next((at for at in range(len(steps)) if all(below[at:])), None)
    expected = None if first is None or steps[-1] - steps[first] < 20 else steps[first]
    assert course(*run).collapsed_at == expected


@given(runs())
def test_all_that_follows_a_collapse_is_below_half_of_the_best(run: tuple[list[int], list[float]]) -> None:
    steps, means, found = run[0], running_mean(*run), course(*run)
    assert found.best == means.max()
    assert found.last == means[-1]
    if found.collapsed_at is not None:
        later = np.asarray(steps) >= found.collapsed_at
        assert (means[later] < found.best / 2).all()
        assert steps[-1] - found.collapsed_at >= 20
        assert found.last < found.best / 2


@given(runs(), st.floats(0.01, 100))
def test_a_collapse_does_not_depend_on_the_scale(run: tuple[list[int], list[float]], scale: float) -> None:
    steps, accuracy = run
    doubled = [2.0 ** round(np.log2(scale)) * each for each in accuracy]  # without rounding
    assert course(steps, doubled).collapsed_at == course(steps, accuracy).collapsed_at
