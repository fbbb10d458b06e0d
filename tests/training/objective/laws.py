"""Laws of an actor and of a policy before and under an update, from which the parts of the objective are tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from jackpot_sim.core.topk import TopK
from jackpot_sim.training.config import Update
from jackpot_sim.training.objective import Aggregation, ModelPass, Proposed

N, LENGTH, VOCAB = 3, 4, 6
MASK = torch.tensor([[True] * 4, [True, False, False, False], [True, True, True, False]])
NAN = math.nan


def law(generator: np.random.Generator, around: Any = 0.0, spread: float = 1.0) -> Any:
    logits = around + torch.as_tensor(spread * generator.normal(size=(N, LENGTH, VOCAB)))
    return torch.log_softmax(logits, -1)


class Laws:
    """An actor, a policy before the update and one under way, with tokens of the actor."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.actor = law(generator)
        self.before = law(generator, self.actor, 0.5)
        self.new = law(generator, self.before, 0.3)
        self.tokens = torch.as_tensor(generator.integers(VOCAB, size=(N, LENGTH, 1)))
        self.uniforms = torch.as_tensor(generator.random((N, LENGTH)))
        self.advantage = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)

    def of(self, law: Any) -> Any:
        return law.gather(-1, self.tokens)[..., 0]

    def proposed(self, k: int | None = VOCAB, padding: float = 0.0) -> Proposed:
        """With `padding` wherever there is no token."""

        def filled(values: Any) -> Any:
            there = MASK if values.ndim == 2 else MASK[..., None]
            return torch.where(there, values, torch.full_like(values, padding))

        topk = None if k is None else TopK.of(self.actor, k)
        return Proposed(
            actor_log_probs=filled(self.of(self.actor)),
            reference_log_probs=filled(self.of(self.before)),
            mask=MASK,
            advantage=self.advantage,
            topk=None if topk is None else TopK(topk.ids, filled(topk.log_probs)),
            reference_on_topk=None if topk is None else filled(topk.gather(self.before)),
            uniforms=self.uniforms,
        )

    def new_pass(self, padding: float = 0.0) -> ModelPass:
        """Its logits are not normalised."""
        shift = torch.linspace(-3, 3, N * LENGTH, dtype=torch.float64).reshape(N, LENGTH)
        log_probs = torch.where(MASK, self.of(self.new), padding)
        return ModelPass((self.new + shift[..., None]).requires_grad_(), shift, log_probs.requires_grad_())


LAWS = Laws()
NO_PASS: Any = None
"""For the target p_ref: then p_new is not looked at."""


SETTINGS = [
    Update(aggregation=aggregation, clip=clip, clip_high=high)
    for aggregation in Aggregation
    for clip, high in [(None, None), (0.1, None), (0.1, 0.3)]
]


def pass_of(scores: Any, padding: float = 0.0) -> ModelPass:
    """A forward pass whose figures all depend on its scores."""
    there = torch.where(MASK[..., None], scores, padding)
    chosen = torch.log_softmax(there, -1).gather(-1, LAWS.tokens)[..., 0]
    return ModelPass(there, torch.logsumexp(there, -1), chosen)


def one_surrogate(ratio: float, advantage: float, clip: float | None, high: float | None) -> tuple[float, float]:
    """min(r A, clip(r) A), and its derivative with respect to log r; by cases, as PPO is told in words."""
    if clip is not None:
        high = clip if high is None else high
        if advantage > 0 and ratio > 1 + high:
            return (1 + high) * advantage, 0.0
        if advantage < 0 and ratio < 1 - clip:
            return (1 - clip) * advantage, 0.0
    return ratio * advantage, ratio * advantage
