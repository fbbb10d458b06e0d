"""Tiny models trained on the spot: on a small language, by policy gradient, or on a teacher.

Each training is a path of AdamW steps (β = (0.9, 0.95), ε = 1e−8, no weight decay, a constant learning rate, batches of
64 sequences). The draws of step i are keyed by i, so the model after n steps does not depend on the order in which
steps were asked for, and a number of steps can be a knob. torch's own generators are not used.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from typing_extensions import override

from jackpot_sim.core.arrays import Flags, Floats, Ints
from jackpot_sim.core.checks import check_integers
from jackpot_sim.core.sampling import categorical
from jackpot_sim.environments.language_models.completions import logits_along
from jackpot_sim.environments.language_models.library import LAST, Model, Tensor, logits
from jackpot_sim.environments.prefix_tree import PrefixTree

BATCH = 64
BETAS = (0.9, 0.95)
EPSILON = 1e-8

COHERENCE = 0.8
"""The share of the tokens of the small language that follow its rule."""
ENDING = 0.1
"""The probability that a sequence of the small language ends at a token."""
STRIDES = 3

RewardOf: TypeAlias = Callable[[Ints, Flags], Floats]
"""(tokens, mask), each (n, length) → R of shape (n,)."""


@dataclass(frozen=True)
class StrideLanguage:
    """A language that a model learns in seconds, though it must look back to the first token.

    The tokens that do not end a sequence lie on a circle, in order of their ids. A prompt is drawn uniformly among
    them, and its first token, the i-th of the circle, decides the stride 1 + (i mod 3). Each new token ends the
    sequence with probability 0.1, if there is an end token; else it lies one stride beyond the token before it with
    probability 0.8, or anywhere on the circle, uniformly.

    Attributes:
        tree: the vocabulary, the end token, and the most new tokens.
        prompt_length: tokens before the first new one.
    """

    tree: PrefixTree
    prompt_length: int

    def prompts(self, generator: np.random.Generator, n: int) -> Ints:
        """Prompts of shape (n, prompt_length)."""
        return generator.choice(self.tree.going_on, size=(n, self.prompt_length))

    def draw(self, generator: np.random.Generator, n: int) -> tuple[Ints, Ints, Flags]:
        """Prompts (n, prompt_length), and the sequences after them: tokens and mask, each (n, length)."""
        prompts = self.prompts(generator, n)
        circle, size = self.tree.going_on, len(self.tree.going_on)
        stride = 1 + np.searchsorted(circle, prompts[:, 0]) % STRIDES
        place = np.searchsorted(circle, prompts[:, -1])
        tokens, mask = np.zeros((n, self.tree.length), dtype=np.int64), np.zeros((n, self.tree.length), dtype=np.bool_)
        alive = np.ones(n, dtype=np.bool_)
        for step in range(self.tree.length):
            ruled = generator.random(n) < COHERENCE
            place = np.where(ruled, (place + stride) % size, generator.integers(size, size=n))
            tokens[:, step], mask[:, step] = circle[place], alive
            if self.tree.end_token is not None:
                ended = generator.random(n) < ENDING
                tokens[ended, step] = self.tree.end_token
                alive = alive & ~ended
        return prompts, tokens, mask


class TrainingPath(ABC):
    """A model in training; it goes on from the nearest step that was asked for before.

    Args:
        start: the model before the first step.
        learning_rate: that of AdamW.
        generator: keys the draws of all steps.
    """

    def __init__(self, start: Model, learning_rate: float, generator: np.random.Generator) -> None:
        self._learning_rate = learning_rate
        self._key = int(generator.integers(2**63))
        self._known: dict[int, tuple[Model, dict[str, Any] | None]] = {0: (start, None)}

    def after(self, steps: int) -> Model:
        """The model after so many steps, not to be changed by the caller."""
        if steps not in self._known:
            nearest = max(known for known in self._known if known < steps)
            self._known[steps] = self._walked(nearest, steps)
        return self._known[steps][0]

    def _walked(self, start: int, stop: int) -> tuple[Model, dict[str, Any]]:
        """The model and the optimiser's state after `stop` steps, from those after `start`."""
        import torch

        model, state = copy.deepcopy(self._known[start])
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self._learning_rate, betas=BETAS, eps=EPSILON, weight_decay=0.0
        )
        if state is not None:
            optimizer.load_state_dict(state)
        with torch.enable_grad():
            for step in range(start, stop):
                loss = self._loss_at(step, model)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
        optimizer.zero_grad()
        return model, optimizer.state_dict()

    def _loss_at(self, step: int, model: Model) -> Tensor:
        try:
            loss = self._loss(model, np.random.default_rng((self._key, step)))
        except ValueError as error:  # a model of NaN draws nothing
            raise self._diverged(step) from error
        if not math.isfinite(loss.item()):
            raise self._diverged(step)
        return loss

    def _diverged(self, step: int) -> ValueError:
        return ValueError(f"training diverged by step {step}: make learning_rate={self._learning_rate:g} smaller")

    @abstractmethod
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        """The loss of a step, a scalar."""


