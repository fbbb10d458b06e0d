"""The cost of real models: its counts, and the miniature that times them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jackpot_sim.environments.language_models import generation, reading
from jackpot_sim.environments.rollouts import shared
from jackpot_sim.sweep import rehearsal
from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.plan import cells
from jackpot_sim.sweep.rehearsal import estimates, rehearse
from jackpot_sim.sweep.stages import OWN_GRADIENTS, POLICY_WRITES, Shared, steps
from jackpot_sim.sweep.subjects import measure
from tests.sweep.subjects.test_rollouts import study

pytest.importorskip("torch")
pytest.importorskip("transformers")


ACTORS = {"actor": {"kind": "weight-noise", "sigma": [0.5, 0.05]}, "length": 4}


def test_cells_of_one_kind_are_timed_once_and_share_the_policys_passes(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(checkpoints, ACTORS, n_samples=2, replicates=3, estimators=["none", "tis"])
    timed: list[str] = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda env, *rest: timed.append(env.family) or rehearse(env, *rest))
    first, second = estimates(asked, cells(asked)).values()
    assert timed == ["weight-noise"]
    for each, passes in ((first, Shared()), (second, Shared(loaded=True, written=True))):
        assert list(each.steps) == steps(asked.env[0], asked, 2, passes)  # type: ignore[arg-type]
    assert all(each > 0 for each in first.seconds)
    spared = {step.name for step, seconds in zip(second.steps, second.seconds, strict=True) if not seconds}
    assert spared == {POLICY_WRITES, OWN_GRADIENTS}
    assert 1 << 26 < first.bytes < 1 << 40
    assert 0 < second.tokens < first.tokens


def test_a_rehearsal_takes_nothing_from_the_cells_before_and_leaves_them_nothing(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes, reads and loads the same number of times before a cell and after it, and so does the cell."""
    asked = study(checkpoints, ACTORS | {"actor": {"kind": "weight-noise", "sigma": 0.1}}, n_samples=2, replicates=3)
    (cell,) = cells(asked)
    made: list[str] = []

    def counting(owner: Any, name: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **named: made.append(name) or function(*args, **named))

    for owner, name in ((shared, "load"), (generation, "generate"), (reading.Reader, "states")):
        counting(owner, name)
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.0)  # as few rollouts however fast

    def counts(run: Callable[[], object]) -> list[int]:
        made.clear()
        run()
        return [made.count(name) for name in ("load", "generate", "states")]

    def forgotten() -> object:
        shared.forget()
        return measure(cell, asked)

    alone = counts(forgotten)
    after_a_cell = counts(lambda: estimates(asked, [cell]))
    assert counts(lambda: measure(cell, asked)) == alone
    shared.forget()
    assert counts(lambda: estimates(asked, [cell])) == after_a_cell
    # A batch of each model at both lengths and the first call of all; then both models and the baseline's rewards.
    assert after_a_cell[0] == 2, "loaded once with the libraries, and once to be timed"
    assert after_a_cell[1] >= 2 * 2 + 1 + 2 * 3


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
