"""Problems in tokens and completions in texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.environments.engines.engine import ModelEngine
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.errors import LawError
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.tasks.addition import Addition
from jackpot_sim.training.tasks.characters import character_tokenizer
from tests.training.tiny import run_of, trainer_of

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TASK = Addition(digits=2)


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(TASK, character_tokenizer(TASK.characters), 4)


@pytest.fixture
def policy(models: Path) -> Any:
    return trainer_of(run_of(), models).policy


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_solutions_are_right_completions_that_end(texts: Texts) -> None:
    problems = (TASK.problem(1, 2), TASK.problem(99, 99))
    tokens, mask = texts.solutions(problems)
    rows = [row[there].tolist() for row, there in zip(tokens, mask, strict=True)]
    assert [row[-1] for row in rows] == [0, 0]
    assert texts.tokenizer.batch_decode([row[:-1] for row in rows]) == ["3", "891"]


def test_a_task_without_solutions_cannot_be_taught(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Addition, "solution", lambda self, problem: None)
    with pytest.raises(StudyError, match="addition has no solutions to teach from: give a policy of kind checkpoint"):
        texts.solutions((TASK.problem(1, 2),))


def test_samples_of_a_prompt_lie_side_by_side(texts: Texts, policy: Any) -> None:
    problems = (TASK.problem(1, 2), TASK.problem(3, 4))
    prompts, written = texts.written(ModelEngine.of(policy), problems, 3, generator())
    assert [texts.tokenizer.decode(prompt) for prompt in prompts] == ["01+02=", "03+04="]
    assert written.prompt.tolist() == [0, 0, 0, 1, 1, 1]
    completions = texts.completions(written)
    assert len(completions) == 6
    assert all(
        len(text) == len(row[there & (row > 0)])
        for text, row, there in zip(completions, written.tokens, written.mask, strict=True)
    )


def test_what_is_written_does_not_depend_on_the_batches(policy: Any) -> None:
    tokenizer = character_tokenizer(TASK.characters)
    problems = TASK.problems(generator(), 5)
    whole, parts = (
        Texts(TASK, tokenizer, 4, size).written(ModelEngine.of(policy), problems, 3, generator())[1]
        for size in (256, 4)
    )
    assert np.array_equal(whole.tokens, parts.tokens)
    assert np.array_equal(whole.mask, parts.mask)


def test_a_context_that_is_too_short_is_the_users_to_mend(policy: Any) -> None:
    texts = Texts(TASK, character_tokenizer(TASK.characters), 60)
    with pytest.raises(StudyError, match=r"reads at most 64 tokens: .* 66; give a model with a larger context"):
        texts.written(ModelEngine.of(policy), TASK.problems(generator(), 2), 1, generator())


def test_a_tokenizer_with_other_tokens_is_the_users_to_mend(policy: Any) -> None:
    texts = Texts(TASK, character_tokenizer("abcdefghijklmn" + TASK.characters), 4)
    with pytest.raises(StudyError, match=r"the actor cannot read the task's prompts: prompt 0 holds tokens from"):
        texts.written(ModelEngine.of(policy), TASK.problems(generator(), 2), 1, generator())


def test_a_model_without_a_law_is_told_apart(texts: Texts, policy: Any) -> None:
    with torch.no_grad():
        next(iter(policy.parameters())).fill_(float("nan"))
    with pytest.raises(LawError):
        texts.written(ModelEngine.of(policy), TASK.problems(generator(), 2), 1, generator())


def test_a_tokenizer_without_an_end_writes_to_the_end(policy: Any) -> None:
    tokenizer = character_tokenizer(TASK.characters)
    tokenizer.eos_token = None
    texts = Texts(TASK, tokenizer, 4)
    assert texts.end_tokens == ()
    _, written = texts.written(ModelEngine.of(policy), TASK.problems(generator(), 8), 2, generator())
    assert written.mask.all()


def test_the_models_generation_config_says_what_ends_a_completion(policy: Any) -> None:
    """Chat models often end a turn with another token than the tokenizer's own, or with any of several."""
    tokenizer = character_tokenizer(TASK.characters)
    other = tokenizer.convert_tokens_to_ids("7")
    policy.generation_config.eos_token_id = [other, tokenizer.eos_token_id]
    texts = Texts(TASK, tokenizer, 12, model=policy)
    assert texts.end_tokens == (tokenizer.eos_token_id, other)
    _, written = texts.written(ModelEngine.of(policy), TASK.problems(generator(), 32), 4, generator())
    last = written.tokens[np.arange(len(written.mask)), written.mask.sum(axis=-1) - 1]
    stopped = written.mask.sum(axis=-1) < 12
    assert {tokenizer.eos_token_id, other} == set(last[stopped].tolist())
    assert not any("7" in text for text in texts.completions(written))
    tokens, mask = texts.solutions(TASK.problems(generator(), 3))
    assert all(row[there][-1] == tokenizer.eos_token_id for row, there in zip(tokens, mask, strict=True))
