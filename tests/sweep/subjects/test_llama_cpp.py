"""An engine and its trainer on the same weights: the sweep's records against a count of a page, on the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jackpot_sim.requirements import RequirementError
from jackpot_sim.sweep import records, spec
from tests.environments.tiny_gguf import write_gguf
from tests.sweep.studies import run_serially

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
llama_cpp = pytest.importorskip("llama_cpp")

from jackpot_sim.environments.language_models import carried  # noqa: E402

CLOSE = 1e-6
"""The issue's own bound; a token that is read alone, as here, has logits that differ by some 1e-7."""


def counted(file: str, built: Any, text: Any, flash: bool = True) -> dict[str, float]:
    """Mean KL, overlap and |ℓ| over the tokens of rollouts, with nothing of this project but the tokens."""
    engine = llama_cpp.Llama(
        file, logits_all=True, flash_attn=flash, n_ctx=256, n_batch=32, n_ubatch=32, n_threads=1, verbose=False
    )
    kl, overlap, gaps = [], [], []
    for prompt, tokens, mask in zip(text.prompt, text.tokens, text.mask, strict=True):
        ids, start = [*built.setup.prompts[prompt], *tokens[mask]], len(built.setup.prompts[prompt])
        engine.reset()
        engine.eval([int(each) for each in ids[:-1]])
        with torch.inference_mode():
            logits = built.policy.model(torch.tensor([ids[:-1]])).logits[0, start - 1 :].double()
        p = torch.log_softmax(logits, -1).numpy()
        q = torch.log_softmax(torch.from_numpy(engine.scores[start - 1 : len(ids) - 1]).double(), -1).numpy()
        kl += list(np.sum(np.exp(q) * (q - p), axis=-1))
        overlap += list(np.sum(np.minimum(np.exp(p), np.exp(q)), axis=-1))
        gaps += [abs(p[at, token] - q[at, token]) for at, token in enumerate(ids[start:])]
    engine.close()
    return {"kl": np.mean(kl), "overlap": np.mean(overlap), "gap": np.mean(gaps), "tokens": len(kl)}


def measured(root: Path, policy: str, prompts: list[str], **sizes: Any) -> tuple[Any, Any, Any]:
    """The record of a study of this pair, the environment as it was built, and the actor's rollouts in that record."""
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    env = {"kind": "hf", "policy": policy, "actor": {"kind": "llama-cpp"}, "prompts": {"path": root / "prompts.jsonl"}}
    env |= {"gradients": "off", "device": "cpu", "length": sizes.pop("length")}
    study = spec.parse({"env": env, "estimators": ["none", "obrs"], "seeds": 1, **sizes})
    found = records.load(run_serially(study, root / "out"))
    built: Any = study.env[0].build(0)
    row = found[found["estimator"] == "obrs"].iloc[0]
    return row, built, built.write("actor", 0, sizes["n_samples"], sizes["replicates"])


def test_records_are_those_of_a_count_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(carried.CACHE, str(tmp_path / "cache"))
    file = str(write_gguf(tmp_path / "tiny.gguf", 0, "Q8_0"))
    row, built, text = measured(tmp_path, file, ["ab a", "c"], length=8, n_samples=3, replicates=3)
    count = counted(file, built, text)
    assert count["tokens"] == text.mask.sum() > 50
    assert count["kl"] > 1e-3
    assert row["kl_actor_policy"] == pytest.approx(count["kl"], abs=CLOSE)
    assert row["acceptance_rate"] == pytest.approx(count["overlap"], abs=CLOSE)


@pytest.mark.nightly
def test_a_real_engine_and_its_trainer_disagree_as_such_pairs_do(tmp_path: Path) -> None:
    """SmolLM2 in Q4_1, whose weights both read: between an FP8 cache (KL 0.002) and sparse attention (0.02) of [J]."""
    try:
        file = str(carried.gguf_of("smollm2"))
    except RequirementError as error:
        pytest.skip(str(error))
    prompts = ["What is the capital of France?", "Tell me a short story about a dog and a cat."]
    row, built, text = measured(tmp_path, "smollm2", prompts, length=24, n_samples=2, replicates=3)
    count = counted(file, built, text)
    assert row["kl_actor_policy"] == pytest.approx(count["kl"], abs=CLOSE)
    assert row["acceptance_rate"] == pytest.approx(count["overlap"], abs=CLOSE)
    for each in (count, counted(file, built, text, flash=False)):
        assert 0.002 < each["kl"] < 0.02, each
        assert 0.94 < each["overlap"] < 0.98, each
        assert 0.03 < each["gap"] < 0.13, each
