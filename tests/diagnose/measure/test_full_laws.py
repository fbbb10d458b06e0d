"""The figures of whole laws over a dump: means over what is known, and percentiles of the sample."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.arrays import Floats
from jackpot_sim.core.topk import TopK
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.figures import figures
from jackpot_sim.diagnose.measure.full_laws import MEANINGS, FullLaws
from jackpot_sim.diagnose.measure.metrics import Metrics
from jackpot_sim.diagnose.measure.sample import Sample
from jackpot_sim.diagnose.measure.trends import Trends
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.measure.tables import cut, drawn, filled, table_of
from tests.diagnose.test_laws import pair


def rollouts(sequences: int, seed: int = 0, scale: float = 0.3, k: int = 8) -> tuple[TokenTable, Floats, Floats]:
    """Sequences of ten tokens drawn from q, with both top-k, and the laws."""
    p, q = pair(10 * sequences, seed=seed, scale=scale)
    token = np.argmax(q + np.random.default_rng(seed).gumbel(size=q.shape), axis=1)
    rows = np.arange(len(q))
    table = table_of(p[rows, token], q[rows, token], np.full(sequences, 10), token=token)
    return dataclasses.replace(table, actor_topk=TopK.of(q, k), policy_topk=TopK.of(p, k)), p, q


def of(batches: list[Batch]) -> dict[str, Figure]:
    return figures(filled(Metrics, batches), filled(FullLaws, batches), filled(Sample, batches))


def test_the_figures_hold_those_of_the_laws() -> None:
    table, p, q = rollouts(100)
    found, z = of(cut(table, 30, 1)), obrs.overlap(p, q)
    value = {name: found[name].value or 0.0 for name in MEANINGS}
    assert value["overlap_low"] <= z.mean() <= value["overlap_high"]
    assert value["overlap_p5_low"] <= np.quantile(z, 0.05) <= value["overlap_p5_high"]
    variation = divergences.total_variation(p, q).mean()
    assert value["total_variation_low"] <= variation <= value["total_variation_high"]
    kl = found["kl_actor_policy"]
    assert kl.low is not None
    assert kl.high is not None
    assert kl.low < divergences.kl(q, p).mean() < kl.high
    assert value["kl_actor_policy_low"] < divergences.kl(q, p).mean()
    assert value["kl_policy_actor_low"] < divergences.kl(p, q).mean()
    assert value["top_k_share"] == 1


def test_tokens_without_top_k_are_left_out_of_the_means() -> None:
    table, _, _ = rollouts(60)
    other = drawn(60, seed=3)
    other = dataclasses.replace(other, token=np.zeros(len(other), dtype=np.int64))
    alone, both = of(cut(table)), of([Batch(table, 0), Batch(other, 60)])
    for name in MEANINGS:
        if name != "top_k_share":
            assert both[name].value == pytest.approx(alone[name].value, rel=1e-12), name
    assert both["top_k_share"].value == pytest.approx(600 / (600 + len(other)))
    assert not {*MEANINGS} & {*of(cut(other))}


def test_laws_whose_mass_exceeds_1_by_rounding_have_an_overlap() -> None:
    """The actor is the policy, and every law has a mass of 1 + 9e-5, as rounding may leave it."""
    actor = np.log(np.full((100, 10), 0.1 * (1 + 9e-5)))
    table = table_of(actor[:, 0], actor[:, 0], np.full(20, 5), token=np.zeros(100, dtype=np.int64))
    both = TopK(np.tile(np.arange(10, dtype=np.int32), (100, 1)), actor.astype(np.float32))
    table = dataclasses.replace(table, actor_topk=both, policy_topk=both)
    found = of(cut(table))
    assert found["overlap_low"].value == pytest.approx(1, abs=1e-4)
    assert found["overlap_low"].high == 1
    assert found["total_variation_high"].low == 0


def test_the_alarm_of_the_overlap_rings_where_the_percentile_is_below_for_sure() -> None:
    near, far = (rollouts(60, seed, scale)[0] for seed, scale in ((0, 0.05), (1, 1.0)))
    tables = [dataclasses.replace(each, step=np.full(60, 4 + place)) for place, each in enumerate((near, far))]
    trends = filled(Trends, [Batch(each, 60 * at) for at, each in enumerate(tables)])
    alarms = {each.name: each.step for each in trends.alarms()}
    assert alarms["overlap"] == 5
    assert (of(cut(far))["overlap_p5_high"].value or 1) < 0.86 < (of(cut(near))["overlap_p5_high"].value or 0)
