"""What rows of states combine to, where no environment gets to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jackpot_sim.estimators.statistics import (
    Denominator,
    StateStatistics,
    combine,
    combine_cell,
    divisor,
    mean_squared_error,
    mean_squared_error_rescaled,
    of_single_tokens,
)


def test_an_update_against_the_gradient_is_best_left_out() -> None:
    gain = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    np.testing.assert_array_equal(mean_squared_error_rescaled(gain, np.full(5, 2.0)), [1, 1, 1, 0.875, 0.5])
    assert mean_squared_error_rescaled(0.0, 0.0) == 1
    assert math.isnan(mean_squared_error_rescaled(math.nan, 1.0))


COLUMNS = {name: np.ones((2, 4)) for name in StateStatistics.__dataclass_fields__}


@pytest.mark.parametrize("name", ["weight_mean", "estimate_dot", "length_var"])
def test_columns_of_other_shapes_or_kinds_are_refused(name: str) -> None:
    for wrong in (np.ones(4), np.ones((2, 1)), np.ones((4, 2)), np.ones((2, 4, 1))):
        with pytest.raises(ValueError, match=rf"{name} has shape .*, not \(2, 4\): one number per state"):
            StateStatistics(**COLUMNS | {name: wrong})
    for kind in (np.int64, np.bool_, np.complex128):
        with pytest.raises(TypeError, match=f"{name} must hold real floating numbers"):
            StateStatistics(**COLUMNS | {name: np.ones((2, 4), dtype=kind)})
    with pytest.raises(TypeError, match=f"{name} must be a numpy array, got list"):
        StateStatistics(**COLUMNS | {name: [1.0]})


def test_statistics_have_an_axis_of_states() -> None:
    with pytest.raises(ValueError, match=r"acceptance_rate has shape \(\): it must be \(\.\.\., states\)"):
        StateStatistics(**{name: np.ones(()) for name in COLUMNS})
    assert combine(StateStatistics(**COLUMNS), "proposed").bias.shape == (2,)
    for shape in ((1, 4), (4, 1)):
        stack = StateStatistics(**{name: np.ones(shape) for name in COLUMNS})
        with pytest.raises(ValueError, match=r"acceptance_rate has shape .*: it must be \(states,\)"):
            combine_cell(stack, "proposed")


def test_figures_do_not_broadcast() -> None:
    column, figures = np.ones((3, 1)), np.ones(3)
    with pytest.raises(ValueError, match=r"variance has shape \(3,\), not \(3, 1\)"):
        mean_squared_error(column, figures, column, 2)
    with pytest.raises(ValueError, match=r"noise_to_signal has shape \(3,\), not \(\)"):
        mean_squared_error(1.0, 1.0, figures, 2)
    with pytest.raises(ValueError, match=r"size has shape \(3, 1\), not \(3,\)"):
        mean_squared_error_rescaled(figures, column)
    with pytest.raises(ValueError, match=r"weight_mean has shape \(3,\)"):
        divisor(Denominator.PROPOSED, column, figures)
    with pytest.raises(ValueError, match=r"weighted_sq has shape \(3,\)"):
        of_single_tokens(column, figures)
    assert mean_squared_error(np.float32(1), 1.0, 2.0, 2) == 2.0


def test_an_update_without_size_has_no_best_multiple() -> None:
    # With noise a size of 0 may come with a gain; a division by it would be an MSE of minus infinity.
    found = mean_squared_error_rescaled(np.array([0.5, 0.5]), np.array([0.0, 0.5]))
    np.testing.assert_allclose(found, [1.0, 0.5])
