"""Small real language models in which faults of rollouts are planted: a policy, and all that an actor may be instead.

The models read bytes and learn from the sources of Python's standard library, so that their laws have likely tokens,
long tails, and much difference between states. Everything follows from the seed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from jackpot_sim.core.arrays import Ints
from jackpot_sim.environments.corpus import split_text
from jackpot_sim.environments.language_models.example import Example, Size, trained_model
from jackpot_sim.environments.language_models.formats import Format, rounded
from jackpot_sim.environments.language_models.library import LAST, Model, Tensor, empty_cache, logits
from jackpot_sim.environments.language_models.teaching import TrainingPath
from jackpot_sim.environments.randomness import keyed_generator

VOCAB = 256
END = 0
"""The byte that no text holds."""
_TEXT, _CONTEXT, _BATCH = 60_000, 64, 8
_RL_ROWS, _RL_TOKENS, _RL_RATE = 32, 24, 5e-4
_OTHER_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Family:
    """The sizes of a world.

    Attributes:
        hidden: the width of the policy.
        layers: its number of layers.
        steps: the steps of its pre-training.
        prompt: bytes of a prompt.
        tokens: bytes of a completion.
        sequences: completions in a dump.
        text: the place of the text that all models learn from, in texts of 60,000 bytes from the beginning.
    """

    hidden: int = 64
    layers: int = 2
    steps: int = 500
    prompt: int = 24
    tokens: int = 40
    sequences: int = 64
    text: int = 0


SECOND = Family(hidden=96, layers=3, steps=300, tokens=16, sequences=16, text=9)
"""Another size, another text, and dumps of an eleventh as many tokens."""


class _Bytes:
    """The little that `trained_model` asks of a tokenizer."""

    eos_token_id = pad_token_id = END

    def __len__(self) -> int:
        return VOCAB


@functools.cache
def text(place: int) -> Ints:
    """A piece of the sources of the standard library, (60,000,)."""
    part = split_text(None, 2_000_000, 0.01)[0]
    piece = part[(place * _TEXT) % (len(part) - _TEXT) :][:_TEXT]
    return piece.astype(np.int64)


class OnText(TrainingPath):
    """The model in training on pieces of a text; with a teacher, on the teacher's laws there (distillation)."""

    def __init__(self, start: Model, ids: Ints, rate: float, seed: int, teacher: Model | None = None) -> None:
        super().__init__(start, rate, np.random.default_rng((seed, 17)))
        self._ids, self._teacher = ids, teacher

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        starts = generator.integers(len(self._ids) - _CONTEXT, size=_BATCH)
        rows = torch.from_numpy(self._ids[starts[:, None] + np.arange(_CONTEXT + 1)])
        laws = torch.log_softmax(logits(model, rows[:, :-1]), -1)
        if self._teacher is None:
            return -laws.gather(-1, rows[:, 1:, None]).mean()
        with torch.no_grad():
            target = torch.log_softmax(logits(self._teacher, rows[:, :-1]), -1)
        return torch.nn.functional.kl_div(laws, target, reduction="none", log_target=True).sum(-1).mean()


class OnReward(TrainingPath):
    """REINFORCE on the model's own rollouts; their reward is the share of letters among the bytes."""

    def __init__(self, start: Model, world: World) -> None:
        super().__init__(start, _RL_RATE, np.random.default_rng((world.seed, 23)))
        self._world = world

    @override
    def _loss(self, model: Model, generator: np.random.Generator) -> Tensor:
        prompts = self._world.prompts(generator, _RL_ROWS)
        with torch.inference_mode():
            tokens = written(model, prompts, generator.random((_RL_ROWS, _RL_TOKENS)), lambda law: law)[0]
        ids = torch.from_numpy(np.concatenate([prompts, tokens], 1))
        laws = torch.log_softmax(logits(model, ids[:, :-1], slice(prompts.shape[1] - 1, None)), -1)
        reward = letters(tokens)
        advantage = torch.from_numpy((reward - reward.mean()) / (reward.std() + 1e-6)).float()
        return -(advantage[:, None] * laws.gather(-1, torch.from_numpy(tokens)[..., None])[..., 0]).mean()


