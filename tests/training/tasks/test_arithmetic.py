"""Sums and arithmetic modulo a number: what is held out, what is right, and what is refused."""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.base import Problem
from jackpot_sim.training.tasks.modular import ModularArithmetic
from jackpot_sim.training.tasks.splitting import HELD_OUT_SHARE, MOST_HELD_OUT, Grid

additions = st.builds(Addition, digits=st.integers(1, 6), reverse=st.booleans(), operands=st.integers(2, 4))
moduli = st.builds(
    ModularArithmetic,
    modulus=st.integers(12, 200),
    operations=st.lists(st.sampled_from("+-*"), min_size=1, unique=True).map(tuple),
)
tasks = additions | moduli
seeds = st.integers(0, 2**32)


def drawn(task: Any, seed: int, n: int) -> tuple[Problem, ...]:
    found: tuple[Problem, ...] = task.problems(np.random.default_rng(seed), n)
    return found


def texts(problems: tuple[Problem, ...]) -> list[str]:
    return [str(problem.prompt.text) for problem in problems]


def grid_of(task: Any) -> Grid:
    grid: Grid = task._grid
    return grid


def most(task: Any, at_most: int) -> int:
    """The number of held-out problems that there are, up to a number."""
    grid = grid_of(task)
    return (
        at_most
        if np.prod(grid.sizes, dtype=float) > 2**20
        else min(at_most, len(grid._listed(np.random.default_rng(0))))
    )


@given(tasks, seeds)
def test_no_held_out_problem_is_drawn_for_training(task: Any, seed: int) -> None:
    trained = texts(drawn(task, seed, 300))
    held = texts(task.held_out(most(task, 300)))
    assert len(trained) == 300
    assert len(set(held)) == len(held)
    assert not set(trained) & set(held)


@given(seeds)
def test_what_is_held_out_is_not_trained_on_in_another_order(seed: int) -> None:
    task = Addition(digits=1, operands=3)
    operands = [sorted(re.findall(r"\d+", text)) for text in texts(task.held_out(20))]
    assert not [text for text in texts(drawn(task, seed, 500)) if sorted(re.findall(r"\d+", text)) in operands]
    modular = ModularArithmetic(modulus=13)
    held = texts(modular.held_out(most(modular, 100)))
    mirrored = {f"({text[4:6]}{text[3]}{text[1:3]}{text[6:]}" for text in held if text[3] in "+*"}
    assert mirrored
    assert not mirrored & set(texts(drawn(modular, seed, 500)))


@pytest.mark.parametrize("task", [Addition(digits=2), Addition(digits=5), ModularArithmetic(modulus=31)])
def test_held_out_problems_are_fixed_and_the_fewer_are_the_first(task: Any) -> None:
    assert task.held_out(50) == task.held_out(100)[:50] == type(task)(**vars(task)).held_out(50)


def test_rows_with_other_columns_are_not_looked_up() -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    for wrong in (rows, rows[:, :1], rows[:, :2].astype(float), rows[:, :2] > 1, rows[:, 0]):
        with pytest.raises((TypeError, ValueError), match="rows "):
            grid_of(Addition()).is_held_out(wrong)


def test_about_the_share_is_held_out_and_all_else_can_be_drawn() -> None:
    task = Addition(digits=2)
    held = grid_of(task).is_held_out(np.array(list(product(range(100), repeat=2))))
    assert abs(held.mean() - HELD_OUT_SHARE) < 0.01
    # 9,500 problems drawn 120,000 times: the chance that one of them is missed is below 1e-1 · 3e-6.
    assert len(set(texts(drawn(task, 0, 200_000)))) == 10_000 - held.sum()


