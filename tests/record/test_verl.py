"""Recording of verl: stand-ins for its trainer and, where it is not installed, for its DataProto."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.record import Recorder
from jackpot_sim.record.verl import RecordsRollouts, record

torch = pytest.importorskip("torch")

B, T = 2, 4
MASK = [[1, 1, 1, 0], [1, 1, 1, 1]]


def fields() -> dict[str, Any]:
    """The columns of verl's batch when the actor is updated."""
    rng = np.random.default_rng(0)

    def floats() -> Any:
        return torch.tensor(-rng.exponential(size=(B, T)), dtype=torch.float32)

    return {
        "responses": torch.tensor(rng.integers(99, size=(B, T))),
        "response_mask": torch.tensor(MASK),
        "rollout_log_probs": floats(),
        "old_log_probs": floats(),
        "advantages": floats(),
        "token_level_scores": torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5]]),
    }


def holds(table: TokenTable, given: dict[str, Any]) -> None:
    """Asserts that the table holds the tokens of the batch's mask before any rejection, bit for bit."""
    mask = np.array(MASK, dtype=bool)
    assert table.lengths.tolist() == [3, 4]
    for name, column in {
        "responses": "token",
        "rollout_log_probs": "actor_log_probs",
        "old_log_probs": "policy_log_probs",
        "advantages": "advantages",
    }.items():
        assert np.array_equal(getattr(table, column), given[name].numpy()[mask]), name
    assert table.reward is not None
    assert table.reward.tolist() == [1.0, 0.5]
    assert table.step is not None
    assert table.step.tolist() == [12, 12]


class Trainer:
    """A stand-in for RayPPOTrainer: the two methods, with what happens to the batch between them."""

    global_steps = 12

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _compute_old_log_prob(self, batch: Any) -> str:
        self.calls.append("old")
        return "old log-probs"

    def _update_actor(self, batch: Any) -> str:
        self.calls.append("update")
        return "output"


class Recording(RecordsRollouts, Trainer):
    """A trainer as a user writes it."""


def proto(given: dict[str, Any]) -> Any:
    """A real DataProto where verl is installed."""
    try:
        from verl import DataProto
    except ImportError:
        return SimpleNamespace(batch=dict(given))
    return DataProto.from_single_dict(given)


def test_a_batch_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    record(Recorder(tmp_path), proto(fields()), 12)
    (table,) = open_dump([tmp_path]).tables()
    holds(table, fields())


def test_rejected_tokens_are_recorded_too(tmp_path: Path) -> None:
    trainer, data = Recording(), proto(fields())
    trainer.recorder = Recorder(tmp_path)
    assert trainer._compute_old_log_prob(data) == "old log-probs"
    data.batch["response_mask"][1, 2] = 0
    assert trainer._update_actor(data) == "output"
    assert trainer.calls == ["old", "update"]
    (table,) = open_dump([tmp_path]).tables()
    holds(table, fields())


def test_a_batch_of_bypass_is_recorded_with_its_own_mask(tmp_path: Path) -> None:
    """No old log-probs are computed there; and no mask of an earlier batch is taken."""
    trainer = Recording()
    trainer.recorder = Recorder(tmp_path)
    trainer._compute_old_log_prob(proto(fields() | {"response_mask": torch.ones(B, T)}))
    trainer._update_actor(proto(fields()))
    for path in tmp_path.iterdir():
        path.unlink()
    trainer._update_actor(proto(fields()))
    (table,) = open_dump([tmp_path]).tables()
    holds(table, fields())


def test_a_batch_without_log_probs_of_the_rollout_has_one_side(tmp_path: Path) -> None:
    given = fields()
    del given["rollout_log_probs"]
    record(Recorder(tmp_path), proto(given), 12)
    assert open_dump([tmp_path]).sides == {"policy_log_probs"}


def test_the_methods_are_those_of_verl() -> None:
    """Their source is read: to import it needs what a trainer on a cluster needs."""
    verl = pytest.importorskip("verl")
    source = (Path(verl.__file__).parent / "trainer" / "ppo" / "ray_trainer.py").read_text()
    (trainer,) = (node for node in ast.parse(source).body if getattr(node, "name", "") == "RayPPOTrainer")
    methods = {node.name: ast.unparse(node) for node in ast.walk(trainer) if isinstance(node, ast.FunctionDef)}
    assert {"_compute_old_log_prob", "_update_actor"} <= methods.keys()
    at = [
        methods["fit"].find(each) for each in ("._compute_old_log_prob(batch)", "_rollout_correction_and_add_to_batch(")
    ]
    assert (
        0 < at[0] < at[1] < methods["fit"].find("= compute_advantage(") < methods["fit"].find("._update_actor(batch)")
    )
    assert "self.global_steps += 1" in methods["fit"]
