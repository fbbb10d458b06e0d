"""The page of a run says what its records say: verdict, figures with their intervals, and plots of the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.report import diagnoses, sweeps, training
from analysis.report.page import Described, Plot, Run, Table
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep import records
from jackpot_sim.sweep.cli import main as sweep
from tests.analysis.report import diagnosed
from tests.paper_figures.training import trained
from tests.paper_figures.training.trained import Fate

STATES = """
env: [{kind: top-k, k: [1, 2], base: {kind: dirichlet, vocab: 5, states: 20}}]
estimators: [none, obrs, {kind: obrs, lam: 2}]
seeds: 3
n_samples: 64
"""
SEQUENCES = """
env:
  - kind: small-lm
    vocab: 3
    length: 2
    model: {kind: qwen3, hidden: 16, layers: 1}
    pretrain_steps: 5
    source: {kind: weight-noise, sigma: 0.3}
estimators: [none, tis]
seeds: 2
n_samples: 32
"""
SAMPLED = """
env: [{kind: top-k, k: 2, base: {kind: dirichlet, vocab: 5, states: 5}}]
estimators: [none, obrs]
seeds: 2
methods: [monte_carlo]
replicates: 50
"""


def plot(run: Run, title: str) -> Plot:
    return next(each for section in run.sections for each in section.plots if each.title.startswith(title))


def series(shown: Plot, name: str, view: int = 0) -> Described:
    """The last series of a name: means come after the lines of single seeds."""
    return [each for each in shown.views[view].traces if each["meta"] == name][-1]


def swept(root: Path, study: str) -> tuple[Run, pd.DataFrame]:
    root.with_suffix(".yaml").write_text(study)
    line = ["--config", str(root.with_suffix(".yaml")), "--out", str(root), "--executor", "serial", "--quiet"]
    assert sweep(line) == 0
    return sweeps.of_run(root), records.load(root)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pd.DataFrame]:
    return swept(tmp_path_factory.mktemp("states") / "run", STATES)


def test_a_sweep_shows_means_over_seeds_with_students_interval(states: tuple[Run, pd.DataFrame]) -> None:
    run, rows = states
    shown = series(plot(run, "Acceptance"), "obrs")
    own = rows[rows["estimator"] == "obrs"].groupby("environment", sort=False)["acceptance_rate"]
    reverse = rows.groupby("environment", sort=False)["kl_actor_policy"].mean()
    order = np.argsort(reverse)
    assert shown["x"] == pytest.approx(reverse.to_numpy()[order], rel=1e-4), "KL(policy‖actor) is infinite"
    axis = plot(run, "Acceptance").views[0].layout["xaxis"]
    assert axis["title"]["text"] == "KL(actor‖policy) before, nats"
    assert shown["y"] == pytest.approx(own.mean().to_numpy()[order], rel=1e-4)
    reach = (stats.t.ppf(0.975, 2) * own.sem()).to_numpy()[order]
    assert shown["error_y"]["array"] == pytest.approx(reach, rel=1e-3)
    assert shown["error_y"]["arrayminus"] == pytest.approx(reach, rel=1e-3)
    assert not [each for each in plot(run, "Acceptance").views[0].traces if each["meta"] == "none"], "rejects nothing"


def test_the_mse_at_the_studys_n_is_that_of_its_records(states: tuple[Run, pd.DataFrame]) -> None:
    run, rows = states
    shown = plot(run, "MSE against")
    for view, (_, group) in enumerate(rows.groupby("environment", sort=False)):
        drawn = series(shown, "none", view)
        assert drawn["y"][drawn["x"].index(64)] == pytest.approx(
            group[group["estimator"] == "none"]["mse"].mean(), rel=1e-4
        )


def test_the_verdict_and_the_headline_name_the_least_mse(states: tuple[Run, pd.DataFrame]) -> None:
    run, rows = states
    least = rows.groupby(["environment", "estimator"], sort=False)["mse"].mean().unstack().idxmin(axis=1)
    assert [row[2] for row in run.headline.rows] == [least[each] for each in rows["environment"].unique()]
    assert run.verdict[0].startswith(f"At 64 samples the least MSE is that of {least.mode()[0]} in ")
    assert all("[" in row[3] for row in run.headline.rows), "every MSE has its interval"
    assert "3 seeds" in run.question


def test_the_share_kept_is_drawn_against_a_threshold_that_a_study_varies(states: tuple[Run, pd.DataFrame]) -> None:
    run, rows = states
    (drawn, *_) = plot(run, "Share kept").views[0].traces
    assert drawn["x"] == [1.0, 2.0]
    first = rows[rows["environment"] == rows["environment"].iloc[0]].groupby("estimator")["acceptance_rate"].mean()
    assert drawn["y"] == pytest.approx([first["obrs"], first["obrs(lam=2)"]], rel=1e-4)


def test_sequences_and_sampled_sweeps_have_their_page(tmp_path: Path) -> None:
    run, rows = swept(tmp_path / "sequences", SEQUENCES)
    drawn = series(plot(run, "MSE against"), "tis")
    assert drawn["y"][drawn["x"].index(32)] == pytest.approx(rows[rows["estimator"] == "tis"]["mse"].mean(), rel=1e-4)
    run, rows = swept(tmp_path / "sampled", SAMPLED)
    assert not [each for section in run.sections for each in section.plots if each.title.startswith("MSE against")]
    own = rows[rows["estimator"] == "obrs"]
    drawn = series(plot(run, "Bias"), "obrs")
    assert drawn["y"] == pytest.approx([own["variance"].mean()], rel=1e-4)
    assert drawn["error_y"]["array"] == pytest.approx([stats.t.ppf(0.975, 1) * own["variance"].sem()], rel=1e-3)


def test_an_unfinished_sweep_says_so(tmp_path: Path) -> None:
    swept(tmp_path / "run", SAMPLED)
    next((tmp_path / "run" / "records").glob("*.parquet")).unlink()
    assert "1 of 2 cells are finished" in sweeps.of_run(tmp_path / "run").verdict[-1]


def test_training_shows_what_is_learnt_and_what_is_lost(tmp_path: Path) -> None:
    fates = dict.fromkeys(("tis", "jackpot", "rao-blackwell"), Fate(accuracy=0.6)) | {
        "on-policy": Fate(accuracy=0.9, kl=0.0),
        "none": Fate(lost_at=100, figures={"overlap_p5": 0.5}),
    }
    run = training.of_run(trained.write(tmp_path / "run", "figure1", fates, seeds=3, steps=200))
    assert run.verdict[0].startswith("on-policy ends with the highest accuracy, 0.9")
    assert "none (3 of 3 collapsed, at step 1" in run.verdict[0]
    assert "tis (" not in run.verdict[0]
    accuracy = plot(run, "What the policy")
    assert series(accuracy, "on-policy")["y"][-1] == pytest.approx(0.9, abs=0.03)
    crosses = [each for each in accuracy.views[0].traces if each["mode"] == "markers"]
    assert [(each["meta"], len(each["x"])) for each in crosses] == [("none", 3)]
    assert all(100 <= step <= 125 for step in crosses[0]["x"])
    kl = plot(run, "Distance")
    assert "on-policy" not in {each["meta"] for each in kl.views[0].traces}, "a KL of 0 has no place on the axis"
    assert series(kl, "tis")["y"][-1] == pytest.approx(0.1, rel=0.05)
    assert sum(each["meta"] == "tis" for each in kl.views[0].traces) == 4, "a mean and three seeds"


def test_runs_that_end_early_stay_in_the_mean(tmp_path: Path) -> None:
    def fates(setting: str, method: str, seed: int) -> Fate:
        if method == "tis" and seed == 0:
            return Fate(accuracy=0.95, speed=10, diverges_at=60)
        return Fate(accuracy=0.6, lost_at=40, stops_at=90) if method == "none" and seed else Fate(accuracy=0.8)

    run = training.of_run(trained.write(tmp_path / "run", "figure1", fates, seeds=2, steps=200))
    accuracy = plot(run, "What the policy")
    last = {each["meta"]: each["y"][-1] for each in accuracy.views[0].traces if each["mode"] == "lines"}
    assert last["tis"] == pytest.approx(0.4, abs=0.03), "one has left no policy, the other has 0.8"
    assert last["none"] == pytest.approx(0.4, abs=0.06), "one is lost, the other has 0.8"
    assert "tis ends with" not in run.verdict[0]
    ends = run.headline.rows[[row[0] for row in run.headline.rows].index("tis")]
    assert ends[1].startswith(("0.39", "0.40", "0.41"))
    assert "[" in ends[1], "a mean over seeds has its interval"


def test_a_figure_that_never_changes_is_not_drawn(tmp_path: Path) -> None:
    methods = ("on-policy", "none", "tis", "jackpot", "rao-blackwell")
    run = training.of_run(trained.write(tmp_path / "run", "figure1", dict.fromkeys(methods, Fate()), seeds=1, steps=40))
    titles = [each.title for section in run.sections for each in section.plots]
    assert titles == ["Distance of policy and actor", "What the policy has learnt"]
    assert "±" not in "".join(run.headline.rows[0])


def test_a_diagnosis_shows_its_sentences_and_intervals(tmp_path: Path) -> None:
    run = diagnoses.of_run(diagnosed.write(tmp_path / "run"))
    assert run.verdict == [f"Problem. {diagnosed.SENTENCE}."]
    assert "27 tokens of 3 sequences" in run.question
    assert run.sections[0].paragraphs[0].startswith("stale (90% sure): It grows with lag. Remedy: Sync more often.")
    (drawn,) = plot(run, "The mismatch").views[0].traces
    assert (drawn["x"], drawn["y"]) == ([0.02, 0.005], ["probability_gap", "k3"])
    assert drawn["error_x"]["array"] == pytest.approx([0.02, 0.0])
    assert drawn["error_x"]["arrayminus"] == pytest.approx([0.01, 0.0])
    places = plot(run, "ℓ by position")
    assert places.views[0].traces[0]["x"] == ["0", "1", "2–3"]
    assert places.views[0].traces[0]["y"] == [0.001, 0.004, 0.016]
    tried = [each for each in plot(run, "Corrections").views[0].traces if each["x"]]
    assert [(each["x"], each["y"]) for each in tried] == [([0.9], [0.1])], "what is refused has no place"
    assert [row[2] for row in run.sections[2].tables[0].rows] == ["step 7", "never"]


def test_a_terminals_table_is_whole() -> None:
    fitted = FittedTable("t", ["a"], {"x": 9, "y": 0}, "words", "legend.")
    fitted.add_row(["n"], ["1", "tie"], "a sentence")
    found = Table.of(fitted)
    assert (found.headings, found.rows) == (["a", "x", "y", "words"], [("n", "1", "tie", "a sentence")])
    assert (found.note, found.names, found.prose) == ("legend.", 1, {3})
