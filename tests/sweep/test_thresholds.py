"""Best thresholds in a study: their table, what refuses them, and what a run prints of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.states import optimum
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import plan, records
from jackpot_sim.sweep.estimates import Measured
from jackpot_sim.sweep.threshold_summary import summarised, threshold_tables
from jackpot_sim.sweep.thresholds import Found, with_thresholds
from tests.cases import each
from tests.sweep.studies import BASE, assert_same_run, figures, run_serially, shards, small

ESTIMATORS = [
    *("is", "mis", "tv-mask", {"kind": "tis", "clip": [1.5, 2.0]}, {"kind": "tis", "clip": 3.0, "floor": 0.5}),
    *({"kind": "jackpot", "acceptance_rate": 0.9}, {"kind": "jackpot", "rao_blackwell": True}),
    {"kind": "tis", "centred": True},
]
CHANGES: dict[str, Any] = {
    "env": [
        {"kind": "logit-noise", "base": BASE, "sigma": 0.5},
        {"kind": "top-p", "base": {"kind": "zipf", "vocab": 12, "states": 3}, "p": 0.8},
    ],
    "estimators": ESTIMATORS,
    "best_thresholds": True,
    "methods": ["exact"],
    "denominators": ["proposed", "self_normalized"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_serially(small(**CHANGES), tmp_path_factory.mktemp("thresholds") / "run")


def test_a_threshold_as_good_as_the_best_stays(tmp_path: Path) -> None:
    """No |p − q| reaches the ε given, so that every larger one gives the same update."""
    study = small(**{**CHANGES, "env": CHANGES["env"][:1], "estimators": [{"kind": "tv-mask", "epsilon": 0.99}]})
    rows = records.load(run_serially(study, tmp_path / "run"), "thresholds")
    unmoved = rows[np.isclose(rows["mse_best"], rows["mse"], rtol=1e-12, atol=0)]
    assert len(unmoved) > 0
    assert (unmoved["best"] == 0.99).all()
    assert (unmoved["saved"] == 0).all()


def test_a_row_for_each_estimator_that_has_a_threshold(whole: Path) -> None:
    rows, study = records.load(whole, "thresholds"), small(**CHANGES)
    assert len(rows) == 4 * 6 * 2
    assert set(rows["estimator"]) == {spec.label for spec in study.estimators if spec.has_threshold}
    assert not [label for label in rows["estimator"] if label == "is" or "acceptance" in label or "centred" in label]
    assert dict(zip(rows["estimator"], rows["parameter"], strict=True))["mis"] == "high"
    exact = records.load(whole).merge(rows, on=["cell", "estimator", "denominator"], suffixes=("", "_given"))
    assert (exact["mse"] == exact["mse_given"]).all()
    assert (rows["saved"] >= -1e-9).all()
    assert ((1 - rows["saved"]) * rows["mse"]).to_numpy() == pytest.approx(rows["mse_best"].to_numpy())


def test_the_best_is_that_of_the_cells_own_states(whole: Path) -> None:
    rows = records.load(whole, "thresholds")
    for cell in plan.cells(small(**CHANGES)):
        pair = cell.env.build(cell.seed).pair  # type: ignore[union-attr]
        laws = pair.policy_log_probs, pair.actor_log_probs, pair.advantage  # type: ignore[union-attr]
        found = optimum.best(*laws, estimators.get("tis"), n_samples=16)
        own = rows[(rows["cell"] == cell.id) & (rows["denominator"] == "proposed")].set_index("estimator")
        for label in ("tis(clip=1.5)", "tis(clip=2)"):
            assert own.loc[label, "best"] == found.threshold
            assert own.loc[label, "mse_best"] == found.moments.mse[0]
        assert own.loc["tis(clip=1.5)", "given"] == 1.5
        assert own["is_exact"].all()


def test_a_finished_run_is_resumed_with_its_thresholds(whole: Path, tmp_path: Path) -> None:
    again = run_serially(small(**CHANGES), tmp_path / "run")
    shards(again, "thresholds")[0].unlink()
    run_serially(small(**CHANGES), again)
    assert_same_run(again, whole)
    table = [figures(root, "thresholds") for root in (again, whole)]
    pd.testing.assert_frame_equal(*table, check_exact=True)


def test_a_study_without_them_has_no_such_table(tmp_path: Path) -> None:
    root = run_serially(small(methods=["exact"], seeds=1, env=CHANGES["env"][0]), tmp_path / "run")
    assert not (root / "thresholds").exists()
    assert records.load(root, "thresholds").empty
    assert threshold_tables(root) == []


@each(
    "change, part",
    [
        ({"estimators": ["is", "none"]}, "none of the estimators has a threshold"),
        ({"estimators": [{"kind": "obrs", "acceptance_rate": 0.9}]}, "none of the estimators has a threshold"),
        ({"methods": ["monte_carlo"]}, "add exact to methods"),
        (
            {"env": {"kind": "small-lm", "source": {"kind": "weight-noise", "sigma": 0.1}}, "estimators": ["tis"]},
            "small-lm",
        ),
    ],
)
def test_what_has_no_best_threshold_is_refused_in_a_sentence(change: dict[str, Any], part: str) -> None:
    with pytest.raises(StudyError, match=part):
        small(**CHANGES | change)


def test_a_summary_pairs_the_seeds() -> None:
    keys = {"environment": "e", "estimator": "tis", "denominator": "proposed", "parameter": "clip", "n_samples": 8}
    rows = pd.DataFrame(
        [
            {**keys, "given": 2.0, "best": best, "mse": mse, "mse_best": left * mse, "is_exact": True}
            for best, mse, left in ((1.0, 0.1, 0.5), (4.0, 10.0, 0.5))
        ]
    )
    (row,) = summarised(rows).to_dict("records")
    assert row["best"] == pytest.approx(2.0)
    assert (row["best_low"] * row["best_high"]) == pytest.approx(4.0)
    # All seeds save the same share, however different their MSEs are.
    assert [row[name] for name in ("saved", "saved_low", "saved_high")] == pytest.approx([0.5] * 3)
    (single,) = summarised(rows[:1]).to_dict("records")
    assert math.isnan(single["best_low"])
    assert single["saved"] == pytest.approx(0.5)


def test_without_a_gradient_nothing_is_searched() -> None:
    study = small(**CHANGES | {"estimators": ["tis"], "denominators": ["proposed"]})
    (cell, *_) = plan.cells(study)
    row = {"cell": cell.id, "environment": "e", "estimator": "tis", "denominator": "proposed", "n_samples": 16}
    figures_of_row = {"method": "exact", "mse": math.nan, "mse_rescaled": math.nan, "grad_norm_sq": 0.0}

    def find(*_: object) -> Found:
        raise AssertionError("there is nothing to find")

    (found,) = with_thresholds(Measured(cell, [row | figures_of_row], {}), study, find).tables["thresholds"]
    assert math.isnan(found["best"])  # type: ignore[arg-type]


def test_few_environments_get_a_table_each(whole: Path) -> None:
    tables = threshold_tables(whole)
    assert [table.title for table in tables] == [
        "Best thresholds: logit-noise on dirichlet sigma=0.5",
        "Best thresholds: top-p on zipf p=0.8",
    ]
    (names, cells, _), *_ = tables[0].rows
    assert names[:2] == ("mis", "proposed")
    assert cells[5].endswith("%")
