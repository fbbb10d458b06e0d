"""Tables of cumulated sums over runs of tokens: the places of the runs, and the sums at them."""

from __future__ import annotations

import numpy as np

from jackpot_sim.estimators.states.cumulated import cumulated, runs_of

VALUES = np.array([[1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 5.0, 7.0, 9.0, 11.0]])
LOG_RATIO = np.array([-0.3, 0.1, 0.2, -0.1, 0.4])
SIGN = np.array([-1, -1, 1, 1, 1])


def test_each_run_has_an_entry_more_than_tokens() -> None:
    runs = runs_of(LOG_RATIO, SIGN)
    assert [(run.sign, run.tokens, run.first, run.last) for run in runs] == [
        (-1, slice(0, 2), 0, 2),
        (1, slice(2, 5), 3, 6),
    ]
    assert [run.log_ratio.tolist() for run in runs] == [[-0.3, 0.1], [0.2, -0.1, 0.4]]


def test_entries_sum_the_tokens_before_or_after_their_place() -> None:
    runs = runs_of(LOG_RATIO, SIGN)
    np.testing.assert_array_equal(cumulated(VALUES, runs, False)[0], [0, 1, 3, 0, 4, 12, 28])
    np.testing.assert_array_equal(cumulated(VALUES, runs, True)[0], [3, 2, 0, 28, 24, 16, 0])
    assert cumulated(VALUES, runs, True).shape == (2, 7)
