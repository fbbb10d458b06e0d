"""Sweeps without a per-state table: their figures, intervals and marks, and the figures of any sweep."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import figures, sampled, style, tables
from analysis.bootstrap import Options
from analysis.cli import main
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.run import run
from tests.analysis.conftest import Run

Captured = pytest.CaptureFixture[str]

STUDY = {
    "name": "sampled",
    "env": {"kind": "logit-noise", "base": {"kind": "zipf", "vocab": 20, "states": 5}, "target_kl": [0.05, 0.5]},
    "methods": ["monte_carlo"],
    "seeds": 2,
    "n_samples": 16,
    "replicates": 20,
    "estimators": ["none", "tis", "obrs"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled") / "run"
    run(spec.parse(STUDY), folder, SerialExecutor())
    return folder


def test_a_sampled_sweep_has_the_mean_over_its_seeds(root: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main([str(root), "--out", str(tmp_path), "--level", "0.5"]) == 0
    found = pd.read_csv(tmp_path / "sampled_figures.csv")
    rows = records.load(root)
    for (environment, estimator), own in rows.groupby(["environment", "estimator"]):
        first, second = own["mse"]
        chosen = (found["environment"] == environment) & (found["estimator"] == estimator) & (found["figure"] == "mse")
        row = found[chosen].iloc[0]
        # Student's quantile of one degree of freedom at 75 % is 1.
        error = abs(first - second) / 2
        mean = (first + second) / 2
        assert row[["value", "se", "low", "high"]].tolist() == pytest.approx([mean, error, mean - error, mean + error])
    shown = capsys.readouterr().out
    assert shown.index("MSE of the update") < shown.index("Acceptance rate") < shown.index("weighted update")
    acceptance = shown.split("Acceptance rate")[1].split("KL(policy")[0]
    assert "obrs" in acceptance
    assert "tis" not in acceptance, "it rejects nothing"


def test_one_seed_has_the_standard_error_of_its_records(root: Path) -> None:
    rows = records.load(root)
    one = rows[rows["seed"] == 0]
    found = sampled.build(one, 0.95, {})["sampled_figures"].query("figure == 'bias' and estimator == 'none'")
    wanted = one[one["estimator"] == "none"].set_index("environment").loc[found["environment"]]
    assert found["se"].tolist() == pytest.approx(wanted["bias_se"].tolist())
    reach = (found["high"] - found["value"]) / found["se"]
    assert reach.tolist() == pytest.approx([1.959964] * 2)


def printed(rows: pd.DataFrame) -> str:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    sampled.print_tables(sampled.build(rows, 0.95, {}), rows, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_what_rollouts_do_not_resolve_is_marked_and_a_lost_gradient_has_no_mse(root: Path) -> None:
    rows = records.load(root).assign(base_kind="hf", mean_length=1.0, level="token", grad_norm_sq=1.0)
    rows["ess_fraction"] = np.where(rows["estimator"] == "tis", 1e-3, 1.0)
    # 16 rollouts × 20 updates × 5 prompts: an effective share of 0.001 leaves 1.6 of 1,600.
    shown = printed(rows.assign(grad_norm_sq_se=0.1))
    by_name = {line.split()[0]: line for line in shown.split("MSE of")[1].split("Bias")[0].splitlines() if line.split()}
    assert by_name["tis"].count("?") == 2
    assert by_name["none"].count("?") == 0
    lost = printed(rows.assign(grad_norm_sq_se=1.0))
    assert "MSE of" not in lost
    assert "In 2 environments the gradient is lost in its noise" in lost
    found = sampled.build(rows.assign(grad_norm_sq_se=1.0), 0.95, {})["sampled_figures"]
    assert set(found.loc[~found["resolved"], "figure"]) == {"bias", "gain", "mse", "mse_rescaled", "variance"}
    with style.context():
        assert "bias_variance" not in figures.draw(found)


def test_exact_and_sampled_figures_of_one_sweep_are_both_written(tmp_path: Path, capsys: Captured) -> None:
    run(spec.parse(STUDY | {"methods": ["exact", "monte_carlo"], "seeds": 1}), tmp_path / "run", SerialExecutor())
    assert main([str(tmp_path / "run"), "--replicates", "5"]) == 0
    names = {path.stem for path in (tmp_path / "run" / "analysis").iterdir()}
    assert {"figures", "lowest_mse", "sampled_figures"} <= names
    assert "MSE of the update" not in capsys.readouterr().out, "the exact figures say more"


@pytest.fixture(scope="module")
def whole(small: Run) -> pd.DataFrame:
    return tables.figures(small.records, small.states, Options(replicates=5))


def test_figures_of_a_sweep_say_what_they_leave_out(whole: pd.DataFrame) -> None:
    with style.context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures.draw(whole)
        for figure, left_out in drawn.values():
            style.foot(figure, left_out)
            figure.draw_without_rendering()
    assert list(drawn) == ["bias_variance", "acceptance_kl"]
    panels = [axes for axes in drawn["bias_variance"][0].axes if axes.get_visible()]
    assert len(panels) == 5
    kl = whole[whole["figure"] == "kl_effective"]["value"]
    before = whole[whole["figure"] == "kl_policy_actor"]["value"]
    missing = (~(np.isfinite(kl) & (kl > 1e-9)).to_numpy() | ~np.isfinite(before).to_numpy()).sum()
    assert drawn["acceptance_kl"][1] == f"{missing} points with a KL that is 0, infinite or not defined are not in (b)"


def test_many_environments_are_thinned_out_and_what_is_nan_is_not_drawn(whole: pd.DataFrame) -> None:
    parts = [whole.assign(environment=whole["environment"] + str(at)) for at in range(4)]
    with style.context():
        drawn = figures.draw(pd.concat(parts))
    assert "12 of 20 environments" in drawn["bias_variance"][1]
    assert figures.draw(whole.assign(value=math.nan)) == {}


def test_a_legend_never_hides_the_foot(whole: pd.DataFrame) -> None:
    with style.context():
        figure, _ = figures.draw(whole)["acceptance_kl"]
        style.foot(figure, "task: addition; " * 30)
        figure.draw_without_rendering()
        foot = figure.texts[-1].get_window_extent()
        legend = figure.legends[0].get_window_extent()
        lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)  # type: ignore[union-attr]
    assert foot.y0 >= 0
    assert foot.y1 <= legend.y0
    assert legend.y1 <= lowest


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--base", "tis"], "--base is for studies of training"), (["--level", "2"], "level must lie between 0 and 1")],
)
def test_refusals(root: Path, options: list[str], told: str, capsys: Captured) -> None:
    assert main([str(root), *options]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
