"""Thresholds are the nearest to the default that meet a target, and their intervals cover the true ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from jackpot_sim.diagnose.advice.families import SEQUENCES, TOKENS, Family
from jackpot_sim.diagnose.advice.targets import Target
from jackpot_sim.diagnose.advice.thresholds import Threshold, slack, threshold
from jackpot_sim.diagnose.advice.weighed import Weighed, figures
from tests.cases import each
from tests.diagnose.advice.worlds import gaussian, kept, sample

FAMILIES = {family.name: family for family in (*TOKENS, *SEQUENCES)}
ALONE = Target(keep=0.98, ess=0.01)


def with_probabilities() -> Weighed:
    """Tokens of all probabilities, so that rules on |p − q| have something to bound."""
    rng = np.random.default_rng(3)
    actor = -rng.exponential(1.5, (200, 12)) - 0.2
    return Weighed(sample(np.minimum(0.6 * rng.standard_normal(actor.shape) - 0.18, -actor - 0.01), actor))


SAMPLE = with_probabilities()
TARGETS = {
    "tis": [Target(keep=0.995), Target(ess=0.87, keep=0.5), Target(bias=0.01)],
    "mis": [Target(keep=0.9999), Target(ess=0.7, keep=0.1)],
    "tv-mask": [Target(keep=0.999), Target(ess=0.5, keep=0.3)],
    "binary-kl-mask": [Target(keep=0.99)],
    "obrs": [Target(keep=0.2, ess=0.2, bias=0.05)],
}


@each("name, target", [(name, target) for name, targets in TARGETS.items() for target in targets])
def test_a_threshold_meets_its_target_and_one_nearer_to_the_default_does_not(name: str, target: Target) -> None:
    family = FAMILIES[name]
    found = threshold(SAMPLE, family, target)
    assert slack(found.figures, target) >= 0
    if found.is_default:
        assert found.value == family.default
        return
    assert found.low <= found.value <= found.high
    assert len(f"{found.value - family.above:.9g}".strip("0.").replace(".", "")) <= 3
    nearer = float(family.at(0.97 * family.scaled(found.value) + 0.03 * family.scaled(family.default)))
    assert slack(figures(SAMPLE.sums(family.made(nearer)).sum(axis=0)), target) < 0


def test_every_kind_of_threshold_moves_in_this_sample() -> None:
    moved = {name for name, targets in TARGETS.items() for t in targets if not _found(FAMILIES[name], t).is_default}
    assert moved == set(TARGETS)
    values = [_found(FAMILIES["tis"], target).value for target in TARGETS["tis"]]
    assert min(values) < 2 < max(values)


def _found(family: Family, target: Target) -> Threshold:
    return threshold(SAMPLE, family, target)


def test_a_target_that_nothing_meets_has_no_threshold() -> None:
    found = threshold(SAMPLE, FAMILIES["mask-k3"], Target(keep=1.0))
    assert math.isnan(found.value)
    assert found.is_missed
    assert not found.is_met
    assert found.slack < 0


def test_too_few_sequences_leave_it_open() -> None:
    found = threshold(Weighed(gaussian(6, 10, 0.6, 0.2)), FAMILIES["tis"], ALONE)
    assert math.isnan(found.low)
    assert not found.is_met
    assert not found.is_missed


def test_a_default_that_meets_the_target_by_far_is_sure() -> None:
    found = threshold(Weighed(gaussian(100, 10, 0.2, 0.0)), FAMILIES["tis"], Target())
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.is_met


@pytest.mark.parametrize(("own", "shared", "keep"), [(0.6, 0.2, 0.98), (0.4, 0.4, 0.97)])
def test_the_interval_covers_the_true_threshold(own: float, shared: float, keep: float) -> None:
    """The true clip solves E[min(r, C)] = keep; with (0.4, 0.4) it is 2.2, close to the default at which it is cut."""
    spread = math.hypot(own, shared)
    true = max(brentq(lambda clip: kept(clip, spread) - keep, 1.01, 50.0), 2.0)
    covered = []
    for seed in range(60):
        found = threshold(Weighed(gaussian(24, 10, own, shared, seed)), FAMILIES["tis"], Target(keep=keep, ess=0.01))
        covered.append(found.low <= true <= found.high)
    # A binomial of 60 at 0.95 has a standard deviation of 0.028.
    assert np.mean(covered) >= 0.88
