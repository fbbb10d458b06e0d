"""The figure of the ways to Z: from a study of its shape but smaller, and what its verdict hangs on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jackpot_sim.sweep import plan, spec
from paper_figures import records, topk_accuracy
from paper_figures.topk_accuracy import SEPARATE, TRAINED, judge, law_of, load, main
from tests.sweep.studies import run_serially

LAWS = {"kind": "lm-like", "vocab": 1000, "states": 1024, "near_certain": 0.5}
STUDY: dict[str, Any] = {
    "env": {"kind": "logit-noise", "base": LAWS, "target_kl": [0.005, 0.02]},
    "estimators": ["none"],
    "seeds": 1,
    "normalizers": {"k": [5, 20], "batch": 256},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_serially(spec.parse(STUDY), tmp_path_factory.mktemp("runs") / "topk")


def test_it_draws_and_says_what_each_way_is_worth(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--records", str(root), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "topk_accuracy.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "lm-like, 50% certain" in printed
    assert "the target of 1% is reached" in printed


def rows(root: Path, **scaled: float) -> pd.DataFrame:
    """The figure's rows, the error of some ways multiplied."""
    found = load("topk_accuracy", root).rows
    for way, factor in scaled.items():
        found.loc[found["way"] == way.replace("_", "-"), "error"] *= factor
    return found


def test_the_verdict_hangs_on_the_errors(root: Path) -> None:
    sentence, agrees = judge(rows(root))
    assert agrees
    assert "worse than doing nothing in 2 of 2 cases" in sentence
    sentence, agrees = judge(rows(root, calibrated=100.0, bias_corrected=0.1))
    assert not agrees
    assert "NOT reached" in sentence
    assert "worse than doing nothing in 0 of 2 cases" in sentence
    spoilt = rows(root)
    spoilt.loc[spoilt["way"] == "bias-corrected", "kept"] = 1.5
    assert "DOES NOT hold for the batch's mean" in judge(spoilt)[0]
    spoilt = rows(root).assign(outside=0.01)
    assert not judge(spoilt)[1]


def test_figures_are_means_over_the_states(root: Path) -> None:
    found = rows(root).set_index(["kl", "way", "k"]).sort_index()
    ways = records.table(root, "normalizers")
    assert sorted(found["error"]) == pytest.approx(sorted(ways["error"]))
    for _, kept in found.xs("top-k", level="way")["kept"].groupby(level="kl"):
        assert kept.is_monotonic_increasing
    assert (found["tokens"] == LAWS["states"]).all()


def test_what_states_are_called() -> None:
    assert law_of({"kind": "hf", "actor": {"kind": "checkpoint"}}) == SEPARATE
    assert law_of({"kind": "hf", "actor": {"kind": "weight-noise"}}) == TRAINED
    assert law_of({"kind": "logit-noise", "base": {"kind": "zipf"}}) == "zipf"


def test_a_run_without_ways_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"kind": "logit-noise", "base": {**LAWS, "states": 4}, "sigma": 0.1}
    plain = run_serially(spec.parse({**STUDY, "env": env, "normalizers": None}), tmp_path / "plain")
    assert main(["--records", str(plain), "--out", str(tmp_path)]) == 2
    assert "compares no ways to Z" in capsys.readouterr().err


def test_models_that_cannot_be_made_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "jackpot_sim.environments.language_models.example" in command
        return subprocess.CompletedProcess(command, 2)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(topk_accuracy.subprocess, "run", fails)
    assert main(["--measure"]) == 2
    assert "could not be made" in capsys.readouterr().err.splitlines()[-1]


def test_its_own_study_asks_for_what_it_shows() -> None:
    study = records.study("topk_accuracy")
    assert study.normalizers is not None
    assert topk_accuracy.K in study.normalizers.k
    assert {env.kind for env in study.env} == {"logit-noise", "hf"}


def test_the_records_that_ship_are_those_of_its_study_and_need_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sketched: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "run", lambda *_, **__: pytest.fail("it measures"))
    assert main([]) == 0
    assert "the target of 1% is reached" in capsys.readouterr().out
    study = records.study("topk_accuracy")
    found = load("topk_accuracy", None).rows
    assert sorted(found["environment"].unique()) == sorted({cell.environment for cell in plan.cells(study)})
    assert study.normalizers is not None
    assert set(found["k"]) == set(study.normalizers.k)


def test_what_it_measures_can_be_shipped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sketched: None
) -> None:
    monkeypatch.setattr(topk_accuracy, "_EXAMPLE", tmp_path)
    (tmp_path / "prompts.jsonl").write_text("")
    monkeypatch.setattr(records, "finished", lambda *_: root)
    measured = load("topk_accuracy", None, rerun=True).rows
    again = topk_accuracy.summarised(pd.read_parquet(root / "topk_accuracy.parquet"))
    pd.testing.assert_frame_equal(again, measured)
    assert main(["--measure", "--records", str(root)]) == 2
