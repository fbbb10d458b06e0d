"""The figures of the target stand beside the effects, and the advised correction among them."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.diagnose.advice.aimed import aimed
from jackpot_sim.diagnose.advice.weighed import Weighed, figures
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.results import Effect
from jackpot_sim.diagnose.what_if.candidates import candidates
from jackpot_sim.diagnose.what_if.effects import Effects
from tests.cases import each
from tests.diagnose.advice.worlds import gaussian

SAMPLE = gaussian(40, 6, 0.4, 0.1)
EFFECTS = Effects(candidates(("tis(clip=3)",)))
EFFECTS.add(Batch(SAMPLE, 0))


def named(effects: list[Effect], name: str) -> Effect:
    return next(each for each in effects if each.name == name)


def test_the_figures_are_those_of_the_advice() -> None:
    found = aimed(EFFECTS.results(), None, SAMPLE, 1)
    assert [each.name for each in found] == [each.name for each in EFFECTS.results()]
    for name in ("tis", "mis", "sequence-tis", "none"):
        own = figures(Weighed(SAMPLE).sums(estimators.get(name)).sum(axis=0))
        assert (named(found, name).keep, named(found, name).bias) == pytest.approx((own.keep, own.bias), rel=1e-12)
    assert named(found, "m2po").bias is None, "which looks at a batch"
    assert named(found, "jackpot").refused, "without top-k"


def test_rejection_at_random_leaves_the_total_variation_of_tokens_or_sequences() -> None:
    found = aimed(EFFECTS.results(), None, SAMPLE, 1)
    assert SAMPLE.policy_log_probs is not None
    assert SAMPLE.actor_log_probs is not None
    log_ratio = (SAMPLE.policy_log_probs - SAMPLE.actor_log_probs).reshape(40, 6)
    for name, logs in (("mis", log_ratio), ("sequence-mis", log_ratio.sum(axis=1))):
        r = np.exp(logs) / np.exp(logs).mean()
        assert named(found, name).random_control["bias"] == pytest.approx(abs(r - 1).mean() / 2, rel=1e-12)


@each("name, label", [("tis(clip=2)", "tis(clip=2, floor=0)"), ("tis(clip=1.5)", "tis(clip=1.5, floor=0)")])
def test_the_advised_one_stands_after_your_own(name: str, label: str) -> None:
    effects = EFFECTS.results()
    found = aimed(effects, name, SAMPLE, 1)
    assert [each.name for each in found[:3]] == ["tis(clip=3)", name, effects[1].name]
    assert found[1].label == label
    alone = Effects(candidates((name,))[:1])
    alone.add(Batch(SAMPLE, 0))
    assert found[1].ess == alone.results()[0].ess
    assert len(aimed(effects, "tis(clip=3)", SAMPLE, 1)) == len(effects), "it is there already"


def test_no_law_is_left_where_all_is_dropped() -> None:
    all_dropped = Effects(candidates(("mis(low=1000, high=2000)",))[:1])
    all_dropped.add(Batch(SAMPLE, 0))
    (found,) = aimed(all_dropped.results(), None, SAMPLE, 1)
    assert (found.keep, found.bias) == (0, None)
    assert aimed(EFFECTS.results(), "tis(clip=1.5)", None, 1) == EFFECTS.results()