def test_training_draws_uniformly() -> None:
    seen = texts(drawn(Addition(digits=1), 0, 95_000))
    _, counts = np.unique(seen, return_counts=True)
    expected = 95_000 / len(counts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_of_more_than_there_are_all_are_given() -> None:
    few = Addition(digits=1).held_out(50)
    assert 0 < len(few) < 50
    assert few == Addition(digits=1).held_out(len(few))
    assert Addition(digits=1).different is None
    assert len(Addition(digits=4).held_out(MOST_HELD_OUT + 1)) == MOST_HELD_OUT
    with pytest.raises(ValueError, match="n must be an integer of at least 0"):
        Addition().held_out(-1)
    with pytest.raises(ValueError, match="n must be an integer of at least 0"):
        Addition().problems(np.random.default_rng(0), -1)


@given(additions, seeds)
def test_the_answer_of_a_sum_is_the_sum(task: Addition, seed: int) -> None:
    for problem in drawn(task, seed, 20):
        text = str(problem.prompt.text)
        operands = text.removesuffix("=").split("+")
        assert [len(each) for each in operands] == [task.digits] * task.operands
        answer = problem.answer[::-1] if task.reverse else problem.answer
        assert answer == str(sum(map(int, operands)))


@given(moduli, seeds)
def test_the_answer_modulo_is_what_python_computes(task: ModularArithmetic, seed: int) -> None:
    seen = texts(drawn(task, seed, 200))
    assert {len(text) for text in seen} == {len(seen[0])}
    for problem in drawn(task, seed, 200):
        found = re.fullmatch(r"\((\d+)([-+*])(\d+)\)%(\d+)=", str(problem.prompt.text))
        assert found
        first, operation, second, modulus = found.groups()
        operate: Callable[[int, int], int] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operation]
        assert problem.answer == str(operate(int(first), int(second)) % int(modulus))


@given(tasks, seeds)
def test_the_solution_is_right_and_near_misses_are_not(task: Any, seed: int) -> None:
    problems = drawn(task, seed, 10)
    solutions = [task.solution(problem) for problem in problems]
    assert task.rewards(solutions, problems).tolist() == [1.0] * 10
    for near in (
        lambda answer: answer + "0",
        lambda answer: "0" + answer,
        lambda answer: answer + " ",
        lambda answer: answer[:-1],
        lambda answer: answer[:-1] + str((int(answer[-1]) + 1) % 10),
    ):
        assert task.rewards([near(each) for each in solutions], problems).tolist() == [0.0] * 10


def test_a_sum_in_the_other_order_is_wrong() -> None:
    forwards, backwards = (Addition(reverse=reverse).problem(123, 45) for reverse in (False, True))
    assert (forwards.answer, backwards.answer) == ("168", "861")
    assert Addition().rewards(["168", "861"], [backwards, backwards]).tolist() == [0.0, 1.0]


@given(tasks, seeds)
def test_everything_is_written_in_the_alphabet_and_fits(task: Any, seed: int) -> None:
    for problem in drawn(task, seed, 50):
        assert set(str(problem.prompt.text) + problem.answer) <= set(task.characters)
        assert len(problem.answer) < task.max_new_tokens


def test_the_longest_answers_fit_exactly() -> None:
    assert len(Addition(digits=3).problem(999, 999).answer) + 1 == Addition(digits=3).max_new_tokens
    assert ModularArithmetic(modulus=101).max_new_tokens == 4
    assert ModularArithmetic(modulus=100).max_new_tokens == 3


def test_one_problem_for_every_completion() -> None:
    problem = Addition().problem(1, 2)
    with pytest.raises(ValueError, match="give one problem for every completion: 2 and 1 came"):
        Addition().rewards(["3", "3"], [problem])
    assert Addition().rewards([], []).shape == (0,)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: Addition(digits=0), "digits must be an integer from 1 to 15"),
        (lambda: Addition(digits=16), "digits must be an integer from 1 to 15"),
        (lambda: Addition(operands=1), "operands must be an integer from 2 to 8"),
        (lambda: Addition().problem(1), "give 2 operands, 1 came"),
        (lambda: Addition().problem(1, 1000), "an operand must be an integer from 0 to 999"),
        (lambda: ModularArithmetic(modulus=1), "modulus must be an integer from 2 to 10000"),
        (lambda: ModularArithmetic(operations=()), "operations must be some of"),
        (lambda: ModularArithmetic(operations=("+", "+")), "operations must be some of"),
        (lambda: ModularArithmetic(operations=("/",)), "operations must be some of"),  # type: ignore[arg-type]
        (lambda: ModularArithmetic(operations=("+",)).problem(1, "-", 2), "the operation must be one of"),
        (lambda: ModularArithmetic().problem(97, "-", 2), "an operand must be an integer from 0 to 96"),
    ],
)
def test_bad_input_is_refused(made: Callable[[], Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        made()
