"""The example that ships, and the command that makes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jackpot_sim.diagnose.diagnose import EXAMPLE
from jackpot_sim.readers.open_dump import open_dump

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_the_one_that_ships_holds_both_sides_and_their_likeliest_tokens() -> None:
    (table,) = open_dump([EXAMPLE]).tables()
    assert {"actor_topk", "policy_topk", "token", "advantages", "entropy", "reward"} <= table.columns
    assert table.actor_topk is not None
    assert table.actor_topk.k == 20
    assert 1000 < len(table) < 10_000


def test_a_dump_is_made_by_a_model_and_its_quantised_self(tmp_path: Path) -> None:
    from jackpot_sim.diagnose.example.__main__ import Sizes, make
    from jackpot_sim.environments.language_models.example import Example, Size
    from jackpot_sim.environments.language_models.formats import Format

    models = Example(
        vocab=300,
        steps=3,
        prompts=2,
        max_bytes=60_000,
        context=32,
        actor=Size(hidden=64, layers=1),
        policy=Size(hidden=64, layers=1),
    )
    out = tmp_path / "dump.parquet"
    tokens = make(out, Format.INT4, Sizes(models=models, rollouts=3, length=4, topk=5))
    (table,) = open_dump([out]).tables()
    assert (len(table), table.sequences) == (tokens, 6)
    actor, policy, token = table.actor_log_probs, table.policy_log_probs, table.token
    assert actor is not None
    assert policy is not None
    assert token is not None
    assert 0 < np.max(np.abs(policy - actor)) < 1
    for topk, side in ((table.actor_topk, actor), (table.policy_topk, policy)):
        assert topk is not None
        row, place = np.nonzero(topk.ids == token[:, None])
        assert len(row)
        np.testing.assert_allclose(topk.log_probs[row, place], side[row], atol=1e-6)
    assert [*tmp_path.iterdir()] == [out]
