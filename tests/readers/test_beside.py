"""Folders as frameworks leave them: what lies beside a dump is passed over, unless it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.readers.beside import beside
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.readers.open_dump import open_dump
from tests.readers.formats.one_sided import open_instruct
from tests.readers.formats.rollouts import STEP, Rollout
from tests.readers.formats.rollouts import rollouts as rollouts
from tests.readers.formats.trainers import miles, nemo_rl, prime_rl, slime_rollout_sample


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("" if content is None else json.dumps(content) + "\n", encoding="utf-8")


def test_folders_of_frameworks_are_read_as_they_lie(rollouts: list[Rollout], tmp_path: Path) -> None:
    for name, dump, companion, content in (
        ("prime-rl", prime_rl, f"token_exports/step_{STEP}/STABLE", None),
        ("open-instruct", open_instruct, "run_metadata.jsonl", {"run_name": "run", "git_commit": "0"}),
        ("nemo-rl", nemo_rl, f"val_data_step{STEP}.jsonl", {"content": ["x"], "rewards": [1.0]}),
        ("miles", miles, f"trajectory/{STEP}.jsonl", {"sample_index": 0, "messages": []}),
    ):
        dump(tmp_path / name, rollouts)
        write(tmp_path / name / companion, content)
        found = open_dump([tmp_path / name])
        assert found.format == name
        assert len(list(found.sequences())) == len(rollouts)


def test_a_dump_of_miles_is_read_with_both_sides(rollouts: list[Rollout], tmp_path: Path) -> None:
    """The rollout's side has weights' versions and is one file; the trainer's side is another."""
    torch = pytest.importorskip("torch")
    (path,) = miles(tmp_path, rollouts)
    content = torch.load(path, weights_only=True)
    del content["rollout_data"]["weight_versions"]
    torch.save(content, path)
    samples = [slime_rollout_sample(each) for each in rollouts]
    (tmp_path / "rollout_data").mkdir()
    torch.save({"rollout_id": STEP, "metadata": {}, "samples": samples}, tmp_path / "rollout_data" / f"{STEP}.pt")
    found = open_dump([tmp_path])
    assert found.format == "miles"
    sequences = list(found.sequences())
    assert len(sequences) == len(rollouts)
    for sequence, rollout in zip(sequences, rollouts, strict=True):
        assert sequence.policy_log_probs is not None
        assert sequence.weight_version is not None
        assert set(sequence.weight_version.tolist()) == {rollout.weight_version}


def test_a_companion_that_is_named_is_read_and_a_user_s_folder_is_his_own(tmp_path: Path) -> None:
    write(tmp_path / "run_metadata.jsonl", {"run_name": "run"})
    with pytest.raises(DumpError, match="by which no format is known"):
        open_dump([tmp_path / "run_metadata.jsonl"])
    assert not beside(tmp_path / "trajectory" / "0.jsonl")
    (tmp_path / "train_data").mkdir()
    assert beside(tmp_path / "trajectory" / "0.jsonl")
