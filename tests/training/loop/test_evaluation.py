"""The test of the policy: greedy accuracy, Mean@k and Pass@k on problems that training never sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.training.loop.evaluation import evaluated
from jackpot_sim.training.models.preparation import beginning
from jackpot_sim.training.tasks.addition import Addition
from tests.training.tiny import run_of, trainer_of

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def begun(models: Path) -> tuple[Any, Any]:
    texts, policy, _ = beginning(run_of(), models)
    return texts, policy


def judged(
    begun: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, samples: int, seed: int = 0
) -> tuple[Any, list[Any]]:
    """The scores by a reward of the length, and what was judged."""
    seen: list[Any] = []

    def rewards(task: Addition, completions: Sequence[str], problems: Any) -> Any:
        seen.append((list(completions), [problem.prompt.text for problem in problems]))
        return np.array([len(text) for text in completions], dtype=np.float64)

    monkeypatch.setattr(Addition, "rewards", rewards)
    return evaluated(begun[1], begun[0], begun[0].task.held_out(2), samples, 1.0, seed), seen


def test_the_scores_are_means_over_problems(begun: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scores, ((greedy, prompts), (sampled, repeated)) = judged(begun, monkeypatch, 8)
    assert repeated == [prompt for prompt in prompts for _ in range(8)]
    lengths = np.array([len(text) for text in sampled]).reshape(2, 8)
    assert len(set(lengths.ravel())) > 1
    assert scores.accuracy == np.mean([len(text) for text in greedy])
    assert scores.mean_at_k == lengths.mean()
    assert scores.pass_at_k == lengths.max(axis=1).mean()


def test_greedy_completions_do_not_depend_on_the_seed(begun: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = judged(begun, monkeypatch, 16)
    _, again = judged(begun, monkeypatch, 16)
    _, other = judged(begun, monkeypatch, 16, seed=1)
    assert first == again
    assert first[0] == other[0]
    assert first[1] != other[1]


def test_without_samples_there_is_the_accuracy_alone(begun: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen = judged(begun, monkeypatch, 0)
    assert len(seen) == 1
    assert math.isfinite(scores.accuracy)
    assert math.isnan(scores.mean_at_k)
    assert math.isnan(scores.pass_at_k)


def test_a_test_changes_nothing(models: Path) -> None:
    tested, untested = trainer_of(run_of(), models), trainer_of(run_of(), models)
    tested.evaluate()
    np.testing.assert_equal(tested.advance(), untested.advance())


def test_held_out_problems_are_never_trained_on(models: Path) -> None:
    texts, _, _ = beginning(run_of(), models)
    held_out = {problem.prompt.text for problem in texts.task.held_out(2)}
    trained = {problem.prompt.text for problem in texts.task.problems(np.random.default_rng(0), 2000)}
    assert not held_out & trained
