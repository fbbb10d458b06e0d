"""Word problems: every story is solved right, and none is trained on with numbers that are held out."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jackpot_sim.training.tasks.base import Problem
from jackpot_sim.training.tasks.scoring import MathReward
from jackpot_sim.training.tasks.word_problems import WordProblems
from jackpot_sim.training.tasks.word_templates import NAMES, TEMPLATES, THINGS, Template, Words

pytest.importorskip("math_verify")

numbers = st.lists(st.integers(2, 1000), min_size=3, max_size=3)
words = st.builds(Words, name=st.sampled_from(NAMES), other=st.sampled_from(NAMES), things=st.sampled_from(THINGS))


def value(expression: str) -> float:
    assert re.fullmatch(r"[\d.+*/-]+", expression)
    return float(eval(expression))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.tell.__name__.strip("_"))
@settings(max_examples=20)
@given(who=words, drawn=numbers)
def test_every_equation_of_a_working_holds_and_ends_in_the_answer(
    template: Template, who: Words, drawn: list[int]
) -> None:
    told = template.tell(who, tuple(drawn[: template.numbers]))
    for equation in told.working.split(", "):
        assert len({round(value(side), 9) for side in equation.split("=")}) == 1, equation
    assert told.working.endswith(f"={told.answer}")
    assert told.answer.isdigit() or not template.whole
    assert MathReward().of_texts([told.working, f"#### {told.answer}"], [told.answer] * 2).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.tell.__name__.strip("_"))
@settings(max_examples=20)
@given(who=words, drawn=numbers)
def test_a_story_tells_each_number_that_decides_its_answer(template: Template, who: Words, drawn: list[int]) -> None:
    """Others would make one question with two answers."""
    told = template.tell(who, tuple(drawn[: template.numbers]))
    again = template.tell(who, tuple(each + 1 for each in drawn[: template.numbers]))
    assert told.question != again.question
    assert told.question.endswith("?")
    assert who.name in told.question


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(3, 1000), st.booleans(), st.booleans())
def test_problems_of_the_task_are_solved_by_their_solutions(
    seed: int, largest: int, fractions: bool, worked: bool
) -> None:
    task = WordProblems(largest=largest, fractions=fractions, worked=worked)
    problems = task.problems(np.random.default_rng(seed), 20)
    solutions = [task.solution(problem) for problem in problems]
    assert task.rewards(solutions, problems).tolist() == [1.0] * 20
    assert all((("=" in solution) == worked) for solution in solutions)
    assert max(map(len, solutions)) < task.max_new_tokens
    assert set("".join([*solutions, *(str(problem.prompt.text) for problem in problems)])) <= set(task.characters)
    assert fractions or all(problem.answer.isdigit() for problem in problems)


def told_numbers(problem: Problem) -> tuple[str, ...]:
    """A story without its names and things."""
    text = str(problem.prompt.text)
    for word in (*NAMES, *THINGS):
        text = text.replace(word, "_")
    return tuple(re.findall(r"\w+", text))


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.sampled_from([5, 20]))
def test_no_story_with_held_out_numbers_is_trained_on(seed: int, largest: int) -> None:
    task = WordProblems(largest=largest)
    held = {told_numbers(problem) for problem in task.held_out(500)}
    assert not held & {told_numbers(problem) for problem in task.problems(np.random.default_rng(seed), 1000)}


def test_held_out_problems_are_fixed_and_of_every_kind() -> None:
    assert WordProblems().held_out(20) == WordProblems().held_out(200)[:20]
    shapes = {re.sub(r"\d", "", " ".join(told_numbers(problem))) for problem in WordProblems().held_out(500)}
    assert len(shapes) >= len(TEMPLATES) - 1


@pytest.mark.parametrize("form", ["{}", "#### {}", "\\boxed{{{}}}", "working\n#### {}", "It is {}."])
def test_forms_of_an_answer(form: str) -> None:
    task = WordProblems(fractions=False)
    problems = task.problems(np.random.default_rng(0), 10)
    right = [form.format(problem.answer) for problem in problems]
    near = [form.format(int(problem.answer) + 1) for problem in problems]
    assert task.rewards(right, problems).tolist() == [1.0] * 10
    assert task.rewards(near, problems).tolist() == [0.0] * 10


def test_other_problems_are_solved_by_their_answers() -> None:
    task = WordProblems()
    found = task.problems(np.random.default_rng(0), 1)[0]
    assert task.solution(Problem(found.prompt, "12")) == "#### 12"


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="largest must be an integer from 3 to 1000"):
        WordProblems(largest=2)
    with pytest.raises(ValueError, match="max_new_tokens must be an integer of at least 1"):
        WordProblems(max_new_tokens=0)
    with pytest.raises(ValueError, match="give one problem for every completion"):
        WordProblems().rewards(["1"], [])
