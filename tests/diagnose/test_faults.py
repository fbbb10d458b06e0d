"""Dumps with a known fault say what the fault's description says, in tokens of a real model."""

from __future__ import annotations

import functools

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.readers.table import TokenTable
from tests.cases import each
from tests.diagnose.faults import Strength, bare, clean, faulty
from tests.diagnose.lab import STEPS, Columns, Engine, K, Lab
from tests.diagnose.worlds import Family, World


@functools.cache
def lab() -> Lab:
    return Lab(World(Family(steps=60, sequences=64, tokens=24), 1), (4, 5), Engine.EXACT)


def ratio(table: TokenTable) -> Floats:
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    return table.policy_log_probs - table.actor_log_probs


def away_from_one(table: TokenTable, sign: float) -> float:
    """|mean e^(sign·ℓ) − 1| in standard errors over sequences."""
    values = table.per_sequence(np.expm1(sign * ratio(table)))
    return float(abs(values.sum()) / np.sqrt(np.sum(values**2)))


def test_an_exact_engine_differs_by_rounding_alone_and_yet_differs() -> None:
    for table in clean(lab(), Engine.EXACT):
        assert 0 < np.abs(ratio(table)).max() < 1e-4
        assert table.step is not None
        assert set(table.step) == set(range(STEPS))
        assert len(table.columns) == 12
        assert table.actor_topk is not None
        assert table.actor_topk.k == K


def test_tokens_follow_the_actor_under_a_temperature_and_the_policy_under_raw_log_probs() -> None:
    for table in faulty(lab(), "temperature", Strength.HALF):
        assert away_from_one(table, 1) < 4 < away_from_one(table, -1)
    for table in faulty(lab(), "raw-scaled", Strength.HALF):
        assert away_from_one(table, -1) < 4 < away_from_one(table, 1)


def test_raw_log_probs_on_both_sides_leave_no_mismatch() -> None:
    for table in faulty(lab(), "raw-both", Strength.FULL):
        assert np.abs(ratio(table)).max() < 1e-4


@each("fault, least", [("top-p", np.log(0.7)), ("top-k", -np.inf)])
def test_truncation_takes_the_kept_mass_from_every_token(fault: str, least: float) -> None:
    for table in faulty(lab(), fault, Strength.FULL):
        assert ratio(table).max() < 1e-4
        assert ratio(table).min() > least - 1e-4
        assert ratio(table).mean() < -0.05


def test_the_faults_of_columns_touch_one_column_alone() -> None:
    for fault in ("misaligned", "placeholder", "bypass"):
        for before, after in zip(lab().tables(plain()), faulty(lab(), fault, Strength.HALF), strict=True):
            assert before.token is not None
            assert np.array_equal(before.token, after.token)
            sides = [
                np.array_equal(getattr(before, each), getattr(after, each), equal_nan=True)
                for each in ("actor_log_probs", "policy_log_probs")
            ]
            assert sorted(sides) == [False, True]


def plain() -> Columns:
    return Columns(lab().plain.tokens, lab().plain.drawn, lab().plain_law, lab().step)


def test_one_seed_gives_the_same_dump_whatever_is_made_beside_it() -> None:
    alone = Lab(lab().world, (5,), Engine.EXACT)
    (first,), second = faulty(alone, "temperature", Strength.HALF), faulty(lab(), "temperature", Strength.HALF)[1]
    assert np.array_equal(first.token, second.token)
    assert np.allclose(ratio(first), ratio(second), atol=1e-4)


def test_a_bare_dump_keeps_both_log_probs_tokens_and_steps() -> None:
    table = bare(faulty(lab(), "top-p", Strength.WEAK)[0])
    assert table.columns == {
        *("position", "mask", "actor_log_probs", "policy_log_probs", "token", "advantages", "reward", "step")
    }