class Pretraining(TrainingPath):
    """The cross-entropy of the new tokens of a small language: its mean over tokens, nats."""

    def __init__(
        self, start: Model, language: StrideLanguage, learning_rate: float, generator: np.random.Generator
    ) -> None:
        super().__init__(start, learning_rate, generator)
        self._language = language

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        prompts, tokens, mask = self._language.draw(generator, BATCH)
        return -_mean_over(_of_tokens(_laws(model, prompts, tokens), tokens), mask)


class PolicyGradientAscent(TrainingPath):
    """REINFORCE on rollouts that each step draws anew from the current model.

    The gradient of (1/64) Σ_i (R_i − R̄) log p(y_i); the batch goes round the prompts, and R̄ is its mean reward.
    """

    def __init__(
        self,
        start: Model,
        prompts: Ints,
        tree: PrefixTree,
        reward: RewardOf,
        learning_rate: float,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(start, learning_rate, generator)
        check_integers(prompts, "prompts", "prompts", "prompt_length")
        self._prompts, self._tree, self._reward = prompts, tree, reward

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        import torch

        prompts, tokens, mask = _batch(model, self._prompts, self._tree, generator)
        reward = self._reward(tokens, mask)
        advantage = torch.from_numpy((reward - np.mean(reward))[:, None] * mask)
        return -torch.sum(advantage * _of_tokens(_laws(model, prompts, tokens), tokens)) / BATCH


class Distillation(TrainingPath):
    """KL(teacher‖student) over the whole vocabulary, averaged over the prefixes of the teacher's rollouts."""

    def __init__(
        self,
        start: Model,
        teacher: Model,
        prompts: Ints,
        tree: PrefixTree,
        learning_rate: float,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(start, learning_rate, generator)
        check_integers(prompts, "prompts", "prompts", "prompt_length")
        self._teacher, self._prompts, self._tree = teacher, prompts, tree

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        import torch

        prompts, tokens, mask = _batch(self._teacher, self._prompts, self._tree, generator)
        with torch.no_grad():
            teacher = _laws(self._teacher, prompts, tokens)
        kl = torch.nn.functional.kl_div(_laws(model, prompts, tokens), teacher, reduction="none", log_target=True)
        return _mean_over(kl.sum(-1), mask)


def _batch(model: Model, prompts: Ints, tree: PrefixTree, generator: np.random.Generator) -> tuple[Ints, Ints, Flags]:
    """A batch of the model's own rollouts, going round the prompts: prompts, tokens and mask, 64 rows each."""
    import torch

    ids = prompts[np.arange(BATCH) % len(prompts)]
    mask = np.ones((BATCH, tree.length), dtype=np.bool_)
    for step, uniforms in enumerate(generator.random((tree.length, BATCH, 1))):
        with torch.no_grad():
            last = logits(model, torch.from_numpy(ids), LAST)[:, 0]
        token = np.asarray(categorical(torch.log_softmax(last, -1).numpy(), uniforms))
        ids = np.concatenate([ids, token], axis=1)
        mask[:, step + 1 :] &= token != tree.end_token
    length = prompts.shape[1]
    return ids[:, :length], ids[:, length:], mask


def _laws(model: Model, prompts: Ints, tokens: Ints) -> Tensor:
    """log p(·|s) at the prefix of every token, (n, length, vocab), with its graph; nats."""
    import torch

    return torch.log_softmax(logits_along(model, prompts, tokens), -1)


def _of_tokens(laws: Tensor, tokens: Ints) -> Tensor:
    """log p of every token, (n, length), from laws of shape (n, length, vocab); nats."""
    import torch

    return laws.gather(-1, torch.from_numpy(tokens)[..., None])[..., 0]


def _mean_over(values: Tensor, mask: Flags) -> Tensor:
    """The mean of values (n, length) over the tokens that the mask marks."""
    import torch

    return values[torch.from_numpy(mask)].mean()
