"""Exact moments of a correction along a path of thresholds, at about the price of one threshold (ours).

Studies sweep the thresholds C, λ and c1. Each state is sorted by r once (`sorted_state`); any threshold then takes a
few look-ups. `optimum.best` finds the best threshold from the same sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Array, Floats
from jackpot_sim.estimators.corrections.composed import require_uncentred
from jackpot_sim.estimators.corrections.correction import Correction
from jackpot_sim.estimators.states.sorted_state import SortedState, sorted_states
from jackpot_sim.estimators.statistics import Denominator, Moments, StateStatistics, combine


def exact(
    policy_log_probs: Array,
    actor_log_probs: Array,
    advantage: Array,
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
) -> Moments[Floats]:
    """`moments.exact` at every threshold of a path; its columns have shape (thresholds,).

    >>> import numpy as np
    >>> from jackpot_sim import estimators
    >>> p, q = np.log([[0.5, 0.3, 0.2]]), np.log([[0.2, 0.3, 0.5]])
    >>> path = exact(p, q, np.array([[1.0, -1.0, 0.5]]), estimators.get("tis", clip=np.array([1.0, 2.0, 4.0])))
    >>> path.bias.round(3)
    array([0.352, 0.117, 0.   ])

    A bias keeps 12 digits even at 1e-10, where a coefficient that is not 1 (1/λ, Z, C/Z, a rate) is not rounded by as
    much as the bias: it is known to 1e-16.

    Args:
        policy_log_probs: log p, shape (..., vocab), nats; computed with in numpy float64.
        actor_log_probs: log q, the same shape.
        advantage: A(x), the same shape.
        correction: a token correction with one or more parameters of one shape (thresholds,), the others numbers.
        denominator: a `Denominator` or its name.
        n_samples: proposals per state, for `mse`.

    Raises:
        ValueError: the shapes of the parameters do not agree, or as `moments.exact`.
        TypeError: the correction is not piecewise monomial in r.
    """
    laws, by_sign = (policy_log_probs, actor_log_probs, advantage), "advantages" in correction.needs
    return of_sorted(Sorted(laws, by_sign), correction, denominator=denominator, n_samples=n_samples)


class Sorted(Iterable[SortedState]):
    """The sorted states of a cell, for several passes: held, or sorted anew in every pass."""

    def __init__(self, laws: tuple[Array, Array, Array], by_sign: bool = False, *, hold: bool = False) -> None:
        self._laws, self._by_sign, self._hold = laws, by_sign, hold
        self._held: list[SortedState] = []

    @override
    def __iter__(self) -> Iterator[SortedState]:
        if not self._hold:
            return sorted_states(*self._laws, self._by_sign)
        if not self._held:
            self._held = list(sorted_states(*self._laws, self._by_sign))
        return iter(self._held)


def of_sorted(
    states: Iterable[SortedState],
    correction: Correction,
    *,
    denominator: Denominator | str = Denominator.PROPOSED,
    n_samples: int | None = None,
) -> Moments[Floats]:
    """`exact` of states that are sorted already, by the sign of A if the correction looks at it."""
    require_uncentred(correction, "measure it with moments.exact")
    denominator = Denominator(denominator)
    thresholds = _thresholds(correction)
    batch_rate = None
    if denominator is Denominator.ACCEPTED:
        batch_rate = np.mean([state.acceptance_rate(correction, thresholds) for state in states], axis=0)
    rows = [state.statistics(correction, denominator, thresholds, batch_rate) for state in states]
    columns = {
        field.name: np.stack([getattr(row, field.name) for row in rows], axis=-1)
        for field in dataclasses.fields(StateStatistics)
    }
    return combine(StateStatistics(**columns), denominator, n_samples)


def _thresholds(correction: Correction) -> tuple[int, ...]:
    """The shape (thresholds,) of the parameters that are no numbers; (1,) if all are numbers."""
    shapes = {name: np.shape(value) for name, value in correction.parameters().items() if np.ndim(value)}
    thresholds = next(iter(shapes.values()), (1,))
    for name, shape in shapes.items():
        if len(shape) != 1 or shape != thresholds:
            raise ValueError(
                f"{correction.name}: {name} has shape {shape}: along a path each parameter is a number or has the one "
                f"shape (thresholds,), here {thresholds}"
            )
    return thresholds
