"""The first models of training: a policy that is taught, and actors that are distilled from it.

They depend on the task, their own configuration and the seed, never on the method. So all methods of a study begin
with the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jackpot_sim.environments.engines.engine import ModelEngine
from jackpot_sim.environments.language_models.build import Model, TinyQwen3, Tokenizer, build
from jackpot_sim.environments.language_models.checkpoints import Precision
from jackpot_sim.environments.randomness import keyed_generator
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.training.config import Taught
from jackpot_sim.training.errors import LawError
from jackpot_sim.training.loop.passes import PaddedSequences, model_pass
from jackpot_sim.training.models.texts import Texts
from jackpot_sim.training.objective import Direction, distillation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

BATCH = 128
"""Sequences in a step of teaching or of distillation."""
CHECK_EVERY = 10
"""Steps between checks of a model's progress."""
CHECKED = 512
"""Completions in each check."""
DISTILLATION_RATE, HALF_LIFE = 2e-3, 1500
"""AdamW's learning rate, and the number of steps in which it halves."""
MOST_DISTILLATION_STEPS = 10_000

Report = Callable[[str], None]


def taught(config: Taught, texts: Texts, precision: Precision, seed: int, report: Report = lambda _: None) -> Model:
    """A policy, supervised on right solutions until a share of its sampled completions is right.

    Raises:
        StudyError: the share is not reached, or the task has no solutions.
    """
    import torch

    model = _random(config.model, texts.tokenizer, precision, keyed_generator(seed, "weights", "policy", config.model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    checked = texts.task.problems(keyed_generator(seed, "teaching", "checked"), CHECKED)
    right = 0.0
    for step in range(config.most_steps):
        if step % CHECK_EVERY == 0:
            try:
                _, written = texts.written(
                    ModelEngine.of(model), checked, 1, keyed_generator(seed, "teaching", "check")
                )
            except LawError as error:
                raise StudyError(f"teaching diverged by step {step}: give a smaller policy.learning_rate") from error
            right = float(np.mean(texts.task.rewards(texts.completions(written), checked)))
            report(f"teaching the policy: step {step}, {right:.0%} right of {config.accuracy:.0%}")
            if right >= config.accuracy:
                return model
        problems = texts.task.problems(keyed_generator(seed, "teaching", step), BATCH)
        tokens, mask = texts.solutions(problems)
        sequences = PaddedSequences.of(texts.prompts(problems), np.arange(len(tokens)), tokens, mask, model.device)
        _descend(optimizer, -model_pass(model, sequences).log_probs[sequences.mask].mean())
    raise StudyError(
        f"after {config.most_steps} steps of teaching {right:.0%} of the policy's completions are right, not "
        f"{config.accuracy:.0%}: give a larger policy.model, more policy.most_steps or a lower policy.accuracy"
    )


def distilled(
    config: TinyQwen3,
    policy: Model,
    texts: Texts,
    kls: Sequence[float],
    precision: Precision,
    seed: int,
    report: Report = lambda _: None,
) -> dict[float, Model]:
    """Students of the policy at some distances, all from one course of distillation from random weights.

    Each is the first to come within its KL(policy‖student) per token, measured on the student's own rollouts.

    Raises:
        StudyError: a distance is out of reach.
    """
    import torch

    model = _random(config, texts.tokenizer, precision, keyed_generator(seed, "weights", "actor", config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=DISTILLATION_RATE, weight_decay=0.0)
    students: dict[float, Model] = {}
    waiting, kl = sorted(set(kls)), float("inf")
    for step in range(MOST_DISTILLATION_STEPS):
        if step % CHECK_EVERY == 0:
            kl = rollout_kl(policy, model, texts, keyed_generator(seed, "distillation", "check"))
            report(f"distilling the actor: step {step}, KL {kl:.3g} of {waiting[0]:g}")
            while waiting and kl <= waiting[-1]:
                students[waiting.pop()] = copy.deepcopy(model)
            if not waiting:
                return students
        for group in optimizer.param_groups:
            group["lr"] = DISTILLATION_RATE * 0.5 ** (step / HALF_LIFE)
        # States of both: the student is judged on its own, which the policy hardly visits at first.
        writer, generator = (policy, model)[step % 2], keyed_generator(seed, "distillation", step)
        prompts, written = texts.written(ModelEngine.of(writer), texts.task.problems(generator, BATCH), 1, generator)
        sequences = PaddedSequences.of(prompts, written.prompt, written.tokens, written.mask, model.device)
        _descend(optimizer, _kls(policy, model, sequences).mean())
    raise StudyError(
        f"after {MOST_DISTILLATION_STEPS} steps of distillation the actor is {kl:.3g} nats per token from the policy, "
        f"not {waiting[-1]:g}: give a larger actor.model or a larger actor.kl"
    )


def rollout_kl(policy: Model, actor: Model, texts: Texts, generator: np.random.Generator) -> float:
    """KL(policy‖actor) per token of rollouts of the actor, nats."""
    import torch

    problems = texts.task.problems(generator, CHECKED)
    prompts, written = texts.written(ModelEngine.of(actor), problems, 1, generator)
    sequences = PaddedSequences.of(prompts, written.prompt, written.tokens, written.mask, policy.device)
    with torch.no_grad():
        return float(_kls(policy, actor, sequences).mean())


def _kls(policy: Model, actor: Model, sequences: PaddedSequences) -> Tensor:
    """KL(policy‖actor) of every token, (tokens,), nats, with a graph to the actor."""
    import torch

    with torch.no_grad():
        law = model_pass(policy, sequences).law()
    return distillation(law, model_pass(actor, sequences).law(), Direction.FORWARD)[sequences.mask]


def _random(config: TinyQwen3, tokenizer: Tokenizer, precision: Precision, generator: np.random.Generator) -> Model:
    return build(config, len(tokenizer), generator).to(precision.dtype)


def _descend(optimizer: Optimizer, loss: Tensor) -> None:
    import torch

    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
