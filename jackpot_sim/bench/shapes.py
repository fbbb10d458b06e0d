"""The shapes of language models whose steps are timed: published ones, and small ones for a CPU.

Weights are random: the cost of a step depends on the shape alone, so that nothing has to be downloaded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

ShapeName: TypeAlias = Literal["tiny", "cpu-30m", "qwen3-0.6b", "qwen3-1.7b", "qwen3-8b"]

Model: TypeAlias = Any
"""A transformers `Qwen3ForCausalLM`."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a Qwen3 model.

    Attributes:
        hidden: the width of the residual stream.
        layers: the number of layers.
        heads: the number of query heads.
        kv_heads: the number of key and value heads, which divides `heads`.
        head_dim: the width of a head; `heads` of them need not add up to `hidden`.
        intermediate: the width of the MLP.
        vocab: the number of tokens.
        tied: True where the embedding is also the head of the model.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name != "tied" and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, got {getattr(self, field.name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} must divide heads={self.heads}")

    def with_vocab(self, vocab: int) -> Shape:
        """The shape with another vocabulary."""
        return dataclasses.replace(self, vocab=vocab)

    @property
    def parameters(self) -> int:
        """The number of parameters; tied ones count once.

        >>> SHAPES["qwen3-8b"].parameters
        8190735360
        """
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads) + 2 * self.head_dim
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden

    def build(self, positions: int, device: str, dtype: str) -> Model:
        """The model in training mode, with transformers' own random weights.

        Args:
            positions: the largest number of tokens in a sequence.
            device: a device of torch, such as "cuda"; on "meta" the weights take no memory.
            dtype: the name of a dtype of torch, such as "bfloat16".
        """
        import torch
        from transformers import Qwen3Config, Qwen3ForCausalLM

        config = Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=positions,
            tie_word_embeddings=self.tied,
        )
        # Built on its device and in its dtype: eight billion float32 weights might not fit beforehand.
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with torch.device(device):
                model = Qwen3ForCausalLM(config)
        finally:
            torch.set_default_dtype(before)
        return model.train()


SHAPES: dict[ShapeName, Shape] = {
    "tiny": Shape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=64, vocab=256, tied=True),
    "cpu-30m": Shape(
        hidden=384, layers=12, heads=6, kv_heads=3, head_dim=64, intermediate=960, vocab=32_000, tied=True
    ),
    "qwen3-0.6b": Shape(
        hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=3072, vocab=151_936, tied=True
    ),
    "qwen3-1.7b": Shape(
        hidden=2048, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=6144, vocab=151_936, tied=True
    ),
    "qwen3-8b": Shape(
        hidden=4096, layers=36, heads=32, kv_heads=8, head_dim=128, intermediate=12_288, vocab=151_936, tied=False
    ),
}
"""Shapes by name: `tiny` for tests, `cpu-30m` of 31 million parameters, and Qwen3 as published."""
