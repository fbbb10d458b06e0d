"""Tiny random models of several architectures, with prompts of different lengths, and a plain forward pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jackpot_sim.core.arrays import Flags, Floats, Ints  # noqa: E402
from jackpot_sim.environments.language_models.library import Model, in_double, logits  # noqa: E402
from jackpot_sim.environments.language_models.sampling_law import SamplingLaw  # noqa: E402
from jackpot_sim.environments.language_models.scoring import CausalLM  # noqa: E402

VOCAB, CONTEXT = 50, 48
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
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "initializer_range": 0.3}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCAB, bos_token_id=None, eos_token_id=None, **GPT2),
    "gemma2, capped logits, windows": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=8, sliding_window=4, final_logit_softcapping=3.0, query_pre_attn_scalar=8
    ),
    "mistral, windows": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "granite, scaled logits": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=2.0),
    "qwen3 of experts": lambda: transformers.Qwen3MoeConfig(
        **SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "lfm2, a recurrent state": lambda: transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
}
PROMPTS = [np.array([5, 1, 7]), np.array([3]), np.array([9, 8, 7, 6, 5, 4, 3, 2]), np.array([1, 2, 3, 4, 5])]


def made(name: str, dtype: Any = None, seed: int = 0) -> Model:
    """A random model of this architecture, float64 if no other dtype is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            ARCHITECTURES[name](), dtype=dtype or torch.float64, experts_implementation="eager"
        )
    return model.eval()


def plain_laws(scorer: CausalLM, prompt: Ints, tokens: Ints, sampling: SamplingLaw) -> Floats:
    """The laws along one sequence, read whole and alone, (tokens, vocab)."""
    model = scorer.model
    read = torch.as_tensor(np.concatenate([prompt, tokens])[None])
    cache = None if scorer.new_cache is None else scorer.new_cache()
    with torch.no_grad(), in_double(model):
        laws = sampling.log_probs(logits(model, read, cache=cache)[0, len(prompt) - 1 : -1])
    return np.asarray(laws.numpy())


def along(scorer: CausalLM, prompt: Ints, tokens: Ints, mask: Flags, sampling: SamplingLaw) -> list[Floats]:
    """`plain_laws` of every sequence."""
    return [
        plain_laws(scorer, PROMPTS[at], row[there], sampling)
        for at, row, there in zip(prompt, tokens, mask, strict=True)
    ]
