"""Every figure: what it writes, that it writes it twice alike, and how it refuses records that do not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import spec
from jackpot_sim.sweep.run import Progress, run
from paper_figures import figure2, records
from paper_figures.__main__ import main as everything
from tests.paper_figures.conftest import MAINS, Drawn

each_figure = pytest.mark.parametrize("name", list(MAINS))


@each_figure
def test_draws_both_files_and_agrees(drawn: dict[str, Drawn], name: str) -> None:
    made = drawn[name]
    assert made.code == 0, made.out
    assert (made.files / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (made.files / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert made.out.rstrip().splitlines()[-1].startswith("VERDICT: ")


@pytest.mark.usefixtures("sketched")
def test_says_that_it_measures_and_the_second_time_does_not(
    drawn: dict[str, Drawn],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert drawn["figure2"].err.startswith("figure2: measuring 39 of 39 cells")
    monkeypatch.chdir(drawn["figure2"].records.parents[2])
    assert figure2.main(["--rerun", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


@each_figure
def test_same_records_same_bytes_and_nothing_is_measured_again(
    drawn: dict[str, Drawn],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a figure measured something")

    monkeypatch.setattr("paper_figures.records.run", refused)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert MAINS[name](["--records", str(drawn[name].records), "--out", str(tmp_path)]) == 0
    for kind in ("png", "pdf"):
        assert (tmp_path / f"{name}.{kind}").read_bytes() == (drawn[name].files / f"{name}.{kind}").read_bytes()
    table = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Records ")]
    assert table == [line for line in drawn[name].out.splitlines() if not line.startswith("Records ")]


@each_figure
def test_another_study_is_refused(
    drawn: dict[str, Drawn], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"figure2": "unification", "unification": "noise_family", "noise_family": "figure2"}[name]
    assert MAINS[name](["--records", str(drawn[other].records), "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "lacks" in told
    assert f"paper_figures/configs/{name}.yaml" in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@each_figure
def test_an_unfinished_run_is_refused_if_given(
    drawn: dict[str, Drawn], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    shutil.copytree(drawn[name].records, root)
    next((root / "records").glob("*.parquet")).unlink()
    assert MAINS[name](["--records", str(root), "--out", str(tmp_path / "out")]) == 2
    assert "finish the run first" in capsys.readouterr().err


@each_figure
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--records", "nowhere"], "holds no run"),
        (["--records", "nowhere", "--rerun"], "not both"),
        (["--colour"], "--colour"),
        (["--records"], "--records"),
    ],
)
def test_refusals_are_one_sentence(
    name: str,
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert MAINS[name](options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{name}: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_place_that_cannot_be_written(
    drawn: dict[str, Drawn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = ["--records", str(drawn["figure2"].records), "--out", str(tmp_path / "file")]
    assert figure2.main(given) == 2
    assert "cannot write" in capsys.readouterr().err


def test_the_figures_own_folder_with_another_study(
    drawn: dict[str, Drawn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drawn["unification"].records, tmp_path / "runs" / "figures" / "figure2")
    monkeypatch.chdir(tmp_path)
    assert figure2.main(["--rerun"]) == 2
    told = capsys.readouterr().err
    assert "another study" in told
    assert "leave --rerun out" in told


def test_a_run_that_was_killed_is_finished(
    drawn: dict[str, Drawn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "figures" / "figure2"
    shutil.copytree(drawn["figure2"].records, root)
    for shard in sorted((root / "records").glob("*.parquet"))[:2]:
        shard.unlink()
    monkeypatch.chdir(tmp_path)
    assert figure2.main(["--rerun"]) == 0
    assert "measuring 2 of 39 cells" in capsys.readouterr().err
    assert (tmp_path / "figures/figure2.png").read_bytes() == (drawn["figure2"].files / "figure2.png").read_bytes()


@pytest.mark.usefixtures("sketched")
def test_finished_cells_are_told_in_lines_where_there_is_no_terminal() -> None:
    lines: list[str] = []
    bar: list[int] = []
    report = records._told("some", lambda progress: bar.append(progress.finished), lines.append, every=0.0)
    for finished in (1, 2, 3):
        report(Progress(finished, total=3, already_there=1))
    assert bar == [1, 2, 3]
    assert lines == [f"some: {finished} of 3 cells after 0 s" for finished in (2, 3)]
    silent = records._told("some", lambda _: None, lines.append, every=60.0)
    silent(Progress(2, total=3, already_there=1))
    assert len(lines) == 2


def test_a_larger_run_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other seeds, other numbers of states and more estimators are fine; two numbers of states are not."""
    asked = read_mapping(Path(figure2.__file__).parent / "configs" / "figure2.yaml")
    asked["seeds"], asked["estimators"] = [7], ["none", *asked["estimators"]]
    for states, code in ((48, 0), ([8, 9], 2)):
        asked["env"]["base"] |= {"states": states}
        root = tmp_path / f"run{code}"
        run(spec.parse(asked), root, SerialExecutor())
        assert figure2.main(["--records", str(root), "--out", str(tmp_path)]) == code
    assert "several numbers of states" in capsys.readouterr().err


def test_importing_sets_no_backend_and_opens_nothing() -> None:
    code = (
        "import sys; import paper_figures.__main__, analysis.cli;"
        "import matplotlib; assert 'matplotlib.pyplot' not in sys.modules;"
        "assert 'torch' not in sys.modules;"
        "assert matplotlib.rcParams._get('backend') is matplotlib.rcsetup._auto_backend_sentinel"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    for main in MAINS.values():
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
        assert "--records" in shown
        assert "--out" in shown


def test_help_of_all_figures_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert everything(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Usage:") == 1
    for name in MAINS:
        assert name in shown
    assert "--out" in shown


def test_a_figure_that_is_not_there_is_answered_with_those_that_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert everything(["tabel1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "paper_figures: no figure is called 'tabel1'; did you mean table1?\n"
    assert everything(["zzz"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("paper_figures: no figure is called 'zzz': the figures are figure1, ")
    assert told.count("\n") == 1


def test_table_3_of_the_paper_is_updates(capsys: pytest.CaptureFixture[str]) -> None:
    assert everything(["table3", "--records", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("updates: ")


def test_all_figures_take_no_records_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert everything(["--records", "runs/figures/figure2"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("paper_figures: ")
    assert captured.err.count("\n") == 1
