"""What rows of states combine to, where no environment gets to."""

from __future__ import annotations

import math

import numpy as np

from jackpot_sim.estimators.statistics import mean_squared_error_rescaled


def test_an_update_against_the_gradient_is_best_left_out() -> None:
    gain = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(mean_squared_error_rescaled(gain, np.full(5, 2.0)), [1, 1, 1, 0.875, 0.5])
    assert mean_squared_error_rescaled(0.0, 0.0) == 1
    assert math.isnan(mean_squared_error_rescaled(math.nan, 1.0))
