"""The cost of real models: its counts, and the miniature that times them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.rehearsal import Rate, estimates
from jackpot_sim.sweep.stages import steps
from tests.sweep.subjects.test_rollouts import study

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_a_rate_goes_through_its_points() -> None:
    rate = Rate.of([(2.0, 3.0), (10.0, 7.0)], 4)
    assert [4 * rate.seconds(length) for length in (2, 10, 100)] == pytest.approx([3.0, 7.0, 52.0])
    assert Rate.of([(2.0, 3.0), (10.0, 2.0)], 4).seconds(50) == pytest.approx(0.75)
    assert Rate.of([(1.0, 3.0)], 3).seconds(5) == pytest.approx(5.0)


def test_every_cell_is_timed_once_a_kind_of_actor(checkpoints: Path) -> None:
    env = {"actor": {"kind": "weight-noise", "sigma": [0.5, 0.05]}, "length": 4}
    asked = study(checkpoints, env, n_samples=2, replicates=3, estimators=["none", "tis"])
    costs = estimates(asked, cells(asked))
    first, second = costs.values()
    assert first is second
    assert [each.name for each in first.steps] == [each.name for each in steps(asked.env[0], asked, 2)]  # type: ignore[arg-type]
    assert all(each > 0 for each in first.seconds)
    assert first.bytes > 1 << 26
    assert 0 < first.tokens < sum(each.tokens(2, 4) for each in first.steps)


def test_stages_have_a_line_each_without_a_terminal(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"policy": "policy", "actor.kind": "weight-noise", "actor.sigma": "0.1", "prompts": "prompts.jsonl"}
    paths = {name: str(checkpoints / value) if name in ("policy", "prompts") else value for name, value in env.items()}
    options = [part for name, value in paths.items() for part in (f"--env.{name}", value)]
    command = ["--env.kind", "hf", *options, "--env.length", "6", "--n-samples", "6", "--replicates", "3"]
    command += ["--estimators", "none", "tis", "--out", str(tmp_path / "run")]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "tokens through a model" in out
    assert "?" not in out.split("all")[1]
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "GiB of memory" in lines[0]
    stages = [line.split(": ")[1].split(",")[0] for line in lines[1:]]
    assert stages == [
        *("loading", "actor writes", "policy writes", "policy writes"),
        *("scoring", "scoring", "gradients", "gradients"),
    ]
    assert all(line.endswith(" left") for line in lines[1:])
    assert main([*command[:-1], str(tmp_path / "other"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
