"""Two tiny checkpoints of the same few words on disk, with prompts: real files, real loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WORDS = ("<end>", "a", "b", "c", "d")
END = 0
PROMPTS = ({"prompt": "a b", "answer": "c"}, {"prompt": "c", "answer": "a b"})


def save_checkpoint(path: Path, seed: int, words: tuple[str, ...] = WORDS, hidden: int = 16) -> Path:
    """A random Qwen3 whose laws are far from uniform, with a tokenizer of whole words."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.Qwen3Config(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(path)
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[0])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=words[0]).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `policy`, `actor` and `prompts.jsonl`."""
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(root / "policy", 0)
    save_checkpoint(root / "actor", 1)
    (root / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in PROMPTS), encoding="utf-8")
    return root


def hf(root: Path, **changes: Any) -> dict[str, Any]:
    """An `hf` environment of these, as a study's file would have it; in float64, so that it can be checked."""
    return {
        "kind": "hf",
        "policy": str(root / "policy"),
        "actor": str(root / "actor"),
        "prompts": str(root / "prompts.jsonl"),
        "length": 3,
        "precision": "fp64",
        "device": "cpu",
        "rows": 7,
        "batch_size": 5,
        **changes,
    }
