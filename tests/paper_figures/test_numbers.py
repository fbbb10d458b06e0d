"""The numbers that the figures print: the paper's points, the identities, and the limits."""

from __future__ import annotations

import numpy as np
import pytest

from jackpot_sim import estimators
from jackpot_sim.core import gaussian, obrs
from jackpot_sim.environments.states.families import LogitNoise
from jackpot_sim.estimators.states import moments
from paper_figures import figure2, noise_family, records, unification
from paper_figures.records import Loaded
from tests.paper_figures.conftest import MAINS, Drawn


def loaded(drawn: dict[str, Drawn], name: str) -> Loaded:
    return records.load(name, drawn[name].records)


def test_published_points_as_they_are_told() -> None:
    """Our reading of the paper's Figure 2."""
    paper = records.published("figure2_simulation").set_index("kl_before")
    assert list(paper.columns) == ["acceptance", "kl_after"]
    assert paper.loc[0.00145, "acceptance"] == 0.9840
    assert np.isnan(paper.loc[0.00145, "kl_after"])
    assert paper.loc[0.02309].tolist() == [0.9244, 0.00232]
    assert paper.notna().sum().tolist() == [5, 7]


def test_every_published_point_is_met(drawn: dict[str, Drawn]) -> None:
    points = figure2.deviations(loaded(drawn, "figure2"))
    assert len(points) == 12
    acceptance = points[points["figure"] == "acceptance"]
    after = points[points["figure"] == "kl_after"]
    assert (acceptance["deviation"].abs() <= 0.002).all()
    assert ((after["deviation"].abs() <= 1e-4) | (after["deviation"].abs() <= 0.08 * after["paper"])).all()
    # The bootstrap says how far another draw of states would be off: far less than the tolerance.
    assert (points["se"] < points["allowed"] / 5).all()
    assert "12 of 12" in drawn["figure2"].out


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(("column", "factor"), [("acceptance", 0.997), ("kl_after", 1.2)])
def test_a_paper_that_said_otherwise_is_found_out(
    drawn: dict[str, Drawn],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    column: str,
    factor: float,
) -> None:
    paper = records.published("figure2_simulation")
    paper[column] *= factor
    monkeypatch.setattr(records, "published", lambda name: paper)
    given = ["--records", str(drawn["figure2"].records), "--out", str(drawn["figure2"].files.parent / "other")]
    assert MAINS["figure2"](given) == 1
    shown = capsys.readouterr().out
    assert " NO " in shown
    assert "…" not in shown


def test_identities_are_exact_and_were_compared(drawn: dict[str, Drawn]) -> None:
    found = loaded(drawn, "unification")
    table = unification.identities(found, unification._one_state(found))
    assert set(table["identity"]) == {"I1", "I2", "I3"}
    assert (table["deviation"] < 1e-10).all()
    cells, states = found.records["cell"].nunique(), 32
    compared = table.set_index("compared")["comparisons"]
    assert compared.iloc[0] == cells * states * len(unification.by_threshold("tis"))
    assert compared.iloc[2] == cells * states


@pytest.mark.parametrize("estimator", ["tis(clip=2)", "overlap-tis(c1=2, lam=1)", "jackpot(c1=2, lam=1)"])
def test_a_broken_identity_is_found_out(drawn: dict[str, Drawn], estimator: str) -> None:
    found = loaded(drawn, "unification")
    broken = found.states.copy()
    rows = broken["estimator"] == estimator
    assert rows.any()
    for column in ("kl_effective", "error_sq", "weight_mean"):
        broken.loc[rows, column] *= 1.001
    broken.loc[rows, "second_moment"] *= 0.5
    table = unification.identities(Loaded(found.root, found.records, broken), 0.6)
    assert table["deviation"].max() > 5e-4


def test_overlap_tis_is_a_factor_times_tis_with_the_states_own_clip() -> None:
    """I3's right side, Z²·Var[TIS(c1/Z)], by its own path: TIS with one clip per state, then scaled."""
    pair = LogitNoise(target_kl=0.5).build(3).pair
    p, q, advantage = (x[:16] for x in (pair.policy_log_probs, pair.actor_log_probs, pair.advantage))
    overlap = obrs.overlap(p, q)
    plain = moments.exact(p, q, advantage, estimators.get("tis", clip=2.0 / overlap[:, None])).per_state
    blackwell = moments.exact(p, q, advantage, estimators.rao_blackwell(estimators.get("jackpot"))).per_state
    np.testing.assert_allclose(blackwell.second_moment, overlap**2 * plain.second_moment, rtol=1e-12)
    np.testing.assert_allclose(blackwell.weight_mean, overlap * plain.weight_mean, rtol=1e-12)


def test_the_mask_adds_noise_at_every_distance(drawn: dict[str, Drawn]) -> None:
    noise = unification.masking_noise(loaded(drawn, "unification"))
    assert len(noise) == 7
    assert (noise["gap"] > 3 * noise["gap_se"]).all()
    np.testing.assert_allclose(noise["jackpot"] - noise["rao_blackwell"], noise["gap"], rtol=1e-9)


def test_ratios_under_either_noise(drawn: dict[str, Drawn]) -> None:
    points = noise_family.measure(loaded(drawn, "noise_family"))
    logit = points[points["env_kind"] == "logit-noise"]
    assert (logit["deviation"].abs() < 0.01).all()
    assert logit["ratio"].iloc[0] == pytest.approx(gaussian.SMALL_NOISE_KL_RATIO, abs=0.005)
    # sqrt(KL/pi) is the small-noise form of what rejection discards.
    small = logit[logit["kl_before"] <= 0.001]
    np.testing.assert_allclose(1 - small["acceptance"], np.sqrt(small["kl_before"] / np.pi), rtol=0.01)
    additive = points[points["env_kind"] == "dirichlet-mixture"]
    assert additive["ratio"].is_monotonic_increasing
    assert (additive.loc[additive["kl_before"] <= 0.011, "ratio"] < 0.1).all()
    assert (points["ratio_low"] <= points["ratio"]).all()
    assert (points["ratio"] <= points["ratio_high"]).all()
