"""A server diagnosed live: its rollouts, the policy's log-probs beside them, kept, gone on with, and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")

from jackpot_sim.diagnose.cli import main
from jackpot_sim.environments.engines.server import client
from jackpot_sim.environments.language_models.checkpoints import Precision, load
from tests.cases import each
from tests.environments.engines.stand_in import StandIn, serving
from tests.environments.tiny_checkpoints import END

Captured = pytest.CaptureFixture[str]
SAMPLES, LENGTH, PROMPTS = 20, 8, 2


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def stand_in(checkpoints: Path) -> Iterator[StandIn]:
    actor = load(checkpoints / "actor", precision=Precision.FP32, device="cpu")
    with serving(StandIn(actor.model, actor.tokenizer, "vllm", (END,))) as server:
        yield server


def options(server: StandIn, checkpoints: Path, **changes: Any) -> list[str]:
    given = {
        "server": server.url,
        "policy": checkpoints / "policy",
        "prompts": checkpoints / "prompts.jsonl",
        "samples": SAMPLES,
        "max-new-tokens": LENGTH,
        **changes,
    }
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def report(given: list[str], tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "r.json"
    assert main([*given, "--json", str(file), "--quiet", "--workers", "1"]) in (0, 1)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def rows(found: dict[str, Any]) -> pd.DataFrame:
    """The dump that a report names."""
    return pd.concat([pd.read_parquet(path) for path in Path(found["source"]["paths"]).glob("*.parquet")])


@each("flavour", ["vllm", "sglang", "llama.cpp", "tgi"])
def test_a_server_is_diagnosed_without_a_dump(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, flavour: str
) -> None:
    stand_in.flavour = flavour
    found = report(options(stand_in, checkpoints, topk=5) if False else options(stand_in, checkpoints), tmp_path)
    dump = rows(found)
    assert dump["sequence"].nunique() == SAMPLES * PROMPTS
    assert found["rows"]["used"] == len(dump)
    names = {figure["name"] for figure in found["metrics"]}
    assert "overlap_p5_low" in names
    loaded = {side: load(checkpoints / side, precision=Precision.FP32, device="cpu") for side in ("actor", "policy")}
    first = dump[dump["sequence"] == "0-0-0-0"]
    check = [1, 2, *first["token"]]  # "a b" and its rollout
    for side, model in loaded.items():
        import torch

        with torch.inference_mode():
            scores = model.model(torch.tensor([check])).logits[0, 1:-1].log_softmax(-1)
        own = scores[np.arange(len(first)), list(first["token"])]
        np.testing.assert_allclose(first[f"{side}_log_prob"], own, rtol=0, atol=1e-5)
