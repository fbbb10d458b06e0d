"""A wheel: one name at the top, its commands, and none of a user's own packages in their way."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

hatchling = pytest.importorskip("hatchling.builders.wheel")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation, beside which a user has packages that are named as ours."""
    place = tmp_path_factory.mktemp("wheel")
    (built,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(place), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(place / "site")
    for name in ("analysis", "paper_figures", "tests"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("raise RuntimeError('a package of the user')")
    return place / "site"


def ran(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The user's packages are before ours, and an editable installation of ours is behind both.
    environment = {"PYTHONPATH": f"{site.parent}:{site}", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True, check=False)


def test_one_name_stands_at_the_top(site: Path) -> None:
    tops = {each.name for each in site.iterdir() if not each.name.endswith(".dist-info")}
    assert tops == {"jackpot_sim"}
    for part in ("analysis", "paper_figures"):
        shipped = {path.relative_to(site / "jackpot_sim" / part) for path in (site / "jackpot_sim" / part).rglob("*")}
        tracked = {path.relative_to(ROOT / part) for path in (ROOT / part).rglob("*")}
        assert {each for each in tracked if "__pycache__" not in each.parts} == shipped


def test_every_command_helps(site: Path) -> None:
    script = (
        "from jackpot_sim.__main__ import COMMANDS, main; import jackpot_sim, sys\n"
        "assert jackpot_sim.__file__.startswith(sys.argv[1])\n"
        "assert [main([name, '--help']) for name in COMMANDS] == [0] * len(COMMANDS)\n"
        "assert not {'analysis', 'paper_figures', 'torch'} & {*sys.modules}"
    )
    done = ran(site, "-c", script, str(site))
    assert done.returncode == 0, done.stderr
    assert "Usage: python -m jackpot_sim.analysis" in done.stdout
    assert "Usage: python -m jackpot_sim.paper_figures" in done.stdout


@pytest.mark.nightly
def test_a_figure_is_drawn_and_records_are_analysed(site: Path) -> None:
    records = str(site / "jackpot_sim" / "paper_figures" / "measured" / "noise_family")
    script = (
        "import runpy, sys; from jackpot_sim.__main__ import main\n"
        "assert main(['figures', 'overhead', '--out', 'figures']) in (0, 1)\n"
        "runpy.run_module('jackpot_sim.analysis', run_name='__main__', alter_sys=True)"
    )
    done = ran(site, "-c", script, records, "--out", "tables", "--replicates", "10", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert (site.parent / "figures" / "overhead.png").exists()
    assert (site.parent / "tables" / "figures.csv").exists()
