"""Alarms: the first step that crosses a bound for sure, and not one that is only noisy."""

from __future__ import annotations

import dataclasses

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.diagnose.measure.trends import RULES, Trends
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.measure.tables import cut, drawn, filled, table_of


def stepped(scales: list[float], sequences: int = 40, seed: int = 0, shift: float = 0.0) -> TokenTable:
    """Steps, one for each scale of ℓ, with their sequences one after the other."""
    generator = np.random.default_rng(seed)
    lengths = np.full(sequences * len(scales), 25)
    scale = np.repeat(scales, sequences * 25)
    ratio = scale * generator.normal(size=len(scale)) - scale**2 / 2 + shift
    actor = np.log(generator.uniform(0.2, 1, size=len(scale)))
    table = table_of(actor + ratio, actor, lengths)
    return dataclasses.replace(table, step=np.repeat(np.arange(len(scales)) + 100, sequences))


def first(table: TokenTable, *sizes: int) -> dict[str, int | None]:
    return {each.name: each.step for each in filled(Trends, cut(table, *sizes)).alarms()}


def test_alarms_ring_at_the_first_step_beyond_their_bounds() -> None:
    table = stepped([0.02, 0.02, 0.02, 0.06, 0.5, 1.3])
    found = first(table)
    assert found == {
        "k3": 104,  # k3 is about s²/2
        "k3-rise": 103,
        "probability-gap": 103,  # about 0.8·s·0.6
        "ess": 105,  # e^−s²
        "confident-disagreement": 105,
    }
    assert first(table, 70, 3, 100) == found


def test_a_step_that_is_only_noisy_does_not_ring() -> None:
    """One token of 2,000 has ℓ = 4: the mean of k3 is above the bound, and its interval holds the bound."""
    ratio: Floats = np.zeros(2000)
    ratio[77] = 4.0
    actor = np.full(2000, -5.0)
    table = dataclasses.replace(table_of(actor + ratio, actor, np.full(20, 100)), step=np.zeros(20, dtype=np.int64))
    assert np.mean(np.exp(ratio) - 1 - ratio) > 0.01
    assert first(table)["k3"] is None
    assert first(dataclasses.replace(stepped([1.0], sequences=7)))["k3"] is None
    assert first(dataclasses.replace(stepped([1.0], sequences=8)))["k3"] == 100


def marked(tokens: list[int]) -> int | None:
    """The step at which the alarm rings of 20 sequences of 50 tokens, of which these disagree confidently."""
    ratio = np.zeros(1000)
    ratio[tokens] = -3.0
    actor = np.full(1000, -0.1)
    table = dataclasses.replace(table_of(actor + ratio, actor, np.full(20, 50)), step=np.full(20, 4))
    return first(table)["confident-disagreement"]


def test_a_share_does_not_ring_for_one_token_or_one_sequence() -> None:
    assert marked([]) is marked([3]) is marked(list(range(50))) is None
    assert marked([3, 77]) is None  # two of a thousand are no more than one of a thousand by more than chance
    assert marked(list(range(0, 1000, 50))) == 4
    assert marked([*range(0, 1000, 100), *range(7, 1000, 100)]) == 4


def test_one_token_of_a_short_step_does_not_ring() -> None:
    """One of 16 tokens is 60 times the bound."""
    ratio = np.zeros(16)
    ratio[5] = -3.0
    actor = np.full(16, -0.1)
    table = dataclasses.replace(table_of(actor + ratio, actor, np.full(8, 2)), step=np.zeros(8, dtype=np.int64))
    assert first(table)["confident-disagreement"] is None


def test_alarms_ring_by_chance_no_more_often_than_they_say() -> None:
    """At the bound itself an interval of 95 % lies beyond it in 2.5 % of steps."""
    scale = np.sqrt(2 * 0.01)
    rung = [first(stepped([scale], 60, seed))["k3"] is not None for seed in range(200)]
    assert 0 < np.mean(rung) < 0.06


def test_ratios_beyond_floats_ring() -> None:
    for largest in (100.0, 200.0, 400.0, 800.0):
        ratio = np.zeros(400)
        ratio[::20] = largest
        actor = np.full(400, -900.0)
        table = dataclasses.replace(table_of(actor + ratio, actor, np.full(20, 20)), step=np.full(20, 7))
        found = first(table)
        assert (found["k3"], found["ess"]) == (7, 7), largest


def test_steps_may_come_in_any_order_and_a_dump_without_them_has_no_alarms() -> None:
    table = stepped([0.02, 0.02, 0.5, 0.02])
    assert table.step is not None
    shuffled = table.take(np.random.default_rng(0).permutation(table.sequences))
    assert shuffled is not None
    assert first(shuffled, 50) == first(table)
    assert filled(Trends, cut(drawn(20))).alarms() == []


def test_rules_without_a_figure_are_not_said_never_to_ring() -> None:
    """There is no overlap without top-k, and no rise before the fourth step."""
    without = {rule.name for rule in RULES} - {"overlap"}
    assert set(first(stepped([0.02] * 4))) == without
    assert set(first(stepped([0.02] * 3))) == without - {"k3-rise"}


def test_a_rule_that_too_few_sequences_keep_from_ringing_is_unsure() -> None:
    def unsure(table: TokenTable) -> set[str]:
        return {each.name for each in filled(Trends, cut(table)).alarms() if each.unsure}

    assert unsure(stepped([0.02] * 2, sequences=8)) == set()
    assert unsure(stepped([0.02] * 2, sequences=7)) == {rule.name for rule in RULES} - {"overlap", "k3-rise"}
    assert unsure(stepped([1.3, 1.3], sequences=8)) == set()
    # A large step of few sequences after one that has enough.
    table = stepped([0.02, 0.5], sequences=8).take(np.arange(12))
    assert table is not None
    assert {"k3", "probability-gap"} <= unsure(table)
    assert "ess" not in unsure(table)
