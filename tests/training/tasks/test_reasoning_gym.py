"""Tasks of reasoning-gym: scored by the package itself, parted by prompt."""

import numpy as np
import pytest

from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.base import Problem
from jackpot_sim.training.tasks.reasoning_gym import Extraction, ReasoningGym
from tests.cases import each

reasoning_gym = pytest.importorskip("reasoning_gym")

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def text_of(problem: Problem) -> str:
    assert problem.prompt.messages is not None
    return problem.prompt.messages[0]["content"]


def test_the_reward_is_the_data_sets_own_score_of_the_answer_that_is_extracted() -> None:
    task = ReasoningGym(dataset="gcd", size=3, held_out_size=1)
    theirs = reasoning_gym.create_dataset("gcd", size=3, seed=0)
    problems = sorted(task.problems(np.random.default_rng(0), 3), key=lambda each: each.answer)
    entries = sorted(theirs, key=lambda each: each["answer"])
    assert [each.answer for each in problems] == [each["answer"] for each in entries]
    said = [f"It is {each.answer}" for each in problems]
    scores = [theirs.score_answer(text, entry) for text, entry in zip(said, entries, strict=True)]
    assert all(0 < score < 1 for score in scores), "the case needs a partial score"
    assert task.rewards(said, problems).tolist() == scores
    by_number = ReasoningGym(dataset="gcd", size=3, held_out_size=1, extraction=Extraction.LAST_NUMBER)
    assert by_number.rewards(said, problems).tolist() == [1.0] * 3
    assert by_number.rewards(["none"] * 3, problems).tolist() == [0.0] * 3


@each(
    "extraction, completion, answer",
    [
        ("text", " a b\n", "a b"),
        ("text", " \n", None),
        ("line", "\n 4 \n5", "4"),
        ("first-number", "so -3, then 4.5", "-3"),
        ("last-number", "so 3, then 1,234.5.", "1234.5"),
        ("last-number", "none", None),
        ("boxed", "\\boxed{1}, no \\boxed{2}", "2"),
        ("boxed", "2", None),
        ("tag", "<answer>1</answer><answer>\n2 </answer>", "2"),
        ("tag", "<answer>1", None),
    ],
)
def test_an_answer_is_extracted(extraction: str, completion: str, answer: str | None) -> None:
    assert Extraction(extraction).of(completion) == answer


def test_held_out_problems_share_no_prompt_with_training_and_repeat_none() -> None:
    # Seeds 0 and 5 of 60 problems each overlap, since a data set takes seed + i for problem i.
    task = ReasoningGym(dataset="chain_sum", config=SMALL, size=60, held_out_size=60, held_out_seed=5)
    held = [text_of(each) for each in task.held_out(60)]
    drawn = {text_of(each) for each in task.problems(np.random.default_rng(0), 500)}
    theirs = {each["question"] for each in reasoning_gym.create_dataset("chain_sum", size=60, seed=0, **SMALL)}
    assert theirs & set(held), "the case needs a common problem"
    assert drawn == theirs - set(held)
    assert len(set(held)) == len(held)
    assert task.different == len(drawn)


def test_a_malformed_answer_earns_nothing_and_a_score_that_fails_on_the_right_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = ReasoningGym(dataset="gcd", size=2, held_out_size=1)
    problems = task.problems(np.random.default_rng(0), 1)
    right = {each.answer for each in problems}

    def strict(answer: str, entry: object) -> float:
        if answer not in right:
            raise IndexError("no such part")
        return 1.0

    monkeypatch.setattr(task._gym, "score_answer", strict)
    assert task.rewards(["malformed"], problems).tolist() == [0.0]
    right.clear()
    with pytest.raises(ValueError, match=r"gcd cannot score even its own answers: .*no such part"):
        task.rewards(["malformed"], problems)


def test_a_problem_of_another_task_is_refused() -> None:
    task = ReasoningGym(dataset="chain_sum", size=2, held_out_size=1)
    with pytest.raises(ValueError, match="scores its own problems alone"):
        task.rewards(["1"], [Addition().problem(1, 2)])
