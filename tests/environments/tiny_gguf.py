"""The tiny checkpoint of `tiny_checkpoints` as a GGUF file, in float32 and with the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def save_gguf(path: Path, checkpoint: Path) -> Path:
    """The Qwen3 in a checkpoint's folder, as llama.cpp reads it."""
    gguf, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    return write(path, gguf, model, tokenizer.convert_ids_to_tokens(range(len(tokenizer))))


def write(path: Path, gguf: Any, model: Any, words: list[str]) -> Path:
    """Writes it with these words as tokens, the first of which ends a sequence."""
    config, writer = model.config, gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(words) - 1))
    writer.add_token_merges([f"{words[1]} {words[2]}"])  # llama.cpp wants one
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        new = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(new, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
