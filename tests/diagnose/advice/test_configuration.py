"""The lines to paste are lines that the frameworks take."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml

from jackpot_sim import estimators
from jackpot_sim.diagnose.advice.configuration import VERSIONS, configuration, expressed
from jackpot_sim.diagnose.advice.families import SEQUENCES, TOKENS
from jackpot_sim.estimators import get
from jackpot_sim.estimators.corrections.presets import presets
from tests.cases import each

TRL = {
    "token_truncate": get("tis", clip=2.34567),
    "sequence_truncate": get("sequence-tis", clip=4.0),
    "token_mask": get("mis", low=0.125, high=8.0),
    "sequence_mask": get("sequence-mis", high=3.0),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@each("mode, correction", TRL.items())
def test_trl_takes_its_lines(mode: str, correction: estimators.Correction) -> None:
    trl = pytest.importorskip("trl")
    given: dict[str, Any] = eval(f"dict({configuration(correction)['trl']})", {"dict": dict})
    config = trl.GRPOConfig(output_dir="unused", report_to="none", use_cpu=True, bf16=False, **given)
    parameters = correction.parameters()
    assert config.vllm_importance_sampling_correction
    assert config.vllm_importance_sampling_mode == mode
    assert config.vllm_importance_sampling_clip_max == pytest.approx(parameters.get("clip", parameters.get("high")))
    low = parameters.get("low", parameters.get("floor"))
    assert (config.vllm_importance_sampling_clip_min or 0.0) == low


def verl(correction: estimators.Correction) -> dict[str, str]:
    lines = configuration(correction)["verl"].splitlines()
    at = "algorithm.rollout_correction."
    assert all(line.startswith(at) for line in lines)
    return dict(line.removeprefix(at).split("=") for line in lines)


def test_bounds_for_verl_have_a_point_each() -> None:
    """Hydra reads 0.2_5 as the number 0.25, and 0.2_5.0 as a string; verl wants the string."""
    for low, high in ((0.2, 5.0), (0.125, 8.0), (1 / 7, 12.0)):
        told = verl(get("mis", low=low, high=high))["rollout_is_threshold"]
        ends = told.split("_")
        assert [float(end) for end in ends] == pytest.approx([low, high], rel=1e-5)
        assert all("." in end and not end.endswith(".") for end in ends)


def test_bounds_on_k1_for_verl_act_on_the_inverse_ratio() -> None:
    told = verl(get("mask-k1", low=0.5, high=1.25))
    assert told["rollout_rs"] == "token_k1"
    assert [float(x) for x in told["rollout_rs_threshold"].split("_")] == pytest.approx([1 / 1.25, 1 / 0.5])
    own = verl(get("mask-k1", low=0.6, high=1.4, inverted=True))
    assert own["rollout_rs_threshold"] == "0.6_1.4"


@each("preset", ["decoupled_token_is", "decoupled_seq_is", "decoupled_token_icepop", "decoupled_geo_rs"])
def test_lines_for_verl_are_those_of_its_presets(preset: str) -> None:
    found = presets()[f"verl:{preset}"]
    told = verl(found.correction())
    written = found.source.split(": ", 1)[1]
    for name in ("rollout_is", "rollout_rs"):
        if told[name] != "null":
            assert f"{name}={told[name]}" in written
    threshold = told.get("rollout_rs_threshold") or told["rollout_is_threshold"]
    assert threshold in written or f"{float(threshold):.1f}" in written


def test_lines_for_files_can_be_read() -> None:
    nemo = yaml.safe_load(configuration(get("mis", low=0.5, high=5.0))["nemo-rl"])["loss_fn"]
    assert nemo == {
        "use_importance_sampling_correction": True,
        "truncated_importance_sampling_type": "icepop",
        "truncated_importance_sampling_ratio": 5,
        "truncated_importance_sampling_ratio_min": 0.5,
    }
    prime = tomllib.loads(configuration(get("tv-mask", epsilon=0.3))["prime-rl"])["trainer"]["loss"]
    assert prime == {"type": "ipo", "eps": 0.3, "kl_tau": 0.0}
    band = tomllib.loads(configuration(get("mis", low=0.2, high=5.0))["prime-rl"])["trainer"]["loss"]
    assert band == {"type": "icepop", "ratio_low": 0.2, "ratio_high": 5}


def test_flags_carry_their_bounds() -> None:
    tis = get("tis", clip=5.0, floor=0.5)
    assert configuration(tis)["slime"] == "--use-tis --tis-clip 5 --tis-clip-low 0.5"
    assert configuration(tis)["openrlhf"].endswith("--algo.advantage.is_correction_threshold 0.5 5")
    assert not expressed(configuration(tis)["verl"])  # verl has no floor
    assert "low=0.5" in configuration(get("mis", low=0.5, high=2.0))["skyrl"].replace("_threshold_low", "low")


@each("name", estimators.names())
def test_every_framework_has_lines_or_an_honest_sentence(name: str) -> None:
    found = configuration(get(name))
    assert set(found) == set(VERSIONS)
    for framework, lines in found.items():
        assert expressed(lines) or (lines.startswith(f"# {framework} ") and "has no option for" in lines)


def test_what_is_advised_can_be_pasted_somewhere() -> None:
    for family in (*TOKENS, *SEQUENCES):
        told = [name for name, lines in configuration(family.made(family.default)).items() if expressed(lines)]
        assert told or family.name in ("obrs", "jackpot")
    assert sum(map(expressed, configuration(get("tis")).values())) == len(VERSIONS) - 1  # all but prime-rl
