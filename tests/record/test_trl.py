"""The recording mixin in a real training of TRL on the CPU, without vLLM."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.record import Recorder
from jackpot_sim.record.trl import RecordsRollouts
from tests.environments.tiny_checkpoints import save_checkpoint

trl, torch, datasets = (pytest.importorskip(name) for name in ("trl", "torch", "datasets"))

STEPS, LENGTH = 2, 6


class Recording(RecordsRollouts, trl.GRPOTrainer):
    """A trainer as a user writes it."""


def reward(completions: list[str], **_: Any) -> list[float]:
    return [float(len(set(text.split()))) for text in completions]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("trl") / "policy", 3)


def trained(kind: Any, checkpoint: Path, folder: Path, recorder: Recorder | None = None, **options: Any) -> Any:
    """A trainer after a few steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, and torch's of the CPU
        usual: dict[str, Any] = {
            "output_dir": str(folder / "out"),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "seed": 5,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": LENGTH,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        config = trl.GRPOConfig(**usual | options)
        trainer = kind(
            model=str(checkpoint),
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in ("a b", "c", "d a", "b")]),
        )
        if recorder is not None:
            trainer.recorder = recorder
        trainer.train()
    return trainer


def table_of(folder: Path) -> TokenTable:
    (table,) = open_dump([folder]).tables()
    return table


def ratios(table: TokenTable) -> Any:
    assert table.policy_log_probs is not None
    assert table.actor_log_probs is not None
    return table.policy_log_probs - table.actor_log_probs


def test_both_sides_of_each_token_are_recorded_and_training_goes_on_as_without(
    checkpoint: Path, tmp_path: Path
) -> None:
    """The sampler is the policy itself, so that the sides differ by the rounding of float32 alone."""
    options = {"temperature": 0.7, "off_policy_mask_threshold": 1e-9}
    recording = trained(Recording, checkpoint, tmp_path, Recorder(tmp_path / "rollouts"), **options)
    plain = trained(trl.GRPOTrainer, checkpoint, tmp_path, **options)
    for name, weights in recording.model.state_dict().items():
        assert torch.equal(weights, plain.model.state_dict()[name]), name
    table = table_of(tmp_path / "rollouts")
    assert np.abs(ratios(table)).max() < 1e-5
    assert np.abs(ratios(table)).max() > 0, "the actor's side is a copy of the policy's"
    assert table.reward is not None
    assert table.advantages is not None
    assert table.step is not None
    assert table.step.tolist() == [0] * 4 + [1] * 4
    assert table.lengths.max() <= LENGTH
    assert table.mask.all()
    assert table.token is not None
    for row in range(table.sequences):
        own = table.token[table.starts[row] : table.starts[row + 1]]
        assert table.reward[row] == len({*own.tolist()} - {0})
    # TRL scales the advantages of the two completions of a prompt to equal sizes.
    of_sequences = table.advantages[table.starts[:-1]].reshape(-1, 2)
    assert np.allclose(of_sequences.sum(axis=1), 0.0, atol=1e-6)
    assert table.name == tuple(f"{step}-0-0-{row}" for step in range(2) for row in range(4))


def test_the_actor_is_the_law_that_is_drawn_from(checkpoint: Path, tmp_path: Path) -> None:
    """With top-k 2 of five words its law is renormalised, and its log-probs are above the policy's at every token."""
    trained(Recording, checkpoint, tmp_path, Recorder(tmp_path / "rollouts"), top_k=2)
    table = table_of(tmp_path / "rollouts")
    assert (ratios(table) < 1e-5).all()
    assert ratios(table).min() < -0.01


def test_tokens_of_a_sampler_of_its_own_are_taken_as_it_gives_them(checkpoint: Path, tmp_path: Path) -> None:
    """As vLLM's: a rollout function returns the log-probs, and TRL keeps them."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = [[1, 2, 3], [4, 0], [2, 0], [3, 3, 0]] * (len(prompts) // 4)
        return {
            "prompt_ids": [[1]] * len(ids),
            "completion_ids": ids,
            "logprobs": [[-0.5 - token for token in own] for own in ids],
        }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = type(
            "Own", (Recording,), {"__init__": lambda self, **kw: Recording.__init__(self, **kw, rollout_func=rollout)}
        )
        trained(kind, checkpoint, tmp_path, Recorder(tmp_path / "rollouts"))
    table = table_of(tmp_path / "rollouts")
    assert table.token is not None
    assert table.actor_log_probs is not None
    assert table.actor_log_probs.tolist() == (-0.5 - table.token).tolist()
