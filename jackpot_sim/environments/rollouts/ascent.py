"""Training of a real model on the reward of its own rollouts, which leaves the actor stale."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from jackpot_sim.environments.engines.engine import ModelEngine
from jackpot_sim.environments.language_models.block_gradients import token_log_probs
from jackpot_sim.environments.language_models.library import Model, Tensor
from jackpot_sim.environments.language_models.teaching import TrainingPath
from jackpot_sim.environments.rollouts.built import RewardAfter, Setup


class RolloutAscent(TrainingPath):
    """REINFORCE on rollouts that each step draws anew from the current model, after prompts drawn anew too.

    The gradient of (1/n) Σ_i (R_i − R̄) log p(y_i), R̄ being the batch's mean reward.
    """

    def __init__(
        self,
        start: Model,
        setup: Setup,
        reward: RewardAfter,
        learning_rate: float,
        batch: int,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(start, learning_rate, generator)
        self._setup, self._reward, self._batch = setup, reward, batch

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        import torch

        setup = self._setup
        prompt = np.sort(np.resize(generator.permutation(len(setup.prompts)), self._batch))
        written = setup.write(ModelEngine.of(model), "policy", prompt, generator.random((self._batch, setup.length)))
        reward = self._reward(prompt, written.tokens, written.mask)
        log_probs = token_log_probs(
            model, setup.prompts, prompt, written.tokens, written.mask, setup.policy_law.temperature
        )
        advantage = np.broadcast_to((reward - reward.mean())[:, None], written.mask.shape)[written.mask]
        weight = torch.as_tensor(advantage, dtype=log_probs.dtype, device=log_probs.device)
        return -torch.sum(weight * log_probs) / self._batch
