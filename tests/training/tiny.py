"""Runs so small that a test trains several of them, one for every mode of the actor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jackpot_sim.training import records
from jackpot_sim.training.loop.run import POLICY, STEPS
from jackpot_sim.training.study import Run, Study, laid_over, of_mapping

_MODEL = {"kind": "qwen3", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "initial_scale": 17}
_ACTOR = {"model": _MODEL | {"hidden": 8}, "kl": 1.5}
TINY: dict[str, Any] = {
    "task": {"kind": "addition", "digits": 1},
    "policy": {"kind": "taught", "model": _MODEL, "accuracy": 0.05, "learning_rate": 5e-3},
    "rollout": {"prompts": 4, "samples": 4},
    "update": {"minibatches": 2, "learning_rate": 1e-2},
    "evaluation": {"every": 2, "problems": 2, "samples": 2},
    "steps": 3,
    "checkpoint_every": 1,
}
JACKPOT = {"correction": {"kind": "jackpot", "lam": 1, "c1": 2, "target": "p_new"}}
_FEEDBACK = {"target_kl": 0.1, "gain": 0.5, "least": 0.01, "most": 0.9}
MODES: dict[str, dict[str, Any]] = {
    "on-policy": {},
    "stale": {"actor": {"kind": "stale", "lag": 2}} | JACKPOT,
    "served": {"actor": {"kind": "served", "source": {"kind": "weight-noise", "sigma": 0.1}}},
    "frozen": {"actor": {"kind": "frozen"} | _ACTOR} | JACKPOT,
    "budget": {
        "actor": {"kind": "frozen"} | _ACTOR,
        "correction": {"kind": "obrs"},
        "budget": {"rejected": 0.1, "feedback": _FEEDBACK},
    },
    "joint": {
        "actor": {"kind": "joint", "distillation": {"weight": 0.5, "feedback": _FEEDBACK}} | _ACTOR,
        "correction": {"kind": "tis", "clip": 2},
    },
}
"""Every kind of actor, and every strength that follows the KL."""

COSTS = ["seconds", "seconds_rollouts", "seconds_update", "memory"]
"""The columns in which equal runs differ."""


def study_of(*changes: Mapping[str, Any]) -> Study:
    """The tiny study with these laid over it, one after the other."""
    mapping: Any = TINY
    for each in changes:
        mapping = laid_over(mapping, each)
    return of_mapping(mapping, {})


def run_of(*changes: Mapping[str, Any]) -> Run:
    """The only run of such a study."""
    (run,) = study_of(*changes).runs
    return run


def rewards_of_length(completions: Any, problems: Any) -> list[float]:
    """A reward that differs between almost any two completions, so that every step teaches something."""
    return [len(text) + sum(map(ord, text)) % 7 for text in completions]


def rows_of(folder: Path) -> pd.DataFrame:
    """The rows of a finished run, without the time and memory that they took."""
    frame: pd.DataFrame = records.read(folder / STEPS)[0].to_pandas()
    return frame.drop(columns=COSTS)


def reason_of(folder: Path) -> str:
    """Why a finished run ended; empty if it did not have to."""
    return records.read(folder / STEPS)[1]


def weights_of(folder: Path) -> dict[str, Any]:
    """The weights of a kept policy, bit for bit."""
    from safetensors.numpy import load_file

    return dict(load_file(folder / POLICY / "model.safetensors"))


def assert_same(found: Path, expected: Path) -> None:
    """The same rows and the same policy, bit for bit."""
    pd.testing.assert_frame_equal(rows_of(found), rows_of(expected), check_exact=True)
    ours, theirs = weights_of(found), weights_of(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def written(path: Path, mapping: Mapping[str, Any]) -> Path:
    """The mapping as a study's file."""
    path.write_text(json.dumps(mapping), encoding="utf-8")
    return path


def trainer_of(run: Run, models: Path, reward: Any = rewards_of_length) -> Any:
    """A trainer before its first step."""
    from jackpot_sim.training.loop.trainer import Trainer
    from jackpot_sim.training.models.preparation import beginning

    texts, policy, actor = beginning(run, models)
    return Trainer(run.training, texts, policy, actor, run.seed, reward)


def weights(trainer: Any) -> list[Any]:
    """The weights of a trainer's policy as they are now."""
    return [weight.detach().clone() for weight in trainer.policy.parameters()]


def equal(first: list[Any], second: list[Any]) -> bool:
    """Whether all weights are equal, bit for bit."""
    import torch

    return all(map(torch.equal, first, second))
