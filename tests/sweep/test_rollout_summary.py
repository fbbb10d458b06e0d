"""A run of real models prints its records, and nothing that its rollouts do not resolve."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from jackpot_sim.sweep import legends, records, summary
from jackpot_sim.sweep.rollout_summary import mean_interval, rollout_tables
from tests.sweep.studies import run_serially
from tests.sweep.subjects.test_rollouts import study

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def finished(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = study(checkpoints, n_samples=4, replicates=3, estimators=["none"], normalizers={"k": [1, 2, 5]})
    return run_serially(asked, tmp_path_factory.mktemp("runs") / "told")


def test_tables_show_what_is_recorded(finished: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in rollout_tables(finished):
        console.print(table)
    text = console.export_text()
    k1 = records.load(finished, "diagnostics").set_index("figure").loc["k1"]
    shown = re.search(r"^ ?k1 +(\S+) +(\S+) +(\S+)", text, re.MULTILINE)
    assert shown
    assert shown.groups() == tuple(f"{k1[name]:.3g}" for name in ("value", "low", "high"))
    ways = records.load(finished, "normalizers")
    kappa = ways[(ways["way"] == "bias-corrected") & (ways["k"] == 2)].iloc[0]
    shown = re.search(r"^ ?bias-corrected +2 +(\S+) +(\S+) +(\S+) +(\S+)", text, re.MULTILINE)
    assert shown
    wanted = (f"{kappa['kept']:.4f}", f"{kappa['error']:.2%}", f"{kappa['error_max']:.1%}", f"{kappa['above_one']:.1%}")
    assert shown.groups() == wanted
    assert f"at {int(kappa['tokens']):,} tokens" in text


def printed(root: Path, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    found = records.load(root)
    for table in (*summary.tables(found), *rollout_tables(root)):
        console.print(table)
    console.print(legends.legend(found))
    return console.export_text()


def shown(root: Path) -> str:
    return " ".join(printed(root).split())


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_name_is_lost_on_a_narrow_terminal(checkpoints: Path, tmp_path: Path, width: int) -> None:
    few = {"n_samples": 2, "replicates": 3, "estimators": ["none", {"kind": "jackpot", "rao_blackwell": True, "c1": 4}]}
    env = {"actor": [{"kind": "weight-noise", "sigma": 0.5}, {"kind": "weight-noise", "sigma": 0.05}]}
    asked = study(checkpoints, env, **few, denominators=["proposed", "accepted"], normalizers={"k": [1, 2]})
    text = printed(run_serially(asked, tmp_path / "run"), width)
    assert "…" not in text.replace("server-…", "")
    assert max(map(len, text.splitlines())) <= width
    firsts = [line.split()[0] for line in text.splitlines() if line.startswith(" ") and line.strip()]
    for name in ("none", "server-bias-corrected", "probability_correlation", "weight-noise"):
        assert name in "".join(firsts)  # a name may be folded
    assert "rao-blackwell(jackpot(c1=4))" in "".join(firsts)


def test_a_figure_that_was_not_asked_for_has_no_column(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 2, "replicates": 3, "estimators": ["none", "tis"]}
    text = shown(run_serially(study(checkpoints, {"gradients": "off"}, **few), tmp_path / "off"))
    assert "estimator accept KL acc. KL eff. weights ─" in text
    assert "effective rollouts" not in text
    assert "bias is nan" not in text
    assert "nan" not in text.split("the mismatch")[0]
    assert "MSE" not in text
    env = {"actor": {"kind": "weight-noise", "sigma": [0.01 * n for n in range(1, 8)]}, "gradients": "off"}
    text = shown(run_serially(study(checkpoints, env, **few), tmp_path / "many"))
    assert "undefined" not in text
    assert "MSE" not in text.split("side by side")[0].partition("KL before knob")[2]


def test_what_is_not_resolved_is_not_told(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 3, "replicates": 3, "estimators": ["none", "sequence-is"]}
    silent = {"reward": {"kind": "answer", "match": "exact"}, "top_k": 1, "actor": str(checkpoints / "policy")}
    text = shown(run_serially(study(checkpoints, silent, **few), tmp_path / "silent"))
    assert "none 1 " in text
    assert "estimator accept KL acc. KL eff. var. weights ─" in text
    assert "The true gradient is lost in its noise, so that bias, gain and MSE" in text
    assert "all rollouts earn the same" in text
    text = shown(run_serially(study(checkpoints, **few), tmp_path / "thin"))
    assert "fewer than 100 effective rollouts" in text
    assert re.search(r"sequence-is 1 nan nan \S+\?", text)


def test_several_environments_stand_side_by_side(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 2, "replicates": 3, "estimators": ["none"], "normalizers": {"k": [2]}}
    env = {"actor": [{"kind": "weight-noise", "sigma": 0.5}, {"kind": "weight-noise", "sigma": 0.05}]}
    text = shown(run_serially(study(checkpoints, env, **few), tmp_path / "several"))
    near, far = (text.index(f"sigma={sigma}", text.index("side by side")) for sigma in ("0.05", "0.5 "))
    assert near < far
    assert "error of Z, k=2" in text


def test_of_many_environments_none_wins_in_noise(checkpoints: Path, tmp_path: Path) -> None:
    few = {"n_samples": 2, "replicates": 3, "estimators": ["none", "tis"]}
    env = {"actor": {"kind": "weight-noise", "sigma": [0.01 * n for n in range(1, 8)]}, "temperature": 0.01}
    text = shown(run_serially(study(checkpoints, env, **few), tmp_path / "many"))
    assert "environment KL before knob ─" in text
    assert text.count("‖g‖² =") == 7


def test_an_unresolved_figure_says_so_and_a_maximum_has_no_interval(finished: Path) -> None:
    told = records.load(finished, "diagnostics").set_index("figure")
    assert told.loc["abs_log_ratio_p99", ["low", "high"]].isna().all()
    text = shown(finished)
    assert f"abs_log_ratio_p99 {told.loc['abs_log_ratio_p99', 'value']:.3g} unresolved 99th" in text
    assert f"abs_log_ratio_max {told.loc['abs_log_ratio_max', 'value']:.3g} largest" in text
    assert "unresolved: too few sequences" in text


def test_intervals_of_seeds_are_narrower_together() -> None:
    rows = pd.DataFrame({"value": [1.0, 3.0], "low": [0.7, 2.6], "high": [1.3, 4.0]})
    assert mean_interval(rows) == pytest.approx((2.0, 2 - math.hypot(0.3, 0.4) / 2, 2 + math.hypot(0.3, 1.0) / 2))
    unresolved = mean_interval(pd.concat([rows, rows.assign(low=math.nan)]))
    assert math.isnan(unresolved[1])
    assert mean_interval(pd.DataFrame({"value": [math.inf], "low": [math.inf], "high": [math.inf]}))[2] == math.inf
