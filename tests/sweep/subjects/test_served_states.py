"""An actor that shows its top-k alone, against the same actor with its whole laws, on the same tokens."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console, RenderableType

from jackpot_sim.core import divergences, obrs
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.environments.engines.engine import Engine, LawEngine, ModelEngine, Order
from jackpot_sim.environments.language_models.generation import Written
from jackpot_sim.environments.language_models.scoring import CausalLM
from jackpot_sim.environments.progress import Stage
from jackpot_sim.environments.rollouts.built import RealisedRollouts
from jackpot_sim.environments.sources.actor_source import Actors, Setting
from jackpot_sim.environments.sources.real_models import AnotherCheckpoint
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import legends, records, spec, summary
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.rehearsal import estimates
from jackpot_sim.sweep.rollout_summary import _side_by_side, rollout_tables
from jackpot_sim.sweep.subjects import rollout_states
from tests.environments.tiny_checkpoints import WORDS, hf
from tests.sweep.studies import run_serially

pytest.importorskip("torch")
pytest.importorskip("transformers")

ESTIMATORS: list[Any] = [
    "none",
    "tis",
    {"kind": "obrs", "lam": 1.5},
    "jackpot",
    {"kind": "jackpot", "rao_blackwell": True},
    {"kind": "none", "centred": True},
    {"kind": "tis", "centred": True},
    "sequence-is",
]
SERVED = {"stored_topk": 3, "gradients": "batches", "batch_size": 120, "rows": 512}
"""As a server: 3 of the 5 tokens of the vocabulary."""


@dataclass(frozen=True, eq=False)
class TopKOnly:
    """A model that writes rollouts and returns what a server returns of them: no whole laws."""

    model: LawEngine
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, prompts: Any, prompt: Ints, length: int) -> None:
        self.model.check(prompts, prompt, length)

    def write(self, prompts: Any, prompt: Ints, uniforms: Floats, order: Order) -> Written:
        return dataclasses.replace(self.model.write(prompts, prompt, uniforms, order), **self.shown)


def hide_laws(patch: pytest.MonkeyPatch, shown: dict[str, Any]) -> None:
    """Makes every other checkpoint a `TopKOnly`, as the source of a server gives an engine."""
    of_models = AnotherCheckpoint.actors

    def actors(self: AnotherCheckpoint, setting: Setting) -> Actors:
        pairs = of_models(self, setting)

        def at(knob: float) -> tuple[CausalLM, Engine]:
            policy, actor = pairs(knob)
            assert isinstance(actor, CausalLM)
            return policy, TopKOnly(ModelEngine(actor), shown)

        return at

    patch.setattr(AnotherCheckpoint, "actors", actors)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Makes every actor a `TopKOnly` from here on; what it returns is replaced by what the dictionary holds."""
    shown: dict[str, Any] = {}
    hide_laws(monkeypatch, shown)
    return shown


def study(root: Path, env: dict[str, Any] | None = None, **changes: Any) -> spec.Study:
    asked = {"env": hf(root, **(SERVED | (env or {}))), "estimators": ESTIMATORS, "seeds": 1, "n_samples": 8}
    return spec.parse(asked | {"replicates": 6} | changes)


