"""A server diagnosed live: its rollouts, the policy's log-probs beside them, kept, gone on with, and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("requests")

from jackpot_sim.diagnose import live  # noqa: E402
from jackpot_sim.diagnose.cli import main  # noqa: E402
from jackpot_sim.environments.engines.server import client  # noqa: E402
from jackpot_sim.environments.language_models.checkpoints import Precision, load  # noqa: E402
from jackpot_sim.record.cli import main as record  # noqa: E402
from tests.cases import each  # noqa: E402
from tests.environments.engines.stand_in import StandIn, serving  # noqa: E402
from tests.environments.tiny_checkpoints import END  # noqa: E402

Captured = pytest.CaptureFixture[str]
SAMPLES, LENGTH, PROMPTS = 20, 8, 2
GIVEN = {
    "--server goes with --policy CHECKPOINT and --prompts FILE": ["--server", "http://127.0.0.1:9/v1"],
    "--samples goes with --server": ["--example", "--samples", "3"],
    "--samples must be": ["--server", "http://127.0.0.1:9", "--policy", "p", "--prompts", "q.txt", "--samples", "0"],
    "one of them": ["a.jsonl", "--server", "http://127.0.0.1:9", "--policy", "p", "--prompts", "q.txt"],
    "temperature is 0": ["--server", "http://127.0.0.1:9", "--policy", "p", "--prompts", "q.txt", "--temperature", "0"],
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JACKPOT_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


@pytest.fixture
def stand_in(checkpoints: Path) -> Iterator[StandIn]:
    actor = load(checkpoints / "actor", precision=Precision.FP32, device="cpu")
    with serving(StandIn(actor.model, actor.tokenizer, "vllm", (END,))) as server:
        yield server


def options(stand_in: StandIn, checkpoints: Path, **changes: Any) -> list[str]:
    given = {
        "server": stand_in.url,
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


@each("flavour", ["llama.cpp", "openai"])
def test_a_server_is_diagnosed_without_a_dump(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, flavour: str
) -> None:
    stand_in.flavour = flavour
    found = report(options(stand_in, checkpoints, topk=5), tmp_path)
    dump = rows(found)
    assert found["rows"]["used"] == len(dump)
    assert "overlap_p5_low" in {figure["name"] for figure in found["metrics"]}
    first = dump[dump["sequence"] == dump["sequence"].iloc[0]]
    ids = torch.tensor([[1, 2, *first["token"]]])  # "a b" and its rollout
    for side in ("actor", "policy"):
        model = load(checkpoints / side, precision=Precision.FP32, device="cpu").model
        with torch.inference_mode():
            scores = model(ids).logits[0, 1:-1].log_softmax(-1)
        own = scores[np.arange(len(first)), list(first["token"])]
        np.testing.assert_allclose(first[f"{side}_log_prob"], own, rtol=0, atol=1e-5)


def test_both_sides_have_the_temperature_unless_the_server_gives_raw_log_probs(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path
) -> None:
    actor = load(checkpoints / "actor", precision=Precision.FP32, device="cpu").model
    for processed, of_actor in ((True, 2.0), (False, 1.0)):
        stand_in.processed = processed
        dump = rows(report(options(stand_in, checkpoints, temperature=2), tmp_path))
        first = dump[dump["sequence"] == dump["sequence"].iloc[0]]
        with torch.inference_mode():
            scores = (actor(torch.tensor([[1, 2, *first["token"]]])).logits[0, 1:-1] / of_actor).log_softmax(-1)
        own = scores[np.arange(len(first)), list(first["token"])]
        np.testing.assert_allclose(first["actor_log_prob"], own, rtol=0, atol=1e-5)


def test_a_run_that_broke_off_goes_on_and_a_whole_one_is_asked_anew(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, capsys: Captured
) -> None:
    given = options(stand_in, checkpoints)
    whole = rows(report(given, tmp_path))
    assert len(stand_in.asked) == SAMPLES * PROMPTS
    stand_in.asked.clear()
    stand_in.faults.extend([None] * 20)
    stand_in.always = "no log-probs"
    assert main([*given, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    kept = int(error.split("; ")[1].split(" of ")[0])
    assert 12 < kept <= 20
    stand_in.always = None
    stand_in.asked.clear()
    again = rows(report(given, tmp_path))
    assert len(stand_in.asked) == SAMPLES * PROMPTS - kept
    pd.testing.assert_frame_equal(again, whole)


def test_record_keeps_the_same_rollouts_in_a_folder_of_the_users(
    stand_in: StandIn, checkpoints: Path, tmp_path: Path, capsys: Captured
) -> None:
    given = options(stand_in, checkpoints)
    assert record([*given, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith(f"Rollouts of the server in {tmp_path / 'out'}: ")
    kept = pd.concat([pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet")])
    pd.testing.assert_frame_equal(kept, rows(report(given, tmp_path)))


@each("sentence", GIVEN)
def test_options_that_do_not_go_together_are_one_sentence(sentence: str, capsys: Captured) -> None:
    assert main(GIVEN[sentence]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@each("gone", [True, False])
def test_the_server_is_asked_before_the_checkpoint_is_loaded(
    gone: bool, checkpoints: Path, stand_in: StandIn, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("the checkpoint is loaded for a server that cannot be used")

    monkeypatch.setattr(live, "load", loads)
    wrong = {"server": "http://127.0.0.1:9/v1"} if gone else {"model": "another"}
    assert main(options(stand_in, checkpoints, **wrong)) == 2
    assert ("cannot be reached" if gone else "another") in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_sentence(checkpoints: Path, stand_in: StandIn, capsys: Captured) -> None:
    assert main(options(stand_in, checkpoints, server="http://127.0.0.1:9/v1")) == 2
    error = capsys.readouterr().err
    assert error == "diagnose: http://127.0.0.1:9 cannot be reached: start the server, or give its url\n"
