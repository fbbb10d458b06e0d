"""The figures of sequences from end to end: a small study is run, drawn, and drawn again from its records."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from matplotlib.figure import Figure

from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study
from paper_figures import bias_variance_length, mismatch_sources, prefix_shift, records

MAINS = {
    "bias_variance_length": bias_variance_length.main,
    "prefix_shift": prefix_shift.main,
    "mismatch_sources": mismatch_sources.main,
}
each_figure = pytest.mark.parametrize("name", list(MAINS))


def small(name: str) -> Study:
    """The figure's study with short sequences, few seeds and untrained models."""
    asked = read_mapping(Path(records.__file__).parent / "configs" / f"{name}.yaml")
    if name == "mismatch_sources":
        asked["seeds"] = 2
        asked["env"] |= {"vocab": 4, "length": 2, "prompts": 1, "pretrain_steps": 0}
        asked["env"]["source"] = [
            {"kind": "quantized-weights", "share": 1.0, "format": "int8"},
            {"kind": "stale", "steps": 2},
            {"kind": "separate", "share": 1.0},
        ]
    else:
        asked["seeds"] = 2
        for env in asked["env"]:
            env |= {"vocab": 2, "length": [2, 3, 4], "prompts": 1, "pretrain_steps": min(1, env["pretrain_steps"])}
        asked["env"][0]["source"] = {"kind": "weight-noise", "target_kl": [0.001, 0.01]}
        asked["env"][1]["reward"] = {"kind": "random"}
    return spec.parse(asked)


@pytest.fixture(autouse=True)
def _small_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in the place of the bundled ones."""
    monkeypatch.setattr(records, "study", lambda name: small(records.config_of(name)))


class Drawn(NamedTuple):
    code: int
    out: list[str]
    records: Path
    files: Path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    """Each figure drawn from its own study, one after the other in one folder."""
    place, found = tmp_path_factory.mktemp("sequences"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "study", lambda name: small(records.config_of(name)))
        patch.chdir(place)
        for name, main in MAINS.items():
            out = io.StringIO()
            with redirect_stdout(out), redirect_stderr(io.StringIO()):
                code = main(["--rerun"])
            root = place / "runs" / "figures" / records.config_of(name)
            found[name] = Drawn(code, told(out.getvalue()), root, place / "figures")
    return found


def told(out: str) -> list[str]:
    """All but the line that names folders."""
    return [line for line in out.splitlines() if not line.startswith("Records ")]


@each_figure
def test_runs_its_study_and_draws_it_again_from_the_records(
    name: str,
    drawn: dict[str, Drawn],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = drawn[name]
    assert first.code in (0, 1)  # so few seeds say little: whether the numbers agree is not the question here
    assert first.out[-1].startswith("VERDICT: ")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a figure measured something")

    def save(figure: Figure, folder: Path, name: str) -> list[Path]:
        """The PDF alone, which comes first: the PNG takes as long again, and is of the same figure."""
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Producer": None})
        return [folder / f"{name}.pdf"]

    monkeypatch.setattr("paper_figures.records.run", refused)
    monkeypatch.setattr("paper_figures.style.save", save)
    assert MAINS[name](["--records", str(first.records), "--out", str(tmp_path)]) == first.code
    assert told(capsys.readouterr().out) == first.out
    assert (tmp_path / f"{name}.pdf").read_bytes() == (first.files / f"{name}.pdf").read_bytes()
    assert (first.files / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_two_figures_share_one_run(drawn: dict[str, Drawn]) -> None:
    assert drawn["prefix_shift"].records == drawn["bias_variance_length"].records
    folders = sorted(each.name for each in drawn["prefix_shift"].records.parent.iterdir())
    assert folders == ["bias_variance_length", "mismatch_sources"]


def test_records_of_another_study_are_refused_in_one_sentence(
    drawn: dict[str, Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = drawn["mismatch_sources"].records
    assert MAINS["prefix_shift"](["--records", str(root), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "lacks none on small-lm (weight-noise at target_kl 0.001, length 2)" in err
    assert "paper_figures/configs/bias_variance_length.yaml" in err
    assert err.count("\n") == 1


@each_figure
def test_missing_records_are_one_sentence(
    name: str, drawn: dict[str, Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MAINS[name](["--records", str(tmp_path / "nowhere")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{name}: ")
    assert "holds no run" in err
    assert err.count("\n") == 1
    root = tmp_path / "run"
    shutil.copytree(drawn[name].records, root)
    next((root / "records").glob("*.parquet")).unlink()
    assert MAINS[name](["--records", str(root), "--out", str(tmp_path / "out")]) == 2
    assert "finish the run first" in capsys.readouterr().err


@pytest.mark.usefixtures("sketched")
def test_other_prompts_are_no_other_study_but_two_numbers_of_them_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A larger run of the same environments may be given."""
    asked = small("mismatch_sources").model_dump(mode="json")
    for prompts, expected in ((3, {0, 1}), ((1, 2), {2})):
        given = asked | {"env": [env | {"prompts": prompts} for env in asked["env"]]}
        root = tmp_path / f"run{expected}"
        run(spec.parse(given), root, SerialExecutor())
        assert MAINS["mismatch_sources"](["--records", str(root), "--out", str(tmp_path)]) in expected
    assert "several numbers of prompts" in capsys.readouterr().err
