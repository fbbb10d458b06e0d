"""Texts in tokens and back: problems are encoded, completed by a model, and the completions decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jackpot_sim.core.arrays import Flags, Ints
from jackpot_sim.environments.engines.engine import Engine, EngineError, Order
from jackpot_sim.environments.language_models.completions import right_padded
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.library import Model, Tokenizer, end_tokens
from jackpot_sim.environments.language_models.prompts import encoded
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.errors import LawError
from jackpot_sim.training.tasks.base import Problem, Task

PLAIN = SamplingLaw()
"""The model's own law."""


@dataclass(frozen=True, eq=False)
class Texts:
    """A task in the tokens of a policy.

    Attributes:
        task: the task.
        tokenizer: the policy's tokenizer.
        length: the most new tokens.
        batch_size: sequences that are written at a time.
        model: the policy, whose generation config names the tokens that end a completion; None: the tokenizer does.
    """

    task: Task
    tokenizer: Tokenizer
    length: int
    batch_size: int = 256
    model: Model | None = None

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a completion; solutions end with the first of them."""
        return end_tokens(self.model, self.tokenizer)

    def prompts(self, problems: Sequence[Problem]) -> list[Ints]:
        """The ids of each prompt, each of shape (its length,)."""
        return encoded([problem.prompt for problem in problems], self.tokenizer)

    def written(
        self,
        actor: Engine,
        problems: Sequence[Problem],
        samples: int,
        generator: np.random.Generator,
        *,
        sampling: SamplingLaw = PLAIN,
        topk: int = 0,
        support: bool = False,
        together: bool = False,
    ) -> tuple[list[Ints], Written]:
        """The ids of the prompts, and `samples` completions of each, in rows side by side; options as in `Order`.

        Raises:
            StudyError: the actor cannot read a prompt, its context is too short, or its engine fails.
            LawError: the actor gives NaN or inf.
        """
        prompts = self.prompts(problems)
        prompt = np.repeat(np.arange(len(prompts)), samples)
        uniforms = generator.random((len(prompt), self.length))
        order = Order(
            sampling=sampling,
            end_tokens=frozenset(self.end_tokens),
            batch_size=self.batch_size,
            topk=topk,
            support=support,
            together=together,
        )
        try:
            actor.check(prompts, prompt, self.length)
        except ValueError as error:
            raise StudyError(
                f"the actor cannot read the task's prompts: {error}; give a model with a larger context, or a "
                "smaller rollout.length, or one with the policy's vocabulary"
            ) from error
        try:
            return prompts, actor.write(prompts, prompt, uniforms, order)
        except EngineError as error:
            raise StudyError(str(error)) from error
        except ValueError as error:  # the prompts were checked, so the model is at fault
            raise LawError(str(error)) from error

    def completions(self, written: Written) -> list[str]:
        """The texts of the completions, without their end tokens."""
        text = written.mask & ~np.isin(written.tokens, self.end_tokens)
        rows = [row[live].tolist() for row, live in zip(written.tokens, text, strict=True)]
        return list(self.tokenizer.batch_decode(rows, skip_special_tokens=True))

    def solutions(self, problems: Sequence[Problem]) -> tuple[Ints, Flags]:
        """Right completions with their ends: tokens and mask, both (n, length).

        Raises:
            StudyError: the task has no solutions.
        """
        texts = [self.task.solution(problem) for problem in problems]
        if any(text is None for text in texts):
            raise StudyError(f"{self.task.kind} has no solutions to teach from: give a policy of kind checkpoint")
        rows = [[*self.tokenizer(text, add_special_tokens=False)["input_ids"], *self.end_tokens[:1]] for text in texts]
        return right_padded([np.array(row, dtype=np.int64) for row in rows])
