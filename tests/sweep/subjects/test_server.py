"""A sweep whose actor is a server: records are those of the served model, and a run that broke off goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")

from jackpot_sim.environments.engines.server import client  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load  # noqa: E402
from jackpot_sim.sweep import records, spec  # noqa: E402
from jackpot_sim.sweep.cli import main  # noqa: E402
from tests.cases import each  # noqa: E402
from tests.environments.engines.stand_in import StandIn, serving  # noqa: E402
from tests.environments.tiny_checkpoints import END, hf  # noqa: E402

SAMPLES, REPLICATES, PROMPTS = 6, 4, 2
ASKED = SAMPLES * REPLICATES * PROMPTS
ROUNDING = 1e-6
"""A server's likeliest log-probs are kept in float32."""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def stand_in(checkpoints: Path) -> Iterator[StandIn]:
    actor = load(checkpoints / "actor", precision=Precision.FP64, device="cpu")
    with serving(StandIn(actor.model, actor.tokenizer, "vllm", (END,))) as server:
        yield server


def asked(stand_in: StandIn, checkpoints: Path, **actor: Any) -> dict[str, Any]:
    """The study's mapping."""
    given = {"kind": "server", "url": stand_in.url, "topk": 3, "retries": 1, **actor}
    env = hf(checkpoints, actor=given, gradients="off", batch_size=60, rows=512)
    sizes = {"seeds": 1, "n_samples": SAMPLES, "replicates": REPLICATES}
    return {"env": env, "estimators": ["none", "obrs"], **sizes}


def command(stand_in: StandIn, checkpoints: Path, out: Path, **actor: Any) -> list[str]:
    """The same study as a command line."""
    given = asked(stand_in, checkpoints, **actor)
    env = given.pop("env")
    options = {f"--env.actor.{name}": value for name, value in env.pop("actor").items()}
    options |= {f"--env.{name.replace('_', '-')}": value for name, value in env.items()}
    sizes = {f"--{name.replace('_', '-')}": value for name, value in given.items() if name != "estimators"}
    words = [str(word) for pair in (options | sizes).items() for word in pair]
    return [*words, "--estimators", *given["estimators"], "--out", str(out), "--quiet"]


def counted(checkpoints: Path, built: Any, text: Any) -> dict[str, float]:
    """Mean overlap and log-ratio at the tokens, from both models' whole laws."""
    overlap, gaps = [], []
    for number, tokens, live in zip(text.prompt, text.tokens, text.mask, strict=True):
        prompt = built.setup.prompts[number]
        ids = torch.tensor([[*prompt, *tokens[live]]])
        laws = []
        for side in ("policy", "actor"):
            model = load(checkpoints / side, precision=Precision.FP64, device="cpu").model
            with torch.inference_mode():
                laws.append(model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1).numpy())
        p, q = laws
        overlap += list(np.minimum(np.exp(p), np.exp(q)).sum(-1))
        gaps += list(q[np.arange(live.sum()), tokens[live]] - p[np.arange(live.sum()), tokens[live]])
    return {"overlap": float(np.mean(overlap)), "k1": float(np.mean(gaps)), "tokens": len(gaps)}


@each("flavour", ["vllm", "sglang", "llama.cpp", "tgi"])
def test_records_are_those_of_the_served_models_laws(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, flavour: str
) -> None:
    stand_in.flavour = flavour
    stand_in.asked.clear()
    out = tmp_path / flavour
    assert main(command(stand_in, checkpoints, out)) == 0
    assert len(stand_in.asked) == ASKED
    found = records.load(out)
    row = found[found["estimator"] == "obrs"].iloc[0]
    built: Any = spec.parse(asked(stand_in, checkpoints)).env[0].build(0)
    text = built.write("actor", 0, SAMPLES, REPLICATES)
    count = counted(checkpoints, built, text)
    told = records.load(out, "diagnostics").set_index("figure")
    assert count["tokens"] == text.mask.sum() > 50
    assert row["laws"] == "top-k"
    assert text.topk is not None
    assert text.topk.k == 3
    assert row["acceptance_low"] - ROUNDING <= count["overlap"] <= row["acceptance_high"] + ROUNDING
    assert row["acceptance_high"] - row["acceptance_low"] < 0.5
    assert told.loc["k1", "value"] == pytest.approx(count["k1"], abs=ROUNDING)


def test_a_sweep_that_broke_off_asks_for_nothing_twice(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = command(stand_in, checkpoints, tmp_path / "out")
    stand_in.faults.extend([None] * 20)
    stand_in.always = "500"
    assert main(given) == 2
    said = sentence(capsys)
    assert "answers 500" in said
    kept = int(said.split("; ")[1].split(" of ")[0])
    assert 12 < kept <= 20
    stand_in.always = None
    stand_in.asked.clear()
    assert main(given) == 0
    assert len(stand_in.asked) == ASKED - kept
    whole = command(stand_in, checkpoints, tmp_path / "whole")
    assert main(whole) == 0
    pd.testing.assert_frame_equal(table(tmp_path / "out"), table(tmp_path / "whole"))


REFUSED = {
    "serves tiny, and not mine": {"model": "mine"},
    "cannot be reached: start the server, or give its url": {"url": "http://127.0.0.1:9/v1"},
}


@each("said", REFUSED)
def test_what_cannot_be_asked_is_one_sentence(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    assert main(command(stand_in, checkpoints, tmp_path / str(len(said)), **REFUSED[said])) == 2
    assert said in sentence(capsys)
    assert not stand_in.asked


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of standard error but those of stages."""
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    (line,) = [each for each in printed.err.splitlines() if not each.startswith("real-models")]
    return line


def table(root: Path) -> pd.DataFrame:
    """The records but for what a run takes and is named."""
    found = records.load(root)
    return found.drop(columns=[name for name in found if "second" in name or name in ("root", "run", "memory")])
