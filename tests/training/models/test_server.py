"""Training on rollouts of a server, in each flavour: ids, or texts that the policy's tokenizer aligns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")

from jackpot_sim.environments.engines.server import client
from jackpot_sim.environments.language_models.checkpoints import Precision, load
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.loop.run import STEPS, train
from tests.cases import each
from tests.environments.engines.stand_in import StandIn, serving
from tests.training.tiny import JACKPOT, run_of, trainer_of

BATCH = 4 * 4


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


def study(url: str, checkpoints: Path, folder: Path) -> dict[str, Any]:
    problems = [{"prompt": prompt, "answer": "a"} for prompt in ("a b", "c", "b d", "d", "a c", "c c")]
    (folder / "problems.jsonl").write_text("".join(json.dumps(each) + "\n" for each in problems), encoding="utf-8")
    return JACKPOT | {
        "policy": {"kind": "checkpoint", "path": str(checkpoints / "policy")},
        "task": {"kind": "prompts", "prompts": str(folder / "problems.jsonl"), "reward": "answer"},
        "rollout": {"length": 5, "topk": 4},
        "actor": {"kind": "served", "source": {"kind": "server", "url": url, "topk": 3, "retries": 0}},
    }


@each("flavour", ["vllm", "sglang", "llama.cpp", "tgi", "openai"])
def test_two_steps_of_training(checkpoints: Path, tmp_path: Path, flavour: str) -> None:
    served = load(checkpoints / "policy", precision=Precision.FP32, device="cpu")
    # One that hides the end token ends no rollout: those that ended at once would be empty.
    with serving(StandIn(served.model, served.tokenizer, flavour, ())) as server:
        trainer = trainer_of(run_of(study(server.url, checkpoints, tmp_path)), tmp_path)
        first, second = trainer.advance(), trainer.advance()
        assert len(server.asked) == 2 * BATCH
    assert abs(first["kl_policy_actor"]) < 1e-5, "the first policy is the model that is served"
    assert second["kl_policy_actor"] > 1e-5, "the policy moves, and the server's stays"
    assert 0.5 < second["acceptance_rate"] <= 1


def test_a_server_that_fails_is_no_policy_that_diverges(checkpoints: Path, tmp_path: Path) -> None:
    """A run that diverges is finished; one whose server is away goes on when the same command finds it again."""
    served = load(checkpoints / "policy", precision=Precision.FP32, device="cpu")
    folder = tmp_path / "run"
    with serving(StandIn(served.model, served.tokenizer, "vllm", ())) as server:
        run = run_of(study(server.url, checkpoints, tmp_path))
        server.faults.extend([None] * BATCH)
        server.always = "500"
        with pytest.raises(StudyError, match="rollouts are kept, and the same command goes on from there"):
            train(run, folder, tmp_path)
        assert not (folder / STEPS).exists(), "the run is not finished"
        server.always = None
        train(run, folder, tmp_path)
        assert len(server.asked) >= 2 * BATCH
    assert (folder / STEPS).exists()
