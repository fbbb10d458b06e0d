"""Training on rollouts that llama.cpp writes with the policy's weights of the moment."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from jackpot_sim.training.actors import Served
from tests.environments.tiny_gguf import write_gguf
from tests.training.tiny import run_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")

from jackpot_sim.environments.language_models import carried  # noqa: E402


def test_a_file_that_stays_as_it_is_is_no_policy_of_the_moment() -> None:
    with pytest.raises(ValidationError, match=r"give source\.format"):
        Served.model_validate({"source": {"kind": "llama-cpp"}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv(carried.CACHE, str(tmp_path / "cache"))
    problems = [{"prompt": f"a {number}", "answer": str(number % 7)} for number in range(8)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems))
    return run_of(
        {
            "policy": {"kind": "checkpoint", "path": str(write_gguf(tmp_path / "tiny.gguf", 0, "F32"))},
            "task": {"kind": "prompts", "prompts": str(tmp_path / "problems.jsonl"), "reward": "answer"},
            "rollout": {"length": 6},
            "actor": {"kind": "served", "source": {"kind": "llama-cpp", "format": "q8_0"}},
        }
    )


def test_a_state_leads_back_to_where_it_was_taken(run: Any, tmp_path: Path) -> None:
    trainer = trainer_of(run, tmp_path)
    first = trainer.advance()
    assert 0 < first["kl_policy_actor"] < 1
    state = copy.deepcopy(trainer.state())
    second, elsewhere = trainer.advance(), trainer_of(run, tmp_path)
    elsewhere.restore(state)
    np.testing.assert_equal(elsewhere.advance(), second)
    assert second["kl_policy_actor"] < 1, "the weights have moved, and the actor's with them"


def test_what_is_served_follows_the_policy(run: Any, tmp_path: Path) -> None:
    trainer = trainer_of(run, tmp_path)

    def log_probs() -> Any:
        problems = trainer.texts.task.problems(np.random.default_rng(0), 2)
        actor = trainer._server.actor()
        return trainer.texts.written(actor, problems, 2, np.random.default_rng(0))[1].log_probs

    before = log_probs()
    np.testing.assert_array_equal(log_probs(), before)
    with torch.no_grad():
        for weight in trainer.policy.parameters():
            weight *= 1.1
    assert np.max(np.abs(log_probs() - before)) > 0.1
