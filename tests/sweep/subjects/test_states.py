"""Studies of states whose trainer is told other log-probs: the figures, and what older studies are called."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.estimators.states import moments
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import records, spec
from jackpot_sim.sweep.plan import cells
from tests.sweep.studies import run_serially

BASE = {"kind": "zipf", "vocab": 12, "states": 5}
TOLD = ["processed", "raw", "support"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    asked = {
        "env": {"kind": "top-p", "base": BASE, "p": 0.8, "log_probs": TOLD},
        "estimators": ["none", "tis", "mis", {"kind": "jackpot", "acceptance_rate": 0.9}],
        "denominators": ["proposed", "self_normalized"],
        "methods": ["exact", "monte_carlo"],
        "seeds": 1,
        "n_samples": 64,
        "replicates": 64,
        "normalizers": {"k": [2, 5]},
    }
    root = run_serially(spec.parse(asked), tmp_path_factory.mktemp("told") / "states")
    table = records.load(root)
    normalizers = records.load(root, "normalizers")
    assert normalizers.groupby("environment")["overlap"].first().nunique() == 2, "Z is 1 twice, and once S"
    return table.assign(told=[next((x for x in TOLD[1:] if x in env), TOLD[0]) for env in table["environment"]])


def exact(found: pd.DataFrame) -> Any:
    rows = found[(found["method"] == "exact") & (found["denominator"] == "proposed")]
    return rows.set_index(["told", "estimator_kind"])


def test_records_hold_the_moments_of_what_is_believed(found: pd.DataFrame) -> None:
    for told in TOLD:
        env = spec.parse({"env": {"kind": "top-p", "base": BASE, "p": 0.8, "log_probs": told}, "estimators": ["tis"]})
        pair = env.env[0].build(0).pair
        wanted = moments.exact(
            pair.policy_log_probs,
            pair.actor_log_probs,
            pair.advantage,
            estimators.get("tis"),
            n_samples=64,
            believed=pair.believed,
        )
        row = exact(found).loc[(told, "tis")]
        assert row["bias"] == wanted.bias
        assert row["mse"] == wanted.mse
    kls = found.groupby("told")["kl_actor_policy"].unique()
    assert kls["processed"].tolist() == kls["raw"].tolist() == kls["support"].tolist(), "laws at work stay"
    assert (found["kl_policy_actor"] == np.inf).all()


def test_raw_and_support_weigh_nothing_and_processed_weighs_by_s(found: pd.DataFrame) -> None:
    table = exact(found)
    for told in ("raw", "support"):
        for kind in ("tis", "mis", "jackpot"):
            for figure in ("bias", "variance", "gain"):
                row = table.loc[(told, kind)]
                if kind != "jackpot":  # at a budget of 0.9 it rejects
                    assert row[figure] == pytest.approx(table.loc[(told, "none")][figure], rel=1e-9), (told, kind)
            assert table.loc[(told, "tis")]["ess_fraction"] == pytest.approx(1, rel=1e-12)
    assert table.loc[("raw", "none")]["bias"] == table.loc[("processed", "none")]["bias"]
    assert table.loc[("support", "none")]["bias"] != table.loc[("raw", "none")]["bias"]
    assert table.loc[("processed", "tis")]["gain"] < table.loc[("processed", "none")]["gain"]
    np.testing.assert_allclose(table.loc[("support", "jackpot")]["acceptance_rate"], 0.9, rtol=1e-12)


def test_draws_agree_with_the_exact_figures(found: pd.DataFrame) -> None:
    keys = ["told", "estimator", "denominator"]
    drawn = found[found["method"] == "monte_carlo"].set_index(keys)
    closed = found[found["method"] == "exact"].set_index(keys)
    for figure in ("acceptance_rate", "bias_sq", "gain", "variance"):
        errors = drawn[f"{figure}_se"].to_numpy(float)
        apart = np.abs((drawn[figure] - closed.loc[drawn.index][figure]).to_numpy(float))
        assert (apart <= 4.5 * errors + 1e-9).all(), (figure, np.max(apart / np.maximum(errors, 1e-12)))
        assert np.isfinite(errors).all()


def test_older_studies_keep_their_names_and_draws() -> None:
    usual = {"kind": "top-p", "base": BASE, "p": 0.8}
    study = spec.parse({"env": usual, "estimators": ["none"], "seeds": 1})
    (cell,) = cells(study)
    assert "log_probs" not in cell.environment
    assert cell.id == "top-p-zipf-33dd23231222-0", "as before the field was there"
    (other,) = cells(spec.parse({"env": usual | {"log_probs": "raw"}, "estimators": ["none"], "seeds": 1}))
    assert '"log_probs": "raw"' in other.environment
    assert dataclasses.replace(other.env, log_probs="processed") == cell.env
    with pytest.raises(StudyError, match=r"env holds .* twice"):
        spec.parse({"env": [usual, usual | {"log_probs": "processed"}], "estimators": ["none"]})


def test_an_unknown_name_is_one_sentence() -> None:
    with pytest.raises(StudyError, match=r"^env\.log_probs: .*'processed', 'raw' or 'support'") as error:
        spec.parse({"env": {"kind": "top-p", "p": 0.8, "log_probs": "mask"}, "estimators": ["none"]})
    assert "\n" not in str(error.value)
