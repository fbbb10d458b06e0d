"""A configuration of one kind of study that is given to the other's command names the command that takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jackpot_sim.studies.kinds import SWEEP, TRAINING
from jackpot_sim.sweep import cli as sweep
from jackpot_sim.sweep.spec import Study as Sweep
from jackpot_sim.training import cli as training
from jackpot_sim.training.config import Training
from tests.cases import each

ROOT = Path(__file__).parent.parent.parent
BUNDLED = [ROOT / "jackpot_sim/sweep/default.yaml", ROOT / "jackpot_sim/sweep/sequences.yaml"]
FIGURES = sorted((ROOT / "paper_figures/configs").glob("*.yaml"))
CONFIGS = [
    *BUNDLED,
    *(
        path
        for path in FIGURES
        if not any(word in path.read_text() for word in ("same_as", "runs/example", "runs/real_model"))
    ),
]


def test_the_fields_that_tell_the_kinds_apart_are_those_of_one_kind_alone() -> None:
    of_training = {*Training.model_fields, "settings", "quick"}
    assert SWEEP.fields == {*Sweep.model_fields} - {"name", "seeds", "methods", "plugins"}
    assert TRAINING.fields == of_training
    assert not SWEEP.fields & of_training


@each("path", CONFIGS)
def test_a_configuration_is_taken_by_one_command_and_sent_there_by_the_other(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {"jackpot_sim.sweep": sweep.main, "jackpot_sim.training": training.main}
    refused = {}
    for module, main in commands.items():
        capsys.readouterr()  # what another command had to say
        if main(["--config", str(path), "--dry-run"]) != 0:
            refused[module] = capsys.readouterr().err
    assert len(refused) == 1
    (module,) = commands.keys() - refused.keys()
    (error,) = refused.values()
    assert error.count("\n") == 1
    assert f"run `python -m {module} --config {path}`" in error
