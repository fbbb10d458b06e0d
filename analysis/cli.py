"""The command line of `python -m analysis`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
import pandas as pd
from cyclopts import App, Parameter
from rich.console import Console

from analysis import show, tables
from analysis.bootstrap import Options, Resample
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import write_atomically
from jackpot_sim.sweep import records

_EPILOGUE = """
What it prints, and writes as CSV: lowest_mse (which estimator to take at n proposals per state, and
which if the learning rate is chosen to suit), acceptance_vs_kl, kl_before_after, bias_variance (which
estimators no other beats), and figures (every figure of every estimator with its interval).

A figure is the mean over the seeds of an environment, and 0.9716(3) says that its standard error is
0.0003. All estimators are compared on the same resampled states. inf and nan are results too: they
are shown, never dropped.

Exit codes: 0 done, 2 something asked for cannot be done (one sentence says what).
"""

app = App(
    name="python -m analysis",
    help="Tables with uncertainty from the records of a study that `python -m jackpot_sim.sweep` has run.",
    help_epilogue=_EPILOGUE,
    version_flags=[],
)


_WIDE = 160
"""Columns of output that is no terminal."""


@app.default
def _analyse(
    *run: Path,
    out: Path | None = None,
    n_samples: Annotated[list[int] | None, Parameter(consume_multiple=True, negative_iterable=())] = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    resample: Resample = Resample.BOTH,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Analyse a run.

    Args:
        run: One run's folder, for instance runs/default-1234abcd; by default the latest below runs/.
        out: Where the CSV files go; by default the folder `analysis` in the run's folder.
        n_samples: Proposals per state at which MSEs are compared; by default 16 64 256 1024 4096.
        replicates: Bootstrap replicates.
        level: Coverage of the intervals in the CSV files.
        seed: Of the bootstrap's own randomness.
        resample: states: those of each cell; seeds: whole cells; both is the careful choice, too wide
            where seeds differ by their states alone.
        quiet: Write the files and print no tables.
    """
    raise AssertionError("the arguments are bound, never called")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, analyses, and turns every foreseeable failure into one sentence and exit code 2."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        if any(token in ("--help", "-h") for token in tokens):
            app.help_print(tokens=[])
            return 0
        _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return _run(*bound.args, **bound.kwargs)
    except StudyError as error:
        errors.print(f"analysis: {error}")
    except cyclopts.CycloptsError as error:
        errors.print(f"analysis: {' '.join(str(error).split())} (see --help)")
    return 2


def _chosen(given: Sequence[Path]) -> Path:
    """The run that is given, or else the latest below runs/.

    Raises:
        StudyError: several are given, or there is none.
    """
    if len(given) > 1:
        raise StudyError(f"one run at a time: {len(given)} folders were given, {', '.join(map(str, given))}")
    if given:
        return given[0]
    found = [path for path in Path("runs").glob("*/manifest.json") if path.is_file()]
    if not found:
        raise StudyError("there is no run below runs/: name a run's folder, or run `python -m jackpot_sim.sweep` first")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def _run(
    *runs: Path,
    out: Path | None = None,
    n_samples: Sequence[int] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    resample: Resample = Resample.BOTH,
    quiet: bool = False,
) -> int:
    options = Options(replicates, level, seed, resample)
    run = _chosen(runs)
    grid = (16, 64, 256, 1024, 4096) if n_samples is None else tuple(dict.fromkeys(n_samples))
    rows, states = records.load(run), records.load(run, "states")
    found = tables.build(rows, states, grid, options)
    folder = out or run / "analysis"
    written = write(found, folder)
    if not quiet:
        console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False, emoji=False)
        if not runs:
            console.print(f"{run}, the latest run below runs/.\n", soft_wrap=True)
        show.print_tables(found, console)
        planned = len(records.read_manifest(run)["cells"])
        unfinished = f" of {planned}: the run is not finished" if rows["cell"].nunique() < planned else ""
        console.print(
            f"{rows['cell'].nunique()} cells{unfinished}; {replicates} replicates over {_OVER[resample]}. "
            f"{len(written)} CSV files in {folder}.",
            soft_wrap=True,
        )
    return 0


_OVER = {Resample.STATES: "states", Resample.SEEDS: "seeds", Resample.BOTH: "seeds and states"}


def write(found: tables.Tables, folder: Path) -> list[Path]:
    """Writes each table as CSV.

    Raises:
        StudyError: the folder cannot be written.
    """
    frames: dict[str, pd.DataFrame] = vars(found)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            # inf and nan stay distinguishable from a missing value.
            path = folder / f"{name}.csv"
            write_atomically(path, lambda temporary, f=frame: f.to_csv(temporary, index=False, na_rep="nan"))
            written.append(path)
    except OSError as error:
        raise StudyError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    return written
