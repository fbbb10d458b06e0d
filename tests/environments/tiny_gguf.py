"""A tiny Llama as a GGUF file, written by the package gguf: real parsing, and llama.cpp runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("a b", "c d", "Ġ a")
END = 2
WIDTH, LAYERS, HEADS, KV_HEADS, MIDDLE, CONTEXT = 32, 2, 2, 1, 64, 64
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def converts() -> None:
    """Skips a test of a conversion with a transformers that makes another tokenizer of the file, and is refused."""
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers", minversion="5.24")


def letters() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's byte-level pairs."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in shown] + [chr(256 + at) for at in range(256 - len(shown))]


TOKENS = [*SPECIAL, *letters(), *(merge.replace(" ", "") for merge in MERGES)]


def weights(seed: int, tied: bool = True) -> dict[str, Any]:
    """Random tensors in float32 by their names in a GGUF file; laws are far from uniform."""
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Any:
        return generator.normal(scale=0.25, size=(rows, columns)).astype(np.float32)

    def gain() -> Any:
        return generator.uniform(0.5, 1.5, size=WIDTH).astype(np.float32)

    keys = WIDTH // HEADS * KV_HEADS
    out = {"token_embd.weight": matrix(len(TOKENS), WIDTH), "output_norm.weight": gain()}
    if not tied:
        out["output.weight"] = matrix(len(TOKENS), WIDTH)
    for layer in range(LAYERS):
        sizes = {"attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH)}
        sizes |= {"attn_output": (WIDTH, WIDTH), "ffn_gate": (MIDDLE, WIDTH), "ffn_up": (MIDDLE, WIDTH)}
        sizes |= {"ffn_down": (WIDTH, MIDDLE)}
        out |= {f"blk.{layer}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        out |= {f"blk.{layer}.{name}.weight": gain() for name in ("attn_norm", "ffn_norm")}
    return out


def write_gguf(
    path: Path,
    seed: int = 0,
    kind: str = "Q8_0",
    *,
    tied: bool = True,
    architecture: str = "llama",
    without: tuple[str, ...] = (),
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the file, its matrices in that format, without some of its tensors or with some more."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token in SPECIAL else normal for token in TOKENS])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)
    for name, values in {**weights(seed, tied), **(extra or {})}.items():
        if name in without:
            continue
        given = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(values, given), raw_dtype=given)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
