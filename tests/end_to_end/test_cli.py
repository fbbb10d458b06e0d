"""The command line: what it shows, what it writes, and one sentence for each thing it cannot do."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jackpot_sim import estimators
from jackpot_sim.environments.states.families import FAMILIES
from jackpot_sim.sweep import records
from jackpot_sim.sweep.cli import main
from tests.end_to_end.commands import ENVIRONMENT, sweep

STUDY: dict[str, Any] = {
    "env": {"kind": "logit-noise", "base": {"kind": "dirichlet", "vocab": 12, "states": 3}, "sigma": [0.2, 0.5]},
    "estimators": ["none", {"kind": "jackpot", "acceptance_rate": 0.9}],
    "seeds": 2,
}

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad inputs, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY))
    (tmp_path / "unknown-key.yaml").write_text(json.dumps(STUDY | {"sedes": 3}))
    (tmp_path / "not-yaml.yaml").write_text("env: [")
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "lam-0.yaml").write_text(json.dumps(STUDY | {"estimators": {"kind": "obrs", "lam": 0}}))
    (tmp_path / "lam-negative.yaml").write_text(json.dumps(STUDY | {"estimators": {"kind": "obrs", "lam": -1}}))
    (tmp_path / "lam-nan.yaml").write_text("env: {kind: top-k, k: 5}\nestimators: {kind: obrs, lam: .nan}\n")
    for name, rate in (("budget-0", 0), ("budget-1.5", 1.5)):
        budget = {"kind": "obrs", "acceptance_rate": rate}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(STUDY | {"estimators": budget}))
    beyond = {"kind": "dirichlet-mixture", "epsilon": 0.5, "base": {"kind": "logits-file", "path": "holes.npy"}}
    everything = {"kind": "obrs", "acceptance_rate": 1.0}
    (tmp_path / "budget-unattainable.yaml").write_text(json.dumps(STUDY | {"env": beyond, "estimators": everything}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "a file").write_text("precious")
    logits = np.random.default_rng(0).normal(size=(4, 7))
    np.save(tmp_path / "good.npy", logits)
    np.save(tmp_path / "holes.npy", np.where(np.eye(4, 7) > 0, -np.inf, logits))
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-40])
    np.save(tmp_path / "nan.npy", np.where(np.eye(4, 7) > 0, np.nan, logits))
    np.save(tmp_path / "integers.npy", np.ones((2, 3), dtype=np.int64))
    (tmp_path / "pickled.npy").write_bytes(pickle.dumps(logits))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return tmp_path


def run_here(capsys: Captured, line: str) -> tuple[int, str, str]:
    code = main(line.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# --- what it shows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--help all", "-h all", "--config study.yaml --help all", "--env.kind top-k -h all"])
def test_all_of_the_help_names_every_kind_and_estimator(capsys: Captured, line: str) -> None:
    code, out, err = run_here(capsys, line)
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    for family in FAMILIES:
        assert f"{vars(family)['kind']} ({family.knob_name})" in words
    for name in estimators.names():
        assert name in words
    for base in ("dirichlet", "zipf", "lm-like", "logits-file", "ngram"):
        assert base in words
    options = "config out estimators rao-blackwell denominators methods seeds n-samples replicates workers executor"
    for option in (*options.split(), "centred", "dry-run", "quiet", "env.kind"):
        assert f"--{option}" in words


@pytest.mark.parametrize("line", ["--dry-run", "--config study.yaml --dry-run", "--dry-run --out folder/deep/down"])
def test_a_dry_run_runs_nothing_and_makes_nothing(
    here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr("jackpot_sim.sweep.cli.run", lambda *args, **kwargs: pytest.fail("it ran"))
    before = sorted(here.rglob("*"))
    code, out, err = run_here(capsys, line)
    assert (code, err) == (0, "")
    assert "cells" in out
    assert ("folder/deep/down" if "--out" in line else "runs/") in out
    assert sorted(here.rglob("*")) == before


def test_a_dry_run_counts_cells_and_rows(here: Path, capsys: Captured) -> None:
    _, out, _ = run_here(capsys, "--config study.yaml --dry-run")
    last = next(line for line in out.splitlines() if "│ all" in line)
    assert [part.strip() for part in last.strip("│").split("│")][:2] == ["all", "4"]
    assert [part.strip() for part in last.strip("│").split("│")][3] == "8"


@pytest.mark.parametrize("out", ["with[/red]markup", ":smile:", "with space", "knob=1"])
def test_odd_folder_names_are_shown_and_used_as_they_are(here: Path, capsys: Captured, out: str) -> None:
    command = ["--config", "study.yaml", "--out", out, "--executor", "serial"]
    assert main([*command, "--dry-run"]) == 0
    assert f"Records would go to {out}." in capsys.readouterr().out
    assert main(command) == 0
    assert f"records in {out}." in capsys.readouterr().out
    assert (here / out / "manifest.json").exists()


def test_a_run_prints_a_table_that_hides_nothing(here: Path, capsys: Captured) -> None:
    code, out, err = run_here(capsys, "--config study.yaml --out run --executor serial")
    assert (code, err) == (0, "")
    assert "…" not in out
    row = next(line for line in out.splitlines() if "jackpot(acceptance=0.9)" in line)
    table = records.load(here / "run")
    first = table[table["environment"] == table["environment"].iloc[0]]
    means = first[first["estimator"] == "jackpot(acceptance=0.9)"].mean(numeric_only=True)
    for name in ("acceptance_rate", "bias", "gain", "variance", "mse", "mse_rescaled"):
        assert f"{means[name]:.3g}" in row
    assert "4 cells; records in run." in out
    assert "(4 were there already)" in run_here(capsys, "--config study.yaml --out run --executor serial")[1]


def test_quiet_means_silent(here: Path, capsys: Captured) -> None:
    assert run_here(capsys, "--config study.yaml --out run --executor serial --quiet") == (0, "", "")


def test_options_override_the_file(here: Path, capsys: Captured) -> None:
    line = "--config study.yaml --out run --executor serial --quiet --estimators is obrs --seeds 1 --env.sigma 0.3"
    assert run_here(capsys, line + " --denominators accepted proposed --rao-blackwell --n-samples 99")[0] == 0
    table = records.load(here / "run")
    assert set(table["knob"]) == {0.3}
    assert set(table["seed"]) == {0}
    assert set(table["n_samples"]) == {99}
    assert set(table["estimator"]) == {"is", "obrs", "rao-blackwell(obrs)"}
    assert set(table["denominator"]) == {"accepted", "proposed"}


def test_a_logits_file_is_a_base_law(here: Path, capsys: Captured) -> None:
    line = "--out run --executor serial --quiet --seeds 1 --estimators is --env.kind temperature --env.temperature 2"
    assert run_here(capsys, line + " --env.base.kind logits-file --env.base.path good.npy") == (0, "", "")
    assert set(records.load(here / "run")["vocab"]) == {7}


# --- what cannot be done ----------------------------------------------------------------------------------

LOGITS = "--env.kind temperature --env.temperature 2 --seeds 1 --out run --env.base.kind logits-file --env.base.path"
NGRAM = "--env.kind logit-noise --env.sigma 1 --seeds 1 --out run --env.base.kind ngram"
STUDY_FILE = "--config study.yaml --out run"

STUPID = [
    ("--config study.yaml --out /proc/nope", "cannot write /proc/nope"),
    ("--config study.yaml --out study.yaml", "study.yaml is not a folder"),
    ("--config study.yaml --out study.yaml/below", "cannot write study.yaml/below: Not a directory"),
    ("--config study.yaml --out folder/..", "holds files but no run"),
    (f"--config study.yaml --out {'x' * 300}", "File name too long"),
    ("--config folder", "config folder cannot be read: Is a directory"),
    ("--config missing.yaml", "config missing.yaml cannot be read"),
    ("--config not-yaml.yaml", "not-yaml.yaml cannot be parsed"),
    ("--config study.json", "must end in .yaml"),
    ("--config unknown-key.yaml", "sedes: there is no such field"),
    ("--config lam-0.yaml", "lam must be positive"),
    ("--config lam-negative.yaml", "lam must be positive"),
    ("--config lam-nan.yaml", "lam must be positive"),
    ("--config budget-0.yaml", "acceptance_rate must lie in (0, 1]"),
    ("--config budget-1.5.yaml", "acceptance_rate must lie in (0, 1]"),
    ("--config budget-unattainable.yaml --out run", "acceptance_rate"),
    (f"{STUDY_FILE} --env.sigma nan", "sigma must be finite"),
    (f"{STUDY_FILE} --env.sigma inf", "sigma must be finite"),
    (f"{STUDY_FILE} --env.sigma", "--env.sigma needs a value"),
    (f"{STUDY_FILE} --env.sigma=", "sigma"),
    (f"{STUDY_FILE} --env.sigma 1 --env.sigma 2", "--env.sigma is given twice"),
    (f"{STUDY_FILE} --env.base.vocab 0", "vocab must be an integer of at least 1, got 0"),
    (f"{STUDY_FILE} --env.base.vocab 2.5", "vocab"),
    (f"{STUDY_FILE} --env.base.vocab 10000000000000", "did not fit into memory"),
    (f"{STUDY_FILE} --env logit-noise", "--env: environment options are dotted"),
    ("--env.kind nope --env.sigma 1", "'nope'"),
    ("--env.kind logit-noise --env.sigma 1 --env.base.vocab 9", "base: its kind is missing"),
    ("--env.kind top-k --env.k 50 --env.base.kind zipf --env.base.vocab 9 --out run --seeds 1", "cell top-k-zipf-"),
    ("--env.kind temperature --env.target-kl 99 --out run --seeds 1", "target_kl=99 is unattainable"),
    (f"{LOGITS} missing.npy", "missing.npy"),
    (f"{LOGITS} truncated.npy", "truncated.npy: cannot read logits"),
    (f"{LOGITS} nan.npy", "nan.npy"),
    (f"{LOGITS} integers.npy", "integers.npy: logits must be floating"),
    (f"{LOGITS} pickled.npy", "pickled.npy: cannot read logits"),
    (f"{LOGITS} object.npy", "object.npy: cannot read logits"),
    (f"{LOGITS} folder", "folder: cannot read"),
    (f"{NGRAM} --env.base.text missing", "missing: cannot read"),
    (f"{NGRAM} --env.base.text folder", "folder: no *.py or *.txt file inside"),
    (f"{STUDY_FILE} --seeds -1", "seeds: their number must lie between 1 and"),
    (f"{STUDY_FILE} --seeds 0", "seeds"),
    (f"{STUDY_FILE} --seeds two", "--seeds"),
    (f"{STUDY_FILE} --seeds 99999999999999999999", "seeds"),
    (f"{STUDY_FILE} --n-samples 0", "n_samples"),
    (f"{STUDY_FILE} --denominators bogus", "denominators.0: Input should be 'proposed'"),
    (f"{STUDY_FILE} --methods guess", "methods.0: Input should be 'exact'"),
    (f"{STUDY_FILE} --estimators tiss", "unknown estimator 'tiss'; did you mean 'tis'?"),
    (f"{STUDY_FILE} --estimators tis tis", "estimators holds tis twice"),
    (f"{STUDY_FILE} --estimators", "estimators: the list is empty"),
    (f"{STUDY_FILE} --workers 0", "--workers must be at least 1"),
    (f"{STUDY_FILE} --workers 2", "--workers 2 cannot go with --executor serial"),
    (f"{STUDY_FILE} --executor abacus", "--executor"),
    (f"{STUDY_FILE} --bogus", "--bogus"),
    (f"{STUDY_FILE} stray", "stray"),
]


@pytest.mark.parametrize(("line", "part"), STUPID, ids=[line[:70] for line, _ in STUPID])
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    here: Path, capsys: Captured, line: str, part: str
) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, out, err = run_here(capsys, line if "--executor" in line else f"{line} --executor serial")
    assert (code, out) == (2, "")
    assert err.startswith("sweep: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert part in err
    assert len(err) < 600 + len(line)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(here.rglob("*.parquet"))


# --- the real command -------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_parquet_that_pandas_reads(here: Path) -> None:
    code, out, err = sweep("--config", "study.yaml", "--out", "run", "--workers", "2")
    assert (code, err) == (0, "")
    assert "jackpot(acceptance=0.9)" in out
    table = pd.read_parquet(here / "run" / "records")
    assert len(table) == 8
    assert table["bias"].notna().all()


@pytest.mark.parametrize(
    "line",
    [
        "--config budget-unattainable.yaml --out run --workers 1",
        "--config study.yaml --out run --workers 1 --env.base.vocab 10000000000000",
    ],
)
def test_errors_after_the_start_leave_one_sentence_on_stderr(here: Path, line: str) -> None:
    code, out, err = sweep(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("sweep: ")
    assert err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence() -> None:
    command = [sys.executable, "-m", "jackpot_sim.sweep", "--dry-run"]
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT)
    assert found.returncode == 2
    assert found.stderr.startswith("sweep: the system refuses: ")
    assert found.stderr.count("\n") == 1


def test_a_terminal_without_unicode_is_enough() -> None:
    command = [sys.executable, "-m", "jackpot_sim.sweep", "--dry-run"]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    found = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=environment)
    assert "states x vocab" in found.stdout
    assert found.stderr == ""


HEAVY = ("torch", "transformers", "ray", "matplotlib", "plotly", "scipy.stats", "scipy.optimize")


def test_importing_pulls_in_nothing_heavy() -> None:
    code = f"import sys, jackpot_sim.sweep.cli; print(*(name for name in {HEAVY} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert (found.stdout.strip(), found.stderr) == ("", "")
