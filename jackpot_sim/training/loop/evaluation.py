"""Tests of the policy on problems that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jackpot_sim.core.arrays import Floats
from jackpot_sim.environments.engines.engine import ModelEngine
from jackpot_sim.environments.language_models.build import Model
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.tasks.base import Problem, Task

_GREEDY = SamplingLaw(top_k=1)


class Scores(NamedTuple):
    """Rewards on held-out problems; the last two are nan without samples."""

    accuracy: float
    """The mean reward of greedy completions."""
    mean_at_k: float
    """The mean reward of k samples."""
    pass_at_k: float
    """The mean over problems of the best reward of k samples."""


def held_out(task: Task, most: int) -> tuple[Problem, ...]:
    """The problems of a test: the first `most` that the task holds out, or all of them.

    Raises:
        ValueError: it holds out none, or they cannot be read.
    """
    problems = task.held_out(most)
    if not problems:
        how = "give a larger task.held_out_share" if hasattr(task, "held_out_share") else "make the task larger"
        raise ValueError(f"{task.kind} holds out no problem to test on: {how}")
    return problems


def evaluated(
    policy: Model, texts: Texts, problems: Sequence[Problem], samples: int, temperature: float, seed: int
) -> Scores:
    """The policy's scores on held-out problems; every test of a seed draws the same uniforms.

    Args:
        policy: the model.
        texts: the task in the policy's tokens.
        problems: the held-out problems.
        samples: k of Mean@k and Pass@k; 0 samples nothing.
        temperature: the temperature of the samples.
        seed: the seed of the run.
    """
    engine, generator = ModelEngine.of(policy), keyed_generator(seed, "evaluation")
    _, greedy = texts.written(engine, problems, 1, generator, sampling=_GREEDY)
    accuracy = float(np.mean(texts.task.rewards(texts.completions(greedy), problems)))
    if not samples:
        return Scores(accuracy, float("nan"), float("nan"))
    _, sampled = texts.written(engine, problems, samples, generator, sampling=SamplingLaw(temperature=temperature))
    repeated = [problem for problem in problems for _ in range(samples)]
    rewards: Floats = texts.task.rewards(texts.completions(sampled), repeated).reshape(-1, samples)
    return Scores(accuracy, float(rewards.mean()), float(rewards.max(-1).mean()))
