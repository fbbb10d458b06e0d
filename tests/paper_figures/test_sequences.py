"""The figures of sequences: verdicts from records whose numbers are known, and small studies run through."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from paper_figures import bias_variance_length, mismatch_sources, prefix_shift, real_model, records, style
from paper_figures.__main__ import FIGURES
from paper_figures.command import Made
from paper_figures.records import Loaded
from tests.paper_figures import synthetic

MAKES = {
    "bias_variance_length": bias_variance_length.make,
    "prefix_shift": prefix_shift.make,
    "mismatch_sources": mismatch_sources.make,
}


def made(name: str, found: Loaded) -> Made:
    with style.context():
        return MAKES[name](found)


def test_known_exponents_are_fitted() -> None:
    rows = bias_variance_length.measured(synthetic.of_length(1.5, 0.9))
    table = bias_variance_length.exponents(rows).set_index(["size", "estimator"])
    for size in ("absolute", "bias"):
        row = table.loc[(size, "tis")]
        assert row["length"] == pytest.approx(1.5, abs=4 * row["length_se"])
        assert row["distance"] == pytest.approx(0.9, abs=4 * row["distance_se"])
        assert row["length_se"] < 0.06
    growth = bias_variance_length.second_moments(rows)
    assert growth["c"].iloc[-1] == pytest.approx(1, abs=0.03)
    assert len(growth) == 5


@pytest.mark.parametrize(
    ("in_length", "in_distance", "agrees"), [(1.5, 1.0, True), (3.0, 1.0, False), (1.0, 0.5, False)]
)
def test_the_verdict_on_the_bound_follows_the_exponents(in_length: float, in_distance: float, agrees: bool) -> None:
    found = made("bias_variance_length", synthetic.of_length(in_length, in_distance))
    assert found.agrees is agrees
    assert ("DOES NOT stay" in found.verdict) is not agrees
    assert "±" in found.verdict


def test_pairs_of_tokens_have_a_steeper_exponent_on_short_sequences() -> None:
    rows = bias_variance_length.measured(synthetic.of_length(1.0, 1.0))
    assert 2.2 < bias_variance_length.pair_exponent(rows) < 2.5


def test_shares_add_up_and_most_of_the_bias_is_outside_the_token() -> None:
    found = made("prefix_shift", synthetic.of_length(1.0, 1.0))
    assert found.agrees
    rows = bias_variance_length.measured(synthetic.of_length(1.0, 1.0))
    table = prefix_shift.shares(rows[rows["length"] > 1])
    np.testing.assert_allclose(table[list(prefix_shift.PARTS)].sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "estimator", "value"),
    [
        ("bias_share_prefix", "tis", 0.7),  # the three would add up to more than 1
        ("bias_share_weight", "is", 0.1),
        ("kl_prefix", "is", 0.0),
    ],
)
def test_a_broken_identity_of_shares_is_found_out(column: str, estimator: str, value: float) -> None:
    found = synthetic.of_length(1.0, 1.0)
    found.records.loc[found.records["estimator"] == estimator, column] = value
    broken = made("prefix_shift", found)
    assert not broken.agrees
    assert "DOES NOT lie" in broken.verdict


def test_a_bias_of_the_tokens_own_is_found_out() -> None:
    found = synthetic.of_length(1.0, 1.0)
    own = found.records["estimator"] == "tis"
    for part, share in (("prefix", 0.1), ("continuation", 0.1), ("weight", 0.8)):
        found.records.loc[own, f"bias_share_{part}"] = share
    assert not made("prefix_shift", found).agrees


@pytest.mark.parametrize(("kl_of_others", "agrees"), [(1e-4, True), (0.02, False)])
def test_the_verdict_on_sources_follows_the_ratios(kl_of_others: float, agrees: bool) -> None:
    found = synthetic.of_sources(kl_of_others)
    points = mismatch_sources.summary(mismatch_sources.measured(found)).set_index("label")
    assert points.loc["KV cache fp8-e4m3", "ratio"] == pytest.approx(0.1 / kl_of_others)
    assert points.loc["another model", "ratio"] == pytest.approx(1)
    told = made("mismatch_sources", found)
    assert told.agrees is agrees
    assert ("DOES NOT hold" in told.verdict) is not agrees


def test_one_quantised_source_that_is_near_is_named() -> None:
    found = synthetic.of_sources(1e-4)
    near = found.records["environment"].str.contains("int4")
    found.records.loc[near, "kl_policy_actor"] = 0.05
    told = made("mismatch_sources", found)
    assert not told.agrees
    assert "not of weights int4" in told.verdict


def test_the_papers_markers() -> None:
    paper = records.published("mismatch_sources").set_index("cause")["kl"]
    assert paper.to_dict() == {
        "64-step staleness": 4e-4,
        "FP8 KV cache": 2e-3,
        "sparse attention": 2e-2,
        "two different models": 0.1,
    }


def test_every_source_has_a_look_and_every_figure_a_command() -> None:
    kinds = {env.family for env in records.study("mismatch_sources").env}
    assert kinds <= set(style.SOURCES)
    assert {each.label for each in records.study("bias_variance_length").estimators} <= set(style.LOOKS)
    assert set(MAKES) <= set(FIGURES)


def test_a_real_model_stands_beside_the_tiny_ones() -> None:
    real = real_model.load(real_model.NAME).actors.set_index("label")["kl"]
    told = made("mismatch_sources", synthetic.of_sources(1e-4)).verdict
    for name in ("weights int8", "weights fp8-e4m3", "weights int4", "KV cache fp8-e4m3"):
        assert f"{name} {mismatch_sources._short(real[name])} instead of 0.0001" in told
    points = pd.DataFrame({"label": ["x"], "real": [np.nan], "kl_policy_actor": [1.0]})
    assert mismatch_sources._of_real(points) == "Mechanisms, not magnitudes."