def letters(tokens: Ints) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The share of letters in each row of bytes, (n, length) → (n,)."""
    return np.asarray(((tokens | 32) >= 97) & ((tokens | 32) <= 122), dtype=np.float64).mean(1)


def written(
    model: Model, prompts: Ints, uniforms: np.ndarray[Any, Any], law_of: Callable[[Tensor], Tensor]
) -> tuple[Ints, Tensor, Tensor]:
    """Tokens drawn one after the other against the cache, as an engine draws them.

    Returns:
        The tokens, (n, length); log-probs of the model's own law, (n, length, vocab), float32; and of the law that
        `law_of` makes of it, from which the tokens come.
    """
    cache, new = empty_cache(model.config), torch.from_numpy(prompts)
    tokens, raw, drawn = [], [], []
    for uniform in torch.from_numpy(uniforms).T:
        law = torch.log_softmax(logits(model, new, LAST, cache=cache)[:, 0].float(), -1)
        sampled = law_of(law)
        mass = sampled.double().exp().cumsum(-1)
        new = torch.searchsorted(mass, (uniform * mass[:, -1])[:, None], right=True).clamp(max=VOCAB - 1)
        tokens.append(new[:, 0])
        raw.append(law)
        drawn.append(sampled)
    return torch.stack(tokens, 1).numpy(), torch.stack(raw, 1), torch.stack(drawn, 1)


class World:
    """A policy taught on text, and the models that stand in for it where something is wrong."""

    def __init__(self, family: Family, seed: int) -> None:
        self.family, self.seed = family, seed
        self._size = Size(hidden=family.hidden, layers=family.layers)
        self._ids, self._unseen = text(family.text), text(family.text + 1)

    def prompts(self, generator: np.random.Generator, count: int) -> Ints:
        """Pieces of text that no model has learnt from, (count, prompt)."""
        starts = generator.integers(len(self._unseen) - self.family.prompt, size=count)
        return self._unseen[starts[:, None] + np.arange(self.family.prompt)]

    def _taught(self, name: str, size: Size, steps: int) -> Model:
        example = Example(vocab=300, steps=steps, seed=self.seed, context=_CONTEXT, batch=_BATCH)
        return trained_model(name, size, self._ids, example, _Bytes())

    @functools.cached_property
    def policy(self) -> Model:
        """The policy before reinforcement learning."""
        return self._taught("policy", self._size, self.family.steps)

    @functools.cached_property
    def early(self) -> Model:
        """The same weights after a tenth of the pre-training."""
        return self._taught("policy", self._size, self.family.steps // 10)

    @functools.cached_property
    def ascent(self) -> OnReward:
        """The policy in reinforcement learning."""
        return OnReward(self.policy, self)

    @functools.cached_property
    def finetuning(self) -> OnText:
        """The policy in training on another text."""
        return OnText(self.policy, text(self.family.text + 5), _OTHER_RATE, self.seed)

    @functools.cached_property
    def distillation(self) -> OnText:
        """A model of half the width in training on the policy's laws."""
        example = Example(vocab=300, steps=1, seed=self.seed, context=_CONTEXT, batch=_BATCH)
        student = trained_model("student", Size(hidden=64, layers=1), self._ids, example, _Bytes())
        return OnText(student, self._ids, 5e-3, self.seed, teacher=self.policy)


def quantised(model: Model, to: Format, share: float = 1.0) -> Model:
    """A copy whose linear layers inside the blocks are rounded, or moved by that many times the rounding error."""
    out = copy.deepcopy(model)
    head = out.get_output_embeddings()
    with torch.no_grad():
        for module in out.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                group = 32 if to is Format.INT4 else None
                module.weight += share * (rounded(module.weight, to, group) - module.weight)
    return out


def half(model: Model) -> Model:
    """A copy with bfloat16 weights whose layers round all that they give to bfloat16, as tensor cores do.

    Sums are in float32. CPUs without bfloat16 are ten times slower at the real thing.
    """
    out = copy.deepcopy(model)
    with torch.no_grad():
        for weight in out.parameters():
            weight.copy_(rounded(weight, Format.BF16))
    for module in out.modules():
        if not list(module.children()):
            module.register_forward_hook(_rounds)
    return out


def _rounds(_: object, __: object, output: Any) -> Any:
    return output.bfloat16().to(output.dtype) if isinstance(output, torch.Tensor) else output


def partly(model: Model, old: Model, share: float) -> Model:
    """A copy in whose last block a share of the rows of every matrix, as of some ranks, still are those of `old`."""
    out = copy.deepcopy(model)
    block = f"layers.{model.config.num_hidden_layers - 1}."
    kept = dict(old.named_parameters())
    with torch.no_grad():
        for name, weight in out.named_parameters():
            if block in name and weight.ndim == 2:
                rows = round(share * len(weight))
                weight[:rows] = kept[name][:rows]
    return out


def keyed(world: World, *key: object) -> np.random.Generator:
    """Draws that depend on the world's seed and the key alone."""
    return keyed_generator(world.seed, "dumps", *key)
