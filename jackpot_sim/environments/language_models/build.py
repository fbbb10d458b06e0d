"""Causal language models through transformers: tiny ones made from a seed, or a checkpoint on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from jackpot_sim.environments.fields import FORBID_EXTRA, check_count, check_positive
from jackpot_sim.environments.language_models.carried import gguf_of, is_gguf
from jackpot_sim.environments.language_models.checkpoints import check_causal, check_weights, read_model
from jackpot_sim.environments.language_models.checkpoints import load_tokenizer as load_tokenizer
from jackpot_sim.environments.language_models.library import Model as Model
from jackpot_sim.environments.language_models.library import Tokenizer as Tokenizer
from jackpot_sim.environments.language_models.library import fresh, library, quiet

_TRANSFORMERS_RANGE = 0.02
"""The standard deviation that transformers gives the entries of a matrix."""


@dataclass(frozen=True, kw_only=True)
class TinyQwen3:
    """A Qwen3 with random weights: every matrix is normal with standard deviation 0.02 · `initial_scale`.

    The default scale gives laws with something to learn from: at hidden = 32 their mean entropy is about 0.7 of
    log V for V = 4 … 64, and they differ between prefixes. At scale 1, transformers' own, they are uniform to
    within a percent. A hidden size of 64 has the same entropy at scale 9, one of 16 at scale 17.

    Attributes:
        hidden: the width; every head has `hidden` / `heads` entries, and the MLP is twice as wide.
        layers: the number of layers.
        heads: the number of query heads.
        kv_heads: the number of key and value heads, which divides `heads`.
        context: the most tokens, prompt and new ones together.
        initial_scale: the standard deviation of the weights, in units of transformers' own.
    """

    kind: Literal["qwen3"] = "qwen3"
    hidden: int = 32
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    context: int = 64
    initial_scale: float = 13.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads"):
            check_count(name, getattr(self, name), 1)
        check_count("context", self.context, 2)
        check_positive("initial_scale", self.initial_scale)
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden={self.hidden} must be a multiple of 2 · heads, that is of {2 * self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} must divide heads={self.heads}")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model of any architecture, as `save_pretrained` leaves it.

    Attributes:
        path: the folder with config.json and the weights, beside which a tokenizer may lie; or a GGUF file, or the
            name of a model that a package carries.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    path: Path

    __pydantic_config__ = FORBID_EXTRA

    def files(self) -> tuple[Path, ...]:
        """The files in the folder, in order; the GGUF file, or the path itself, if there is no such folder."""
        if is_gguf(self.path):
            return (gguf_of(self.path),)
        folder = Path(self.path)
        return tuple(sorted(path for path in folder.iterdir() if path.is_file())) if folder.is_dir() else (folder,)


LanguageModel: TypeAlias = TinyQwen3 | Checkpoint


def build(config: LanguageModel, vocab: int, generator: np.random.Generator) -> Model:
    """The model in float64, without dropout; torch's global generator stays as it was.

    Args:
        config: the model.
        vocab: V, the number of tokens that the model must have.
        generator: gives the weights of a random model, the same bits from the same state; a checkpoint draws
            nothing from it.

    Raises:
        ValueError: a checkpoint cannot be read, lacks weights, holds NaN or inf, has another vocabulary, or is not
            causal.
    """
    import torch

    check_count("vocab", vocab, 2)
    with torch.random.fork_rng(devices=[]), quiet():
        if isinstance(config, TinyQwen3):
            return _random_qwen3(config, vocab, generator)
        model = read_model(config.path, torch.float64)
    check_model(model, str(config.path), vocab=vocab)
    check_causal(model, str(config.path))
    return model


def check_model(model: Model, name: str, *, vocab: int | None = None, positions: int | None = None) -> None:
    """Refuses a model that cannot score the sequences of its environment.

    Args:
        model: the model.
        name: the model's name in errors.
        vocab: the number of tokens that it must have.
        positions: the number of tokens that it must read, prompt and new ones together.

    Raises:
        ValueError: a weight is NaN or inf, the vocabulary is another, or the context is too short.
    """
    if vocab is not None:
        check_vocabulary(model, vocab, name)
    if positions is not None:
        check_positions(model, positions, name)
    check_weights(model, name)


def check_vocabulary(model: Model, vocab: int, name: str) -> None:
    """Refuses a model with another number of tokens, in its config or in its head."""
    for place, size in _vocabularies(model).items():
        if size != vocab:
            raise ValueError(
                f"{name} has a vocabulary of {size} ({place}), and the environment, and so every model in it, one of "
                f"{vocab}: give vocab={size}, or another model"
            )


def check_positions(model: Model, positions: int, name: str) -> None:
    """Refuses more tokens, prompt and new ones together, than the model's context holds."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and positions > context:
        raise ValueError(f"{name} reads at most {context} tokens: prompt and new tokens together would be {positions}")


def check_same_vocabulary(
    policy: Model,
    actor: Model,
    policy_tokenizer: Tokenizer | None = None,
    actor_tokenizer: Tokenizer | None = None,
) -> None:
    """Refuses two models whose token ids differ in meaning; tokenizers are compared where both are given.

    Raises:
        ValueError: the sizes differ, or a token has different ids.
    """
    sizes = [_vocabularies(model)["config.vocab_size"] for model in (policy, actor)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"the policy has a vocabulary of {sizes[0]} and the actor one of {sizes[1]}: they must agree")
    if policy_tokenizer is None or actor_tokenizer is None:
        return
    ours, theirs = policy_tokenizer.get_vocab(), actor_tokenizer.get_vocab()
    differing = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    if differing:
        first = min(differing, key=lambda token: (ours.get(token, theirs.get(token)), token))
        raise ValueError(
            f"the token {first!r} has id {ours.get(first)} for the policy's tokenizer and "
            f"{theirs.get(first)} for the actor's: they must agree"
        )


def _random_qwen3(config: TinyQwen3, vocab: int, generator: np.random.Generator) -> Model:
    import torch

    model = fresh(
        library().Qwen3Config(
            vocab_size=vocab,
            hidden_size=config.hidden,
            intermediate_size=2 * config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=config.context,
            initializer_range=_TRANSFORMERS_RANGE * config.initial_scale,
        ),
        torch.float64,
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                drawn = generator.normal(0, _TRANSFORMERS_RANGE * config.initial_scale, tuple(weight.shape))
                weight.copy_(torch.from_numpy(drawn))
    return model.eval()


def _vocabularies(model: Model) -> dict[str, int]:
    """The size of the vocabulary, by the place where the model states it."""
    head = model.get_output_embeddings()
    sizes = {"config.vocab_size": int(model.config.get_text_config().vocab_size)}
    return sizes if head is None else sizes | {"rows of the output embedding": int(head.weight.shape[0])}
