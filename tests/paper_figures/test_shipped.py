"""The records that ship with figures of numbers: whose they are, that they are true, how new ones are shipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.sweep import records as runs
from jackpot_sim.sweep import spec
from paper_figures import centring_topk, figure2, records, shipped, unification
from paper_figures.__main__ import main as everything
from tests.paper_figures.conftest import MAINS, Drawn

OF_NUMBERS = (
    *("figure2", "unification", "noise_family", "bias_variance_length", "prefix_shift", "mismatch_sources"),
    "centring",
)
SHIPPED = [name for name in OF_NUMBERS if shipped.measured(records.config_of(name)).exists()]
KEYS = ["cell", "estimator", "denominator", "method"]
HOW = {"seconds", "config_hash", "version", "numpy", "python", "commit"}
"""The columns that tell how a figure was measured."""


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_the_figures_study(name: str) -> None:
    loaded = records.load(name, None)
    assert loaded.root == shipped.measured(records.config_of(name))
    assert set(loaded.records["estimator"]) == {each.label for each in records.study(name).estimators}


def test_the_errors_of_centring_that_ship_are_its_studys() -> None:
    assert not centring_topk.load(centring_topk.NAME, None).rows.empty


@pytest.mark.parametrize("name", list(MAINS))
def test_what_ships_is_what_the_study_measures_here(drawn: dict[str, Drawn], name: str) -> None:
    for table, keys in (("records", KEYS), ("states", ["cell", "estimator", "state"])):
        here, kept = (
            runs.load(root, table).sort_values(keys) for root in (drawn[name].records, shipped.measured(name))
        )
        columns = [each for each in here if each not in HOW]
        # Another processor rounds sums otherwise, and KLs of near laws are differences of such.
        pd.testing.assert_frame_equal(
            here[columns].reset_index(drop=True), kept[columns].reset_index(drop=True), rtol=1e-6, atol=1e-9
        )


@pytest.mark.usefixtures("sketched")
def test_records_of_another_configuration_are_not_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = records.study("figure2")
    other = asked.model_copy(update={"seeds": (*asked.seeds, 99)})
    monkeypatch.setattr(records, "study", lambda _: spec.parse(other.model_dump(mode="json")))
    assert figure2.main([]) == 2
    told = capsys.readouterr().err
    assert (
        told
        == "figure2: the records of figure2 that ship are not of configs/figure2.yaml as it is: --rerun makes those\n"
    )


def test_a_figure_without_records_is_one_sentence_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[list[str]] = []

    def fake(argv: list[str]) -> int:
        drawn.append(list(argv))
        return 1

    monkeypatch.setattr(shipped, "measured", lambda name: tmp_path / name)
    figures = {"figure2": figure2.main, "overhead": fake, "table1": fake}
    monkeypatch.setattr("paper_figures.__main__.FIGURES", figures)
    assert everything(["--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("figure2: no records of figure2 ship with this version: --rerun makes them")
    assert told[1:] == ["paper_figures: 1 of 3 not drawn: figure2"]
    del figures["figure2"]
    assert everything(["--rerun", "--out", "x"]) == 1
    assert drawn == [["--out", str(tmp_path)]] * 2 + [["--out", "x"], ["--out", "x", "--rerun"]]


def test_a_run_is_packed_whole_or_not_at_all(drawn: dict[str, Drawn], tmp_path: Path) -> None:
    root = drawn["figure2"].records
    runs.pack(root, tmp_path / "packed")
    for table in ("records", "states", "thresholds"):
        pd.testing.assert_frame_equal(runs.load(root, table), runs.load(tmp_path / "packed", table))
    assert {each.name for each in (tmp_path / "packed").iterdir()} == {
        *("manifest.json", "records.parquet", "states.parquet")
    }
    assert figure2.main(["--records", str(tmp_path / "packed"), "--out", str(tmp_path)]) == 0
    half = tmp_path / "half"
    (half / "records").mkdir(parents=True)
    (half / "manifest.json").write_bytes((root / "manifest.json").read_bytes())
    with pytest.raises(StudyError, match="lacks some of its 39 cells"):
        runs.pack(half, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_shipping_needs_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for names, told in (([], "name the figures"), (["figure2"], "holds no run")):
        assert shipped.main(names) == 2
        assert told in capsys.readouterr().err


def test_what_ships_is_drawn_without_torch(tmp_path: Path) -> None:
    """Figures of sequences and of models, whose studies need it; those of training have a test of their own."""
    code = (
        "import sys; from paper_figures.__main__ import FIGURES\n"
        "codes = {name: FIGURES[name](['--out', sys.argv[1]]) for name in sys.argv[2:]}\n"
        "assert set(codes.values()) <= {0, 1}, codes\n"
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & {*sys.modules}"
    )
    of_sequences = [name for name in ("prefix_shift", "mismatch_sources") if name in SHIPPED]
    names = [*of_sequences, "centring_topk", "topk_accuracy", "real_model"]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *names], check=True, timeout=600, capture_output=True)


def test_the_identities_hold_in_what_ships() -> None:
    loaded = records.load(unification.NAME, None)
    assert np.nanmax(unification.identities(loaded, 0.6)["deviation"]) <= unification.TOLERANCE
