"""Slices of the tokens: against a plain count, however the dump is cut."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.measure.breakdowns import FIGURES, Breakdowns
from jackpot_sim.diagnose.results import Breakdown
from jackpot_sim.readers.table import TokenTable
from tests.diagnose.measure.tables import cut, drawn, filled


def full(sequences: int = 60, seed: int = 0) -> TokenTable:
    table = drawn(sequences, seed, scale=1.0)
    generator = np.random.default_rng(seed)
    return dataclasses.replace(
        table,
        entropy=generator.exponential(size=len(table)),
        step=np.arange(sequences) // 20 + 5,
        weight_version=np.sort(generator.integers(0, 4, size=len(table))),
    )


def by_name(batches: list[Batch]) -> dict[str, Breakdown]:
    return {each.by: each for each in filled(Breakdowns, batches).results()}


@pytest.mark.parametrize("sizes", [(), (10, 30, 1)])
def test_the_slices_are_those_of_a_plain_count(sizes: tuple[int, ...]) -> None:
    table = full()
    found = by_name(cut(table, *sizes))
    assert table.step is not None
    assert table.weight_version is not None
    assert table.entropy is not None
    assert table.actor_log_probs is not None
    step = table.step[table.owner]
    newest = {each: table.weight_version[step == each].max() for each in np.unique(step)}
    lag = np.array([newest[each] for each in step]) - table.weight_version
    length, q = table.lengths[table.owner], np.exp(table.actor_log_probs)
    wanted = {
        ("position", "0"): table.position == 0,
        ("position", "4–7"): (table.position >= 4) & (table.position <= 7),
        ("length", "8–15"): length >= 8,
        ("entropy", "0.3–1"): (table.entropy >= 0.3) & (table.entropy < 1),
        ("probability", "0.25–0.5"): (q >= 0.25) & (q < 0.5),
        ("probability", "0.999–1"): q >= 0.999,
        ("step", "6"): step == 6,
        ("weight-version", "2"): table.weight_version == 2,
        ("lag", "1"): lag == 1,
    }
    ratio = Batch(table, 0).log_ratio
    for (by, name), live in wanted.items():
        (row,) = [row for row in found[by].rows if row.slice == name]
        assert (row.tokens, row.sequences) == (live.sum(), len(np.unique(table.owner[live]))), (by, name)
        assert row.figures["k1"] == pytest.approx(-ratio[live].mean(), rel=1e-12)
        assert row.figures["k3"] == pytest.approx((np.exp(ratio) - 1 - ratio)[live].mean(), rel=1e-12)
        assert row.figures["far_share"] == pytest.approx((np.abs(ratio) > 1)[live].mean(), rel=1e-12)
        assert tuple(row.figures) == FIGURES
    for breakdown in found.values():
        assert sum(row.tokens for row in breakdown.rows) == len(table), breakdown.by


@pytest.mark.parametrize("sizes", [(), (10, 30, 1)])
def test_a_step_has_the_mean_of_the_rewards_that_are_known(sizes: tuple[int, ...]) -> None:
    reward = np.random.default_rng(1).normal(size=60)
    reward[[3, *range(20, 40)]] = np.nan
    table = dataclasses.replace(full(), reward=reward)
    rows = {row.slice: row.figures["reward"] for row in by_name(cut(table, *sizes))["step"].rows}
    assert rows == {
        "5": pytest.approx(np.nanmean(reward[:20]), rel=1e-12),
        "6": None,
        "7": pytest.approx(reward[40:].mean(), rel=1e-12),
    }


def test_a_dump_shows_only_what_it_has() -> None:
    assert set(by_name(cut(drawn(5)))) == {"position", "length", "probability"}
    table = dataclasses.replace(full(), step=None)
    assert set(by_name(cut(table))) == {"position", "length", "entropy", "probability", "weight-version"}
    assert Breakdowns().results() == []


def test_tokens_without_an_entropy_are_in_no_slice_of_it() -> None:
    table = full()
    assert table.entropy is not None
    entropy = np.where(np.arange(len(table)) < 100, np.nan, table.entropy)
    for missing in (entropy, np.full(len(table), np.nan)):
        found = by_name(cut(dataclasses.replace(table, entropy=missing), 20))
        rows = found["entropy"].rows if "entropy" in found else []
        assert sum(row.tokens for row in rows) == np.isfinite(missing).sum()


def test_files_with_and_without_versions_are_counted_as_far_as_they_go() -> None:
    first, second = full(seed=1), dataclasses.replace(full(seed=2), weight_version=None)
    found = by_name([Batch(first, 0), Batch(second, first.sequences)])
    assert sum(row.tokens for row in found["lag"].rows) == len(first)
    assert sum(row.tokens for row in found["step"].rows) == len(first) + len(second)
