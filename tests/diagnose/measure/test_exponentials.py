"""Means of exponentials: what is merged is what was added, and no interval where groups hide the tail."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.batch import GROUPS
from jackpot_sim.diagnose.measure.exponentials import Exponentials


def of(*values: Floats) -> Exponentials:
    """Arrays, (groups, units), each added to one of its own and merged."""
    whole = Exponentials()
    for each in values:
        part = Exponentials()
        group = np.repeat(np.arange(len(each)), each.shape[1])
        part.add(
            each.ravel(), lambda *columns, g=group: np.stack([np.bincount(g, c, GROUPS) for c in columns], axis=-1)
        )
        whole.merge(part)
    return whole


@pytest.mark.parametrize("shift", [0.0, -1000.0, 250.0])
def test_the_order_of_the_largest_does_not_matter(shift: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)) + shift
    forth, back = of(x[:, :2] + 3, x[:, 2:]), of(x[:, 2:], x[:, :2] + 3)
    assert forth.effective_share()[0] == pytest.approx(back.effective_share()[0], rel=1e-12)
    assert forth.effective_share()[1].se == pytest.approx(back.effective_share()[1].se, rel=1e-9)
    assert forth.largest_share() == pytest.approx(back.largest_share(), rel=1e-12)
    for power in (1, 2):
        assert forth.mean_excess(power)[0] == pytest.approx(back.mean_excess(power)[0], rel=1e-12)
    both = np.concatenate([x[:, :2] + 3, x[:, 2:]], axis=1)
    weight = np.exp(both - both.max())
    assert forth.effective_share()[0] == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / weight.size, rel=1e-12)


@pytest.mark.parametrize(
    ("units", "sigma", "resolved"), [(1, 0.5, True), (4, 0.5, True), (256, 0.5, True), (256, 1.7, False)]
)
def test_groups_of_many_units_hide_the_tail_of_their_weights(units: int, sigma: float, resolved: bool) -> None:
    """The means of 256 weights with log-variance 2.9 spread by 0.92, which those of single ones may."""
    x = sigma * np.random.default_rng(0).normal(size=(GROUPS, units)) - sigma**2 / 2
    found = of(x)
    for interval in (found.mean_excess(2)[1], found.effective_share()[1]):
        assert np.isfinite(interval.low) == resolved
