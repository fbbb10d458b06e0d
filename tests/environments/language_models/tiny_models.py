"""A tiny model, prompts and trees, other architectures, and what is checked of several."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.environments.language_models import walking  # noqa: E402
from jackpot_sim.environments.language_models.build import Model, TinyQwen3, build  # noqa: E402
from jackpot_sim.environments.language_models.derivatives import log_prob_features, parameter_gradient  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402
from jackpot_sim.environments.prefix_tree import PrefixTree  # noqa: E402

VOCAB, CONTEXT = 4, 12
MODEL = build(TinyQwen3(hidden=16, context=CONTEXT), VOCAB, np.random.default_rng(0))
PROMPTS = np.array([[0, 1, 2, 1, 3], [3, 3, 0, 2, 2], [1, 0, 0, 0, 1]])
TREES = (PrefixTree(VOCAB, 3), PrefixTree(VOCAB, 4, 1))


def in_blocks_of(rows: int, monkeypatch: pytest.MonkeyPatch, tree: PrefixTree) -> None:
    monkeypatch.setattr(walking, "BLOCK_NUMBERS", rows * 32 * (PROMPTS.shape[1] + tree.length))
    assert walking.rows_at_once(MODEL, PROMPTS.shape[1] + tree.length) == rows


def gpt2() -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=None, eos_token_id=None
    )


SIZES = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=3),
    "gemma3, windows in one layer": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=8, sliding_window=3, layer_types=["sliding_attention", "full_attention"]
    ),
    "lfm2, a recurrent state in one layer": lambda: transformers.Lfm2Config(
        **SIZES, layer_types=["conv", "full_attention"]
    ),
}


def check_gradient_in_features(model: Model, tree: PrefixTree) -> None:
    """Rows of a table that add up to 0 ask the same of logits and of log-probs."""
    table = np.random.default_rng(2).normal(size=(len(PROMPTS), tree.prefixes, VOCAB))
    table -= table.mean(axis=-1, keepdims=True)
    gradient = parameter_gradient(model, PROMPTS, tree, table)
    features = log_prob_features(model, PROMPTS, tree)
    assert np.max(np.abs(gradient)) > 1e-3
    np.testing.assert_allclose(np.einsum("psx,psxk->k", table, features), gradient, rtol=0, atol=1e-10)
    laws = np.exp(CausalLM(model).log_probs(PROMPTS, tree))
    assert np.max(np.abs(np.einsum("psx,psxk->psk", laws, features))) < 1e-12  # as of anything that is normalised
