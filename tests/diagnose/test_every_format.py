"""The files of every producer go through the command, as they are written, to a report that keeps to its schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jackpot_sim.diagnose.cli import main
from jackpot_sim.diagnose.report import as_json
from jackpot_sim.readers.formats import FORMATS
from tests.cases import each
from tests.diagnose.report.schemas import breaches
from tests.environments.tiny_gguf import converts, write_gguf
from tests.readers.formats.producers import WRITTEN, Written
from tests.readers.formats.rollouts import Rollout
from tests.readers.formats.rollouts import rollouts as rollouts

# Text without ids is for `tests/diagnose/test_recompute.py`: these rollouts do not read as their tokenizer writes.
WITH_IDS = [written for written in WRITTEN if {"token", "policy_log_probs"} & written.columns]


def test_every_format_has_a_case() -> None:
    assert {written.producer for written in WITH_IDS} | {"plain"} == {known.name for known in FORMATS}


def test_the_policy_and_the_tokenizer_may_be_gguf_files(
    rollouts: list[Rollout], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converts()
    file = str(write_gguf(tmp_path / "tiny.gguf"))
    written = next(each for each in WITH_IDS if "policy_log_probs" not in each.columns)
    (folder := tmp_path / "dump").mkdir()
    paths = [str(path) for path in written.write(folder, rollouts)]
    options = ["--format", written.producer, "--workers", "1"]
    assert main([*paths, *options, "--policy", file]) in (0, 1)
    assert "<|" in capsys.readouterr().out  # the worst tokens as text
    assert main([*paths, *options, "--policy", file, "--tokenizer", str(tmp_path / "absent.gguf")]) == 2
    assert "absent.gguf: no such file" in capsys.readouterr().err


@each("written", WITH_IDS)
def test_every_format_is_diagnosed(
    written: Written, rollouts: list[Rollout], checkpoints: Path, tmp_path: Path
) -> None:
    folder, file = tmp_path / f"{written.producer}-{written.write.__name__}", tmp_path / "report.json"
    folder.mkdir()
    paths = written.write(folder, rollouts)
    lacking = [] if "policy_log_probs" in written.columns else ["--policy", str(checkpoints / "policy")]
    options = ["--format", written.producer, "--quiet", "--workers", "1", "--json", str(file)]
    assert main([*map(str, paths), *lacking, *options]) in (0, 1)
    found, schema = json.loads(file.read_text(encoding="utf-8")), json.loads(as_json.schema())
    assert [*breaches(found, schema, schema)] == []
    assert found["source"]["format"] == written.producer
    assert 0 < found["rows"]["used"] <= sum(len(rollout.token) for rollout in rollouts)
    file.unlink()
