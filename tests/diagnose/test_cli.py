"""The command: what it reads and writes, its exit codes, and the account of what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loky import ProcessPoolExecutor

from analysis.cli import main as analyse
from jackpot_sim.diagnose.cli import main
from jackpot_sim.diagnose.diagnose import EXAMPLE, Options, diagnosed
from jackpot_sim.diagnose.report import as_json
from jackpot_sim.diagnose.results import CauseName, State
from jackpot_sim.estimators.corrections import registry
from jackpot_sim.readers import build
from jackpot_sim.readers.errors import DumpError
from jackpot_sim.studies import plugins
from tests.cases import each
from tests.diagnose.report.schemas import breaches
from tests.end_to_end.plugins import GOOD

Captured = pytest.CaptureFixture[str]
Row = dict[str, Any]


def rows(sequences: int = 60, length: int = 20, noise: float = 0.01) -> list[Row]:
    """Rows of tokens in the plain schema, whose sides differ by noise."""
    generator = np.random.default_rng(0)
    out = []
    for sequence in range(sequences):
        for position in range(length):
            actor = float(np.log(generator.uniform(0.05, 0.95)))
            policy = min(actor + noise * float(generator.standard_normal()), 0.0)
            sides = {"actor_log_prob": actor, "policy_log_prob": policy}
            out.append({"sequence": sequence, "position": position, "token": int(generator.integers(99)), **sides})
    return out


def dump(path: Path, made: list[Row], **constants: Any) -> str:
    path.write_text("".join(json.dumps(row | constants) + "\n" for row in made), encoding="utf-8")
    return str(path)


def report(options: list[str], file: Path) -> Mapping[str, Any]:
    """The JSON of a run, which keeps to the schema."""
    assert main([*options, "--quiet", "--workers", "1", "--json", str(file)]) in (0, 1)
    content = json.loads(file.read_text(encoding="utf-8"))
    schema = json.loads(as_json.schema())
    assert [*breaches(content, schema, schema)] == []
    assert isinstance(content, dict)
    return content


def test_the_example_is_diagnosed_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--example", "--workers", "1", "--json", "r.json"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert out.startswith("HEALTHY: ")
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (found["verdict"]["state"], found["source"]["format"]) == ("healthy", "plain")
    assert "overlap_p5_low" in {figure["name"] for figure in found["metrics"]}
    assert EXAMPLE.stat().st_size < 300_000
    assert len(found["corrections"]) > 100
    assert all(effect["refused"] or effect["ess"] for effect in found["corrections"])


def test_the_diagnosis_is_the_same_for_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "full", partial(build.full, tokens=100))  # small tables are joined otherwise
    handed_out, submit = [], ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *task: handed_out.append(task) or submit(*task))
    for name, sequences in (("a", 40), ("b", 25), ("c", 30)):  # a table each
        pd.DataFrame(rows(sequences)).assign(sequence=lambda made, n=name: n + made["sequence"].astype(str)).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    texts = []
    for workers in ("1", "2"):
        file = tmp_path / f"{workers}.json"
        main([*map(str, sorted(tmp_path.glob("*.parquet"))), "--quiet", "--workers", workers, "--json", str(file)])
        texts.append(file.read_bytes())
    assert texts[0] == texts[1]
    assert len(handed_out) == 3
    assert json.loads(texts[0])["rows"]["used"] == 95 * 20


def test_json_to_standard_output_takes_the_place_of_the_report(tmp_path: Path, capsys: Captured) -> None:
    path = dump(tmp_path / "dump.jsonl", rows(4))
    code = main([path, "--json", "-", "--workers", "1"])
    assert json.loads(capsys.readouterr().out)["verdict"]["state"] == ("undecided" if code else "healthy")


def test_a_fault_is_named_and_the_exit_code_is_one(tmp_path: Path, capsys: Captured) -> None:
    made = [row | {"policy_log_prob": row["actor_log_prob"]} for row in rows()]
    assert main([dump(tmp_path / "dump.jsonl", made), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("PROBLEM: ")
    assert "bypass" in out
    assert main([str(tmp_path / "dump.jsonl"), "--workers", "1", "--quiet"]) == 1
    assert capsys.readouterr().out == ""


@each("side", ["actor_log_prob", "policy_log_prob"])
def test_a_dump_of_placeholders_alone_is_a_fault_and_no_bad_input(side: str, tmp_path: Path) -> None:
    found = report([dump(tmp_path / "dump.jsonl", rows(), **{side: 0.0})], tmp_path / "r.json")
    assert (found["verdict"]["state"], found["causes"][0]["name"]) == ("problem", CauseName.PLACEHOLDER)
    assert (found["rows"]["used"], found["rows"]["left_out"]) == (0, {"all-zero-column": 1200})


def test_what_cannot_count_is_left_out_and_said(tmp_path: Path, capsys: Captured) -> None:
    made = rows()
    made[5]["actor_log_prob"], made[6]["policy_log_prob"] = 3.0, None
    path = dump(tmp_path / "dump.jsonl", made)
    found = report([path], tmp_path / "r.json")
    assert found["rows"]["left_out"] == {"positive": 1, "missing": 1}
    assert (found["rows"]["read"], found["rows"]["used"]) == (1200, 1198)
    assert "dump.jsonl, line" in found["rows"]["samples"]["positive"][0]
    main([path, "--workers", "1"])
    assert "1 positive: " in capsys.readouterr().out


def test_files_that_are_no_dumps_are_in_the_account(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "run").mkdir()
    dump(tmp_path / "run" / "dump.jsonl", rows(4))
    (tmp_path / "run" / "train.log").write_text("step 1\n", encoding="utf-8")
    found = report([str(tmp_path / "run")], tmp_path / "r.json")
    assert found["rows"]["passed_over"] == [str(tmp_path / "run" / "train.log")]
    main([str(tmp_path / "run"), "--workers", "1"])
    assert "Passed over train.log, which is no dump." in capsys.readouterr().out


def test_bad_rows_are_refused_or_left_out_and_counted(tmp_path: Path, capsys: Captured) -> None:
    made = rows()
    made[45]["actor_log_prob"] = "x"
    path = dump(tmp_path / "dump.jsonl", made)
    assert main([path, "--json", str(tmp_path / "r.json")]) == 2
    assert "dump.jsonl, line 46: actor_log_prob holds 'x', where number" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
    found = report([path, "--skip-bad"], tmp_path / "r.json")
    assert found["rows"]["left_out"]["bad-row"] >= 1
    assert "line 46" in found["rows"]["samples"]["bad-row"][0]


def test_the_users_own_corrections_come_first(tmp_path: Path, capsys: Captured) -> None:
    path = dump(tmp_path / "dump.jsonl", rows())
    found = report([path, "--correction", "tis(clip=1.001)", "verl:decoupled_token_is"], tmp_path / "r.json")
    assert [each["name"] for each in found["corrections"][:2]] == ["tis(clip=1.001)", "verl:decoupled_token_is"]
    assert found["corrections"][0]["weight_max"] == pytest.approx(1.001)
    main([path, "--correction", "tis(clip=1.001)", "--workers", "1"])
    assert "your own first" in capsys.readouterr().out


def test_the_aim_is_that_of_the_line(tmp_path: Path) -> None:
    path = dump(tmp_path / "dump.jsonl", rows(noise=1.5))
    target = report([path, "--keep", "0.8", "--ess", "0.3", "--bias", "0.25"], tmp_path / "r.json")["advice"]["target"]
    assert all(number in target for number in ("0.8", "0.3", "0.25"))


def test_the_folder_holds_what_analysis_reads(tmp_path: Path, capsys: Captured) -> None:
    path, out = dump(tmp_path / "dump.jsonl", rows()), tmp_path / "out"
    found = report([path, "--out", str(out)], tmp_path / "r.json")
    assert (out / "report.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    assert len(pd.read_parquet(out / "corrections.parquet")) == len(found["corrections"])
    assert len([*out.glob("*.png")]) == 3
    assert analyse([str(out)]) == 0
    assert "corrections that no other beats" in capsys.readouterr().out


def test_a_dump_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "zero.jsonl").touch()
    assert main([str(tmp_path / "zero.jsonl"), "--out", str(tmp_path / "deep" / "out")]) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["zero.jsonl"]


def test_formats_and_schema_are_printed(capsys: Captured) -> None:
    assert main(["--formats"]) == 0
    assert capsys.readouterr().out.startswith("plain ")
    assert main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(as_json.schema())
    assert main(["--help", "all"]) == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert all(name in help_text for name in (*CauseName, "actor_log_prob", "Exit codes: 0", "jackpot_sim.record"))


def test_from_python() -> None:
    told: list[int] = []
    found = diagnosed([EXAMPLE], Options(corrections=("tis(clip=3)",)), progress=told.append)
    assert found.verdict.state is State.HEALTHY
    assert found.corrections[0].label == "tis(clip=3, floor=0)"
    assert sum(told) == found.rows.read
    with pytest.raises(DumpError, match="nowhere"):
        diagnosed(["nowhere"])


def test_a_plug_in_reaches_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home, name in ((registry, "_REGISTRY"), (plugins, "_LOADED"), (plugins, "_DIGESTS")):
        monkeypatch.setattr(home, name, dict(getattr(home, name)))
    monkeypatch.setattr(build, "full", partial(build.full, tokens=100))  # small tables are joined otherwise
    (tmp_path / "mine.py").write_text(GOOD, encoding="utf-8")
    for name in ("a", "b"):
        made = pd.DataFrame(rows(20)).assign(sequence=lambda table, n=name: n + table["sequence"].astype(str))
        made.to_parquet(tmp_path / f"{name}.parquet")
    options = ["--plugin", str(tmp_path / "mine.py"), "--correction", "probability-gap(gap=0.001)", "--workers", "2"]
    assert main([str(tmp_path / "*.parquet"), *options, "--quiet", "--json", str(tmp_path / "r.json")]) in (0, 1)
    first = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["corrections"][0]
    assert first["name"] == "probability-gap(gap=0.001)"
    assert 0 < first["kept"]["value"] < 1
