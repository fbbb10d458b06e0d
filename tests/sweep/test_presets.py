"""Presets in studies: their names, their denominators and their table."""

from __future__ import annotations

import pytest

from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.cell import measure
from jackpot_sim.sweep.cli import main
from jackpot_sim.sweep.plan import cells, estimates
from jackpot_sim.sweep.presets import presets_tables
from tests.sweep.studies import small

TOKEN, BAND = "verl:decoupled_token_is", "verl:decoupled_geo_rs"
LM = {"kind": "small-lm", "vocab": 3, "length": 2, "prompts": 2, "source": {"kind": "weight-noise", "sigma": 0.1}}


def test_a_preset_is_measured_as_the_correction_that_it_becomes() -> None:
    study = small(estimators=[TOKEN, "tis"], methods=["exact"])
    preset, plain = measure(cells(study)[0], study).rows
    labels = ("estimator", "estimator_kind", "seconds")
    assert [preset[name] for name in labels[:2]] == [TOKEN, TOKEN]
    assert {k: v for k, v in preset.items() if k not in labels} == {k: v for k, v in plain.items() if k not in labels}


def test_a_preset_has_its_own_denominator_unless_the_study_names_some() -> None:
    pytest.importorskip("torch")
    own = spec.parse({"env": LM, "estimators": [BAND, TOKEN, "sequence-mask-k1"], "seeds": 1})
    named = spec.parse({"env": LM, "estimators": [BAND], "seeds": 1, "denominators": ["proposed", "self_normalized"]})
    assert [row["denominator"] for row in measure(cells(own)[0], own).rows] == ["accepted", "proposed", "proposed"]
    assert [row["denominator"] for row in measure(cells(named)[0], named).rows] == ["proposed", "self_normalized"]
    assert (estimates(own), estimates(named)) == (3, 2)
    told = spec.parse(
        {"env": LM, "estimators": [BAND, TOKEN, "sequence-mask-k1"], "seeds": 1, "denominators": ["proposed"]}
    )
    assert own.config_hash != told.config_hash
    assert small().config_hash == small(denominators=["proposed"]).config_hash


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--estimators verl:nothing", "unknown preset 'verl:nothing'"),
        ("--estimators verl@0.1:decoupled_token_is", "the presets of verl are those of 0.9.1"),
        ("--estimators verl:decoupled_geo_rs", "looks at whole sequences: it needs env.kind"),
        ("--estimators centred(tis)", "write {kind: tis, centred: true} in a config file"),
        (
            "--env.kind small-lm --estimators gspo --centred",
            "--centred adds nothing: no estimator looks at single tokens",
        ),
        ("--estimators tis --rao-blackwell", "--rao-blackwell adds nothing: no estimator draws a mask"),
        ("--presets --dry-run", "--presets stands alone, or with --wide"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--presets"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert TOKEN in shown
    assert not any("PPO's clip" in row and "no PPO clip" in row for row in shown.splitlines())
    assert all(isinstance(table, FittedTable) for table in presets_tables())
