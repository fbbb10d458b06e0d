"""What all tasks have in common: one union, read by kind, and one contract."""

import pickle
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pytest
from pydantic import Field, TypeAdapter, ValidationError

from jackpot_sim.environments.rollouts.answers import AnswerReward
from jackpot_sim.training.tasks import AnyTask
from jackpot_sim.training.tasks.base import Task
from jackpot_sim.training.tasks.scoring import MathReward

ADAPTER: TypeAdapter[Any] = TypeAdapter(Annotated[AnyTask, Field(discriminator="kind")])

LINES = "\n".join(f'{{"problem": "{at}?", "answer": "{at}"}}' for at in range(20))


def configurations(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rows.jsonl"
    path.write_text(LINES)
    prompts = {"kind": "file", "path": str(path), "field": "problem"}
    return [
        {"kind": "addition", "digits": 2},
        {"kind": "modular", "operations": ["+", "*"]},
        {"kind": "word-problems"},
        {"kind": "reasoning-gym", "dataset": "chain_sum", "config": {"max_terms": 3}, "size": 100, "held_out_size": 9},
        {"kind": "benchmark", "name": "amc", "path": str(path)},
        {"kind": "prompts", "prompts": prompts, "reward": {"kind": "math", "marked": False}},
        {"kind": "prompts", "prompts": prompts, "reward": {"kind": "answer", "match": "exact"}},
    ]


def test_every_task_is_configured_by_its_kind_and_keeps_the_contract(tmp_path: Path) -> None:
    kinds = set()
    for config in configurations(tmp_path):
        task: Task = ADAPTER.validate_python(config)
        kinds.add(task.kind)
        drawn = task.problems(np.random.default_rng(0), 8)
        assert drawn == task.problems(np.random.default_rng(0), 8)
        assert drawn != task.problems(np.random.default_rng(1), 8)
        assert not {str(each.prompt) for each in task.held_out(2)} & {str(each.prompt) for each in drawn}
        solutions = [task.solution(problem) or problem.answer for problem in drawn]
        rewards = task.rewards(solutions, drawn)
        assert rewards.dtype == np.float64
        assert rewards.tolist() == [1.0] * 8
        assert task.rewards(["?"] * 8, drawn).tolist() == [0.0] * 8
        assert task.max_new_tokens > 1
        assert pickle.loads(pickle.dumps(task)) == task
        assert ADAPTER.validate_json(ADAPTER.dump_json(task)) == task
    assert kinds == {task.kind for task in get_args(AnyTask)}


def test_the_reward_of_prompts_is_told_by_its_kind(tmp_path: Path) -> None:
    *_, math, answer = map(ADAPTER.validate_python, configurations(tmp_path))
    assert (type(math.reward), type(answer.reward)) == (MathReward, AnswerReward)


def test_a_misspelt_option_is_an_error() -> None:
    for kind in ("addition", "modular", "word-problems"):
        with pytest.raises(ValidationError, match="diggits"):
            ADAPTER.validate_python({"kind": kind, "diggits": 3})
