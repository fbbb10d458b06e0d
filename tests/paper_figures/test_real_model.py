"""The figure of a real model: what its measurement records, what its verdicts hang on, and what it refuses."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.core import gaussian
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import plan, spec
from paper_figures import real_model, records
from paper_figures.real_model import load, main
from paper_figures.real_model_actors import K, Measured, label
from paper_figures.real_model_claims import judge

WAYS = {
    "top-k": (0.9, 0.05),
    "bias-corrected": (1.0, 0.1),
    "intersection-bias-corrected": (1.0, 0.2),
    "calibrated": (1.0, 0.01),
    "server-calibrated": (1.0, 0.02),
}
"""The share of Z that each way keeps, and its error state by state."""
KLS: dict[str, tuple[dict[str, Any], float]] = {
    "stale 4 steps": ({"kind": "stale", "steps": 4}, 4e-4),
    "KV cache fp8-e4m3": ({"kind": "quantized-kv", "format": "fp8-e4m3"}, 2e-3),
    "weights int8": ({"kind": "quantized-weights", "format": "int8"}, 5e-3),
    "attends to 64 tokens": ({"kind": "sliding-window", "window": 64}, 2e-2),
    "without the last layer": ({"kind": "fewer-layers", "layers": 1}, 1.0),
    "llama.cpp, the file itself": ({"kind": "llama-cpp", "path": None}, 4e-3),
    "llama.cpp Q8_0": ({"kind": "llama-cpp", "path": None, "format": "q8_0"}, 4e-3),
    "bf16 throughout": ({"kind": "precision", "precision": "bf16"}, 1e-3),
    "temperature 1.1": ({"kind": "temperature", "temperature": 1.1}, 2e-2),
}


def table(**changed: float) -> pd.DataFrame:
    """A table in which every claim holds, but for the KLs that are given by label, with _ for a space."""
    given = {name.replace("_", " "): kl for name, kl in changed.items()}
    assert given.keys() <= KLS.keys()
    rows = []
    environments = [({"actor": actor, "top_p": 1.0}, given.get(name, kl)) for name, (actor, kl) in KLS.items()]
    environments.append(({"actor": {"kind": "temperature", "temperature": 1.0}, "top_p": 0.95}, math.inf))
    for environment, kl in environments:
        reverse = 0.05 if math.isinf(kl) else kl
        overlap = 1 - float(gaussian.total_variation(math.sqrt(2 * reverse)))
        own = {"kl_policy_actor": kl, "kl_actor_policy": reverse, "overlap": overlap, "overlap_p05": overlap - 0.02}
        own |= {f"{name}_se": 1e-4 for name in ("kl_policy_actor", "kl_actor_policy", "overlap")}
        own |= {"abs_log_ratio_mean": 0.1, "abs_log_ratio_max": 1.0, "ess_fraction_sequence": 0.5}
        for k in (1, K):
            for way, (kept, error) in WAYS.items():
                named = {"environment": json.dumps(environment), "way": way, "k": k, "kept": kept, "error": error}
                rows.append(named | own | {"kept_se": 0.01, "error_se": 0.001, "overlap_compared": 0.99, "tokens": 500})
    return pd.DataFrame(rows)


def sentences(ways: pd.DataFrame) -> list[tuple[str, bool | None]]:
    measured = Measured(Path("x"), ways)
    return [(claim.sentence, claim.holds) for claim in judge(measured.actors, measured.ways)]


def test_actors_are_named_and_one_whose_kl_is_infinite_shows_the_reverse() -> None:
    actors = Measured(Path("x"), table()).actors.set_index("label")
    assert list(actors.index) == [*KLS, "top-p 0.95"]
    assert actors.loc["top-p 0.95", "kl"] == 0.05
    assert actors.loc["top-p 0.95", "kind"] == "top-p"
    assert label({"actor": {"kind": "fewer-layers", "layers": 3}, "top_p": 1.0}) == "without 3 layers"


def test_all_claims_hold_of_what_the_paper_says() -> None:
    found = sentences(table())
    assert [holds for _, holds in found] == [True, True, True, None, True]
    assert not any("NOT" in sentence for sentence, _ in found)
    assert "within a factor of 1.25 for 10 of 10" in found[3][0]
    assert "more than Z_k for 10 of 10 actors" in found[4][0]


@pytest.mark.parametrize(
    ("number", "told", "changed"),
    [
        (1, "stale 4 steps 0.003, KV cache fp8-e4m3 0.002", {"stale_4_steps": 3e-3}),
        (1, "attends to 64 tokens 2, without the last layer 1 nats", {"attends_to_64_tokens": 2.0}),
        (2, "5.6 times KV cache fp8-e4m3 at least, and 10 or more for 4 of 5, not of", {"KV_cache_fp8-e4m3": 0.18}),
    ],
)
def test_the_kls_decide(number: int, told: str, changed: dict[str, float]) -> None:
    sentence, holds = sentences(table(**changed))[number]
    assert holds is False
    assert "DOES NOT hold" in sentence
    assert told in sentence


def test_what_the_top_k_keep_and_what_kappa_misses_decide() -> None:
    spoilt = table()
    of_int8 = (spoilt["way"] == "top-k") & spoilt["environment"].str.contains("int8")
    spoilt.loc[of_int8, "kept"] = 0.84
    sentence, holds = sentences(spoilt)[0]
    assert holds is False
    assert "84.0% to 90.0% of it" in sentence
    assert sentence.endswith("9 of 10 actors, and less for weights int8.")
    spoilt.loc[of_int8, "kept"] = 0.86
    sentence, holds = sentences(spoilt)[0]
    assert holds is None
    assert "87% of Z is open" in sentence
    spoilt = table()
    spoilt.loc[spoilt["way"] == "bias-corrected", "kept"] = 1.05
    sentence, holds = sentences(spoilt)[4]
    assert holds is False
    assert "misses by 5.0 standard errors" in sentence
    rare = spoilt.assign(kept_se=1e-4, overlap_compared=0.95)
    rare.loc[rare["way"] == "bias-corrected", "kept"] = 1.02
    assert "misses by 1.9 standard errors" in sentences(rare)[4][0], (
        "as few masks reject, their own spread is too small"
    )


def test_a_rejected_share_far_from_the_formula_is_named() -> None:
    spoilt = table()
    spoilt.loc[spoilt["environment"].str.contains("bf16"), "overlap"] = 0.9
    sentence, holds = sentences(spoilt)[3]
    assert holds is None
    assert sentence.endswith("9 of 10, not of bf16 throughout.")


def test_claims_without_their_actors_are_open() -> None:
    quick = table()
    quick = quick[quick["environment"].str.contains("llama-cpp|int8")]
    assert [holds for _, holds in sentences(quick)] == [True, None, None, None, True]


def test_it_draws_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table().to_parquet(tmp_path / "t.parquet")
    assert main(["--records", str(tmp_path / "t.parquet"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "real_model.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "llama.cpp, the file itself" in printed
    assert printed.rstrip().splitlines()[-1].startswith("VERDICT: (1) ")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--records", "nowhere.parquet"], "nowhere.parquet is no table of real_model"),
        (["--records", "x", "--rerun"], "not both"),
        (["--quick"], "give --rerun too"),
    ],
)
def test_refusals_are_one_sentence(given: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", [real_model.NAME, real_model.QUICK])
def test_its_own_studies_ask_for_what_it_shows(name: str) -> None:
    study = records.study(name)
    assert study.normalizers is not None
    assert K in study.normalizers.k
    assert {cell.env.policy for cell in plan.cells(study)} == {"smollm2"}  # type: ignore[union-attr]


def test_the_records_that_ship_are_those_of_its_study_and_need_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sketched: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1, "the paper's claims do not all hold"
    printed = capsys.readouterr().out
    assert "That the top 20 hold more than 87% of Z DOES NOT hold" in printed
    study, shipped = records.study(real_model.NAME), load(real_model.NAME)
    assert list(shipped.actors["environment"]) == [cell.environment for cell in plan.cells(study)]
    assert study.normalizers is not None
    assert set(shipped.ways["k"]) == set(study.normalizers.k)
    kl = shipped.actors.set_index("label")["kl"]
    assert kl["llama.cpp F16"] < 1e-4 < 1e-3 < kl["llama.cpp, the file itself"] < kl["weights fp8-e4m3"] < 0.1
    assert kl["weights int4"] > 0.3, "a real model's int4 is not harmless"


# The measurement, on tiny models.


def tiny(root: Path) -> spec.Study:
    env = {"kind": "hf", "policy": str(root / "policy"), "prompts": str(root / "prompts.jsonl"), "length": 3}
    env |= {"gradients": "off", "device": "cpu", "precision": "fp64"}
    return spec.parse(
        {
            "name": "tiny",
            "seeds": 1,
            "n_samples": 3,
            "replicates": 4,
            "env": [
                env
                | {
                    "actor": [
                        {"kind": "checkpoint", "path": str(root / "actor")},
                        {"kind": "temperature", "temperature": 1.5},
                    ]
                },
                env | {"actor": {"kind": "temperature", "temperature": 1.0}, "top_p": 0.6},
            ],
            "estimators": ["none"],
            "normalizers": {"k": [1, 20], "batch": 16},
        }
    )


def test_each_actor_is_measured_once_and_rightly(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = pytest.importorskip("paper_figures.real_model_measurement")
    study, told = tiny(checkpoints), list[str]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "study", lambda _: study)
    found = measurement.measured("tiny", tmp_path / "run", told.append)
    assert told[0] == f"tiny: measuring 3 of 3 actors into {tmp_path / 'run'}"
    assert [line.split(":")[1] for line in told[2:]] == [" 2 of 3, temperature 1.5", " 3 of 3, top-p 0.6"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "tiny.parquet"), found)

    ours = Measured(tmp_path, found).actors.iloc[0]
    env: Any = plan.cells(study)[0].env
    realised = env.build(0)
    written = realised.write("actor", 0, 3, 4)
    kls, overlaps, gaps = [], [], np.zeros(written.tokens.shape)
    for pair in realised.pairs(written):
        p, q = (np.exp(law.numpy()) for law in (pair.policy_log_probs, pair.actor_log_probs))
        kls.append(np.sum(p * np.log(p / q), axis=-1))
        overlaps.append(np.minimum(p, q).sum(-1))
        at = np.arange(len(p)), written.tokens[pair.sequence, pair.step]
        gaps[pair.sequence, pair.step] = np.log(p[at] / q[at])
    size = np.abs(gaps[written.mask])
    expected = {
        "kl_policy_actor": np.concatenate(kls).mean(),
        "overlap": np.concatenate(overlaps).mean(),
        "overlap_p05": np.quantile(np.concatenate(overlaps), 0.05),
        "abs_log_ratio_mean": size.mean(),
        "abs_log_ratio_max": size.max(),
        "tokens_written": written.mask.sum(),
    }
    assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    weight = np.exp(gaps.sum(-1))
    assert ours["ess_fraction_sequence"] == pytest.approx(weight.mean() ** 2 / (weight**2).mean())
    first_half = int(written.mask[:12].sum())
    assert set(found[found["environment"] == ours["environment"]]["tokens"]) == {first_half}
    assert math.isinf(found["kl_policy_actor"].iloc[-1])

    (tmp_path / "run" / f"{plan.cells(study)[1].id}.parquet").unlink()
    again = measurement.measured("tiny", tmp_path / "run", told.append)
    assert [line.split(":")[1][:7] for line in told[4:]] == [" measur", " 1 of 1"], "one actor alone was missing"
    figures = found.columns.drop(["seconds", "cpu_seconds"])
    pd.testing.assert_frame_equal(again[figures], found[figures])


def test_an_actor_that_cannot_be_built_is_one_sentence(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = pytest.importorskip("paper_figures.real_model_measurement")
    study = tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "study", lambda _: study)
    with pytest.raises(StudyError, match=re.escape(str(tmp_path))):
        measurement.measured("tiny", tmp_path / "run", lambda _: None)
    with pytest.raises(StudyError, match="not both"):
        load("real_model", Path("x"), rerun=True)
