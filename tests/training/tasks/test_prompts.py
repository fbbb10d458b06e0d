"""Prompts of one's own: read, parted, scored, and refused without answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.language_models.prompts import Prompt, PromptDataset, PromptFile
from jackpot_sim.environments.rollouts.answers import AnswerReward, Match
from jackpot_sim.training.tasks.base import Problem
from jackpot_sim.training.tasks.listed import last_held_out
from jackpot_sim.training.tasks.prompts import PromptTask
from jackpot_sim.training.tasks.scoring import MathReward

pytest.importorskip("math_verify")


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def counted(path: Path, n: int = 20) -> PromptFile:
    return PromptFile(path=written(path, *({"prompt": f"{at}+1=", "answer": at + 1} for at in range(n))))


def test_the_last_share_is_held_out_and_never_drawn(tmp_path: Path) -> None:
    task = PromptTask(prompts=counted(tmp_path / "p.jsonl"), held_out_share=0.15)
    assert [problem.answer for problem in task.held_out(3)] == ["18", "19", "20"]
    assert task.held_out(2) == task.held_out(3)[:2]
    drawn = task.problems(np.random.default_rng(0), 17)
    assert sorted(int(problem.answer) for problem in drawn) == list(range(1, 18))
    assert {problem.answer for problem in task.problems(np.random.default_rng(0), 500)} == set(map(str, range(1, 18)))
    assert task.held_out(4) == task.held_out(3)
    assert task.different == 17


def test_a_prompt_that_is_held_out_is_not_trained_on_where_it_stands_twice(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}]
    rows = [{"prompt": chat, "answer": 1}, {"prompt": "b", "answer": 2}, {"prompt": "a", "answer": 3}]
    path = written(tmp_path / "p.jsonl", *rows, {"prompt": chat, "answer": 1})
    drawn = PromptTask(prompts=PromptFile(path=path)).problems(np.random.default_rng(0), 50)
    assert {problem.answer for problem in drawn} == {"2", "3"}


@pytest.mark.parametrize(
    ("reward", "near"),
    [(MathReward(), "13"), (AnswerReward(), "13"), (AnswerReward(match=Match.EXACT), "It is 12")],
)
def test_solutions_are_right_and_near_misses_are_not(
    reward: AnswerReward | MathReward, near: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "p.jsonl", *[{"prompt": f"{at} dozen in {at}?", "answer": 12} for at in range(9)])
    task = PromptTask(prompts=PromptFile(path=path), reward=reward)
    problems = task.problems(np.random.default_rng(0), 4)
    assert task.rewards([task.solution(problem) for problem in problems], problems).tolist() == [1.0] * 4
    assert task.rewards([near] * 4, problems).tolist() == [0.0] * 4


def test_a_data_set_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    written(tmp_path / "data" / "train.jsonl", *({"q": f"{at}?", "a": str(at)} for at in range(10)))
    task = PromptTask(prompts=PromptDataset(name=str(tmp_path / "data"), field="q", answer_field="a"))
    assert task.held_out(1) == (Problem(Prompt(text="9?", answer="9"), "9"),)


def test_without_a_share_nothing_is_held_out(tmp_path: Path) -> None:
    task = PromptTask(prompts=counted(tmp_path / "p.jsonl", 3), held_out_share=0)
    assert task.held_out(0) == ()
    assert len({problem.answer for problem in task.problems(np.random.default_rng(0), 3)}) == 3


def test_bad_input_is_refused(tmp_path: Path) -> None:
    prompts = PromptFile(path=written(tmp_path / "p.jsonl", {"prompt": "a", "answer": 1}, {"prompt": "b"}))
    for made in (prompts, PromptFile(path=written(tmp_path / "q.jsonl", {"prompt": "a"}, {"prompt": "b"}))):
        with pytest.raises(ValueError, match=rf"{made.path}: prompt [12] has no answer: give one in 'answer'"):
            PromptTask(prompts=made).held_out(1)
    with pytest.raises(ValueError, match=r"held_out_share must lie in \[0, 1\)"):
        PromptTask(prompts=prompts, held_out_share=1)
    with pytest.raises(ValueError, match="max_new_tokens must be an integer of at least 1"):
        PromptTask(prompts=prompts, max_new_tokens=0)
    with pytest.raises(ValueError, match="x: no problem is left to train on"):
        last_held_out("x", [Problem(Prompt(text="a"), "1")], 0.5)
    with pytest.raises(ValueError, match="give one problem for every completion"):
        PromptTask(prompts=prompts).rewards(["1"], [])
