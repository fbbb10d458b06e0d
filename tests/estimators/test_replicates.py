"""Inner products of replicates: their means, and the matrices that are none."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim.estimators.replicates import jackknife, off_diagonal


def test_the_mean_of_what_lies_off_the_diagonal() -> None:
    assert off_diagonal(np.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])) == 21 / 6


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (3,), (), (1, 3, 3), (0, 0), (1, 1)])
def test_a_matrix_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gram has shape"):
        off_diagonal(np.ones(shape))
    with pytest.raises(TypeError, match="gram must hold real floating numbers"):
        off_diagonal(np.ones(shape, dtype=np.int64))


def test_a_jackknife_takes_one_figure_per_replicate() -> None:
    assert jackknife([1.0, 2.0, 3.0]) == pytest.approx(np.sqrt(2 * 2 / 3), rel=1e-15)
    with pytest.raises(ValueError, match=r"left_out has shape \(2, 3\), not \(2,\)"):
        jackknife([np.ones(3), np.ones(3)])  # type: ignore[list-item]
