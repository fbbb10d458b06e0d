"""Models and rollouts that cells of a study share are made once, and change no figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.sweep import records, spec
from tests.environments.tiny_checkpoints import hf
from tests.sweep.studies import run_serially

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jackpot_sim.environments.engines import sharing  # noqa: E402
from jackpot_sim.environments.language_models import checkpoints as loading  # noqa: E402
from jackpot_sim.environments.language_models import generation, reading  # noqa: E402
from jackpot_sim.environments.language_models.norm_gradients import NormGradients  # noqa: E402
from jackpot_sim.environments.rollouts import shared  # noqa: E402

ACTORS: list[dict[str, Any]] = [
    {"kind": "quantized-weights", "format": "int4", "share": 1},
    {"kind": "quantized-kv", "format": "fp8-e5m2", "share": 1},
    {"kind": "weight-noise", "sigma": 0.1},
]


def study(root: Path, *actors: dict[str, Any], **changes: Any) -> spec.Study:
    return spec.parse(
        {"env": [hf(root, actor=actor, precision="fp32", **changes) for actor in actors]}
        | {"estimators": ["none", "jackpot"], "seeds": 1, "n_samples": 3, "replicates": 3}
    )


def figures(root: Path) -> pd.DataFrame:
    found = records.load(root).sort_values(["environment", "estimator", "denominator"]).reset_index(drop=True)
    return found.drop(columns=[name for name in found if "seconds" in str(name) or name == "config_hash"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the passes that are made."""
    passes: list[str] = []

    def counting(owner: Any, name: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **named: passes.append(name) or function(*args, **named))

    monkeypatch.setattr(shared, "_LAST", {})
    for owner, name in ((shared, "load"), (generation, "generate"), (reading.Reader, "states")):
        counting(owner, name)
    return passes


def test_the_policy_is_loaded_and_writes_once_for_all_actors(
    checkpoints: Path, tmp_path: Path, counted: list[str]
) -> None:
    run_serially(study(checkpoints, *ACTORS), tmp_path / "run")
    assert counted.count("load") == 1
    assert counted.count("generate") == 2 + len(ACTORS), "the policy's, its baseline's, and each actor's"
    assert counted.count("states") == 2 * len(ACTORS), "each model reads the other's rollouts, and nothing of its own"


def test_figures_do_not_depend_on_the_cells_before(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = figures(run_serially(study(checkpoints, *ACTORS), tmp_path / "together"))
    turned = figures(run_serially(study(checkpoints, *ACTORS[::-1]), tmp_path / "turned"))
    pd.testing.assert_frame_equal(together, turned, check_exact=True)
    for index, actor in enumerate(ACTORS):
        monkeypatch.setattr(shared, "_LAST", {})
        alone = figures(run_serially(study(checkpoints, actor), tmp_path / f"alone{index}"))
        same = together[together["cell"] == alone["cell"].iloc[0]].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, same, check_exact=True)


@pytest.mark.parametrize("gradients", ["sequences", "batches"])
def test_passes_made_anew_give_the_same_figures(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gradients: str
) -> None:
    asked = study(checkpoints, ACTORS[0], gradients=gradients)
    kept = figures(run_serially(asked, tmp_path / "kept"))
    monkeypatch.setattr(sharing, "LIMIT", 0)
    monkeypatch.setattr(shared, "_LAST", {})
    anew = figures(run_serially(asked, tmp_path / "anew"))
    numbers = kept.select_dtypes("number").columns
    assert "bias_sq" in numbers
    np.testing.assert_allclose(kept[numbers], anew[numbers], rtol=2e-3, atol=1e-4)


def test_gradients_that_do_not_fit_are_not_kept(checkpoints: Path) -> None:
    realised = study(checkpoints, ACTORS[0]).env[0].build(0)
    written, engine = realised.write("policy", 0, 3, 3), realised.policy_engine
    sizes = {"temperature": 1.0, "batch_size": 4, "rows": 4}
    held = NormGradients.bytes_of(engine.reader.norm, written.tokens.size)
    states = engine.states(realised.setup.prompts, written, 4)
    assert states is not None
    assert held > states.nbytes, "float64 beside float32"
    engine = sharing.SharingEngine(engine.scorer, held - 1)
    assert engine.norm_gradients(realised.setup.prompts, written, **sizes) is None
    engine = sharing.SharingEngine(engine.scorer, held)
    assert engine.norm_gradients(realised.setup.prompts, written, **sizes) is not None


def test_another_checkpoint_in_the_same_place_is_loaded_anew(
    checkpoints: Path, tmp_path: Path, counted: list[str]
) -> None:
    path = tmp_path / "policy"
    for source in ("policy", "policy", "actor"):
        path.mkdir(exist_ok=True)
        for file in (checkpoints / source).iterdir():
            if source == "actor" or not (path / file.name).exists():
                (path / file.name).write_bytes(file.read_bytes())
        shared.policy_of(str(path), precision=loading.Precision.FP32, device="cpu", threads=1)
    assert counted == ["load", "load"]
    assert len(shared._LAST) == 1
