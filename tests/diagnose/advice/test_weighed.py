"""The figures of the advice are those of their formulas, whatever the blocks in which they are summed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.diagnose.advice.weighed import Weighed, figures, left_out
from jackpot_sim.estimators import Tokens
from tests.cases import each
from tests.diagnose.advice.worlds import gaussian, kept, sample

RNG = np.random.default_rng(0)
LOG_RATIO = 0.7 * RNG.standard_normal((40, 9)) - 0.1
ACTOR = -RNG.exponential(1.0, LOG_RATIO.shape) - 3
ADVANTAGES = RNG.standard_normal(LOG_RATIO.shape)

CORRECTIONS = [
    *(estimators.get(name) for name in ("none", "is", "tis", "mis", "tv-mask", "obrs", "mask-k3", "dppo-tv")),
    estimators.get("sequence-tis"),
    estimators.get("sequence-mis"),
]


@each("correction", CORRECTIONS)
def test_figures_are_those_of_their_formulas(correction: estimators.Correction) -> None:
    table = sample(LOG_RATIO, ACTOR, ADVANTAGES)
    found = figures(Weighed(table).sums(correction).sum(axis=0))
    tokens = Tokens(LOG_RATIO, actor_log_probs=ACTOR, policy_log_probs=ACTOR + LOG_RATIO, advantages=ADVANTAGES)
    accept, w = (np.asarray(x) for x in correction.weights(tokens))
    v = accept * w
    whole = correction.level is estimators.Level.SEQUENCE
    r = np.exp(LOG_RATIO.sum(1, keepdims=True) + 0 * LOG_RATIO if whole else LOG_RATIO)
    size = np.abs(ADVANTAGES)
    assert found.keep == pytest.approx(float((np.minimum(v, r) * size).sum() / (r * size).sum()))
    assert found.ess == pytest.approx(float(v.sum() ** 2 / (v.size * (v * w).sum())))
    assert found.bias == pytest.approx(float(np.abs(r / r.sum() - v / v.sum()).sum() / 2), abs=1e-15)
    assert found.share == pytest.approx(float(accept.mean()))


def test_exact_weights_leave_nothing_and_none_leaves_the_total_variation() -> None:
    weighed = Weighed(gaussian(4000, 10, 0.5, 0.0))
    exact, none, tis = (figures(weighed.sums(estimators.get(name)).sum(axis=0)) for name in ("is", "none", "tis"))
    assert exact.bias == pytest.approx(0.0, abs=1e-12)
    assert exact.keep == pytest.approx(1.0)
    # TV = 1 − E[min(1, r)]; 40,000 tokens whose |r − 1| has a standard deviation of 0.4.
    assert none.bias == pytest.approx(1 - kept(1.0, 0.5), abs=0.01)
    assert tis.keep == pytest.approx(kept(2.0, 0.5), abs=0.005)


def test_without_a_group_the_sums_are_those_of_the_others() -> None:
    table = sample(LOG_RATIO, ACTOR)
    sums = Weighed(table).sums(estimators.get("tis"))
    rest = table.take(np.arange(1, table.sequences))
    assert rest is not None
    without = figures(left_out(sums)[0])
    expected = figures(Weighed(rest).sums(estimators.get("tis")).sum(axis=0))
    assert without.keep == pytest.approx(expected.keep)
    assert without.ess == pytest.approx(expected.ess)


def test_jackpot_is_weighed_only_where_there_is_an_overlap() -> None:
    table = sample(LOG_RATIO, ACTOR)
    assert Weighed(table).overlap(1.0) is None
    with pytest.raises(ValueError, match="overlap"):
        Weighed(table).sums(estimators.get("jackpot"))


def test_sequences_beyond_the_groups_share_them() -> None:
    table = gaussian(1500, 2, 0.3, 0.0)
    weighed = Weighed(dataclasses.replace(table))
    sums = weighed.sums(estimators.get("tis"))
    assert sums.shape == (512, 8)
    assert sums[:, 7].sum() == len(table)
    assert sums[0, 7] == 2 * len(range(0, 1500, 512))