def rendered(table: RenderableType) -> str:
    console = Console(width=300, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def row(root: Path, label: str) -> pd.Series:
    found = records.load(root)
    return found[found["estimator"] == label].iloc[0]


@pytest.fixture(scope="module")
def both(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run with whole laws and the run without, of one study."""
    folder, asked = tmp_path_factory.mktemp("served"), study(checkpoints)
    whole = run_serially(asked, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        hide_laws(patch, {})
        return whole, run_serially(asked, folder / "top-k")


@pytest.mark.parametrize("gradients", ["off", "batches"])
def test_its_cost_is_timed_by_the_stages_that_it_has(checkpoints: Path, served: dict[str, Any], gradients: str) -> None:
    asked = study(checkpoints, {"gradients": gradients, "length": 4}, estimators=["none", "tis"])
    (cost,) = estimates(asked, cells(asked)).values()
    after = [each.name for each in cost.steps if each.stage in (Stage.SCORING, Stage.GRADIENTS)]
    assert after == ["scoring", *(["own gradients", "gradients"] if gradients == "batches" else [])]
    assert all(each > 0 for each in cost.seconds)


def test_it_is_no_engine_of_laws(checkpoints: Path, served: dict[str, Any]) -> None:
    built = study(checkpoints).env[0].build(0)
    assert isinstance(built, RealisedRollouts)
    assert not isinstance(built.actor, LawEngine)
    with pytest.raises(TypeError, match="no whole laws"):
        built.pairs(built.write("actor", 0, 1, 1))


UPDATE = ["gain", "bias_sq", "variance", "mse", "grad_norm_sq", "on_policy_variance", "direction_bias", "ess_fraction"]
OF_BOTH = ["mean_length", "chi_square_sequence", *UPDATE]


@pytest.mark.parametrize("label", ["none", "tis", "obrs(lam=1.5)", "sequence-is"])
def test_updates_from_the_log_probs_of_tokens_are_equal(both: tuple[Path, Path], label: str) -> None:
    whole, topk = (row(root, label) for root in both)
    for name in [*OF_BOTH, "gain_se", "variance_se", "mse_se", "ess_fraction_se", "mean_length_se"]:
        np.testing.assert_allclose(topk[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_centred_update_takes_the_tokens_that_the_actor_returned(both: tuple[Path, Path]) -> None:
    """The whole laws' run stores as many: the same, but for the float32 of what a server returns."""
    for label in ("centred(none)", "centred(tis)"):
        whole, topk = (row(root, label) for root in both)
        np.testing.assert_allclose(topk[OF_BOTH].to_numpy(float), whole[OF_BOTH].to_numpy(float), rtol=1e-4, atol=1e-6)


def test_a_correction_that_needs_z_gets_an_estimate(both: tuple[Path, Path]) -> None:
    for label in ("jackpot", "rao-blackwell(jackpot)"):
        whole, topk = (row(root, label) for root in both)
        assert topk["gain"] != whole["gain"]
        assert topk["gain"] == pytest.approx(whole["gain"], rel=0.05)


def test_what_is_sampled_and_what_is_not_there(both: tuple[Path, Path]) -> None:
    whole, topk = (row(root, "jackpot") for root in both)
    assert (whole["laws"], topk["laws"]) == ("whole", "top-k")
    for name in ("kl_actor_policy", "total_variation", "acceptance_rate"):
        assert topk[f"{name}_se"] > 0, name
        assert abs(topk[name] - whole[name]) < 4 * topk[f"{name}_se"], name
        assert topk[name] != whole[name], name
    absent = ["kl_policy_actor", "kl_sequence", "chi_square", "kl_accepted", "kl_effective", "achieved_kl"]
    assert topk[absent].isna().all()
    assert whole[absent].notna().all()


@pytest.mark.parametrize("label", ["jackpot", "obrs(lam=1.5)"])
def test_brackets_hold_what_whole_laws_give(both: tuple[Path, Path], label: str) -> None:
    whole, topk = (row(root, label) for root in both)
    assert topk["acceptance_low"] - 1e-6 <= whole["acceptance_rate"] <= topk["acceptance_high"] + 1e-6
    assert topk["acceptance_high"] - topk["acceptance_low"] < 0.5
    assert np.isnan(whole["acceptance_low"])
    for other in ("none", "rao-blackwell(jackpot)"):
        assert np.isnan(row(both[1], other)["acceptance_low"])
        assert row(both[1], other)["acceptance_rate"] == 1


def test_diagnostics_tell_the_bracket_and_the_sample(both: tuple[Path, Path]) -> None:
    whole, topk = (records.load(root, "diagnostics").set_index("figure") for root in both)
    exact = whole.loc["overlap", "value"]
    assert topk.loc["overlap_low", "value"] - 1e-6 <= exact <= topk.loc["overlap_high", "value"] + 1e-6
    assert topk.loc["overlap_sampled", "low"] <= exact <= topk.loc["overlap_sampled", "high"]
    for name in ("k1", "k3", "ess_fraction_token", "reward_policy", "reward_actor"):
        assert topk.loc[name].equals(whole.loc[name])
    assert not {"overlap", "kl_actor_policy", "kl_policy_actor"} & set(topk.index)
    assert row(both[1], "none")["kl_actor_policy"] == pytest.approx(topk.loc["k3", "value"])


@pytest.mark.parametrize("env", [{}, {"top_k": 3}, {"temperature": 0.5, "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("k", [1, 3, len(WORDS)])
def test_the_bracket_holds_z_at_every_state(checkpoints: Path, env: dict[str, Any], k: int) -> None:
    asked = study(checkpoints, env | {"stored_topk": k}, estimators=["jackpot"], n_samples=2, replicates=3)
    built = asked.env[0].build(0)
    assert isinstance(built, RealisedRollouts)
    assert isinstance(built.actor, LawEngine)
    corrections = {each.label: each.correction() for each in asked.estimators}
    hidden = dataclasses.replace(built, actor=TopKOnly(built.actor))
    seen = rollout_states.observe(hidden, asked, 0, corrections)
    assert isinstance(seen.visited, rollout_states.Served)
    exact = np.zeros(seen.actor.mask.shape)
    for pair in built.pairs(seen.written["actor"]):
        exact[pair.sequence, pair.step] = obrs.overlap(pair.policy_log_probs, pair.actor_log_probs)
    (low,), (high,) = (ends.values() for ends in (seen.visited.visited.low, seen.visited.visited.high))
    live = seen.actor.mask
    assert np.all((low - 1e-6 <= exact) & (exact <= high + 1e-6))
    estimate = seen.visited.overlap[1.0]
    assert np.all((low <= estimate) & (estimate <= high))
    assert not estimate[~live].any()
    if k == len(WORDS):
        np.testing.assert_allclose(estimate[live], exact[live], atol=2e-6)
    elif not env:
        assert np.max((high - low)[live]) > 0


def test_a_cut_sampler_takes_k1(checkpoints: Path, tmp_path: Path, served: dict[str, Any]) -> None:
    """k3 would miss the policy's mass that the sampler cuts: its mean is KL(q‖p) less that."""
    env = {"top_k": 2, "gradients": "off"}
    found = run_serially(study(checkpoints, env, estimators=["none"], n_samples=60), tmp_path / "cut")
    told = records.load(found, "diagnostics").set_index("figure")
    assert row(found, "none")["kl_actor_policy"] == pytest.approx(told.loc["k1", "value"])
    built = study(checkpoints, env).env[0].build(0)
    assert isinstance(built.actor, TopKOnly)
    whole = dataclasses.replace(built, actor=built.actor.model)
    written = whole.write("actor", 0, 60, 6)
    exact = np.zeros(written.mask.shape)
    for pair in whole.pairs(written):
        exact[pair.sequence, pair.step] = divergences.kl(pair.actor_log_probs, pair.policy_log_probs)
    wanted, cut = exact.sum() / written.mask.sum(), row(found, "none")
    assert abs(cut["kl_actor_policy"] - wanted) < 4 * cut["kl_actor_policy_se"]
    assert abs(told.loc["k3", "value"] - wanted) > 4 * told.loc["k3", "se"]


def test_raw_log_probs_are_what_corrections_are_told(checkpoints: Path, tmp_path: Path) -> None:
    env = {"temperature": 0.5, "log_probs": "raw"}
    asked = study(checkpoints, env, estimators=["none", "tis", "sequence-is"])
    whole = run_serially(asked, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        hide_laws(patch, {})
        topk = run_serially(asked, tmp_path / "top-k")
    for label in ("none", "tis", "sequence-is"):
        ours, theirs = (row(root, label)[OF_BOTH].to_numpy(float) for root in (topk, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    told = records.load(topk, "diagnostics").set_index("figure")
    assert "overlap_low" not in told.index, "the top-k are of another law than the ratios"
    assert row(topk, "none")["kl_actor_policy"] != pytest.approx(told.loc["k3", "value"]), "of the law sampled from"


@pytest.mark.parametrize(
    ("changes", "shown", "message"),
    [
        ({"env": {"log_probs": "support", "top_k": 2}}, {}, "log_probs support needs whole laws"),
        ({"env": {"log_probs": "raw", "temperature": 0.5}}, {}, "jackpot looks at the actor's likeliest tokens"),
        ({}, {"topk": None}, "jackpot looks at the actor's likeliest tokens"),
        ({"estimators": [{"kind": "none", "centred": True}]}, {"topk": None}, "likeliest tokens"),
    ],
    ids=["support", "raw", "no top-k", "no top-k, centred"],
)
def test_what_such_an_actor_cannot_give(
    checkpoints: Path,
    tmp_path: Path,
    served: dict[str, Any],
    changes: dict[str, Any],
    shown: dict[str, Any],
    message: str,
) -> None:
    served |= shown
    asked = {"env": {}, "estimators": ["jackpot"]} | changes
    with pytest.raises(StudyError, match=message):
        run_serially(study(checkpoints, asked.pop("env"), **asked), tmp_path / "refused")


def test_without_any_top_k_the_tokens_alone_are_enough(
    checkpoints: Path, tmp_path: Path, served: dict[str, Any]
) -> None:
    served["topk"] = None
    found = run_serially(study(checkpoints, {"gradients": "off"}, estimators=["tis"]), tmp_path / "run")
    assert row(found, "tis")["kl_actor_policy"] > 0
    assert "overlap_sampled" in set(records.load(found, "diagnostics")["figure"])


def test_tables_say_bracket_and_sampled(both: tuple[Path, Path]) -> None:
    found = records.load(both[1])
    (table,) = summary.tables(found)
    text = rendered(table)
    jackpot = row(both[1], "jackpot")
    assert f"KL before (actor‖policy, sampled) {jackpot['kl_actor_policy']:.3g}" in text
    assert f"{jackpot['acceptance_low']:.3g} to {jackpot['acceptance_high']:.3g}" in text
    assert "KL eff." not in text
    assert "KL acc." not in text
    legend = legends.legend(found)
    assert "bracket: the acceptance rate" in legend
    assert "KL before is KL(actor‖policy), sampled" in legend
    whole = records.load(both[0])
    assert "bracket" not in rendered(summary.tables(whole)[0]) + legends.legend(whole)
    told = " ".join(rendered(each) for each in rollout_tables(both[1]))
    assert re.search(r"overlap_sampled\s+\S+\s+\S+\s+\S+\s+mean over tokens of min\(1, r/λ\)", told)


def test_environments_of_both_kinds_stand_side_by_side(both: tuple[Path, Path]) -> None:
    frames = [records.load(root, "diagnostics") for root in both]
    other = json.dumps(json.loads(frames[1]["environment"].iloc[0]) | {"rows": 99})
    renamed = [frames[0], frames[1].assign(environment=other)]
    text = rendered(_side_by_side(pd.concat(renamed), pd.DataFrame()))
    assert text.count("sampled") == 2, "the KL and the overlap of one of the two"
    assert re.search(r"sampled in 0\.\d+ to 0\.\d+", text)
