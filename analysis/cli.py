"""The command line of `python -m analysis`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from analysis import diagnoses, show, tables
from analysis.bootstrap import Options, Resample
from jackpot_sim.commands import FLAG, MANY, answer, app_of, console
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.sweep import records

_EPILOGUE = """
The tables are printed and written as CSV: lowest_mse (the best estimator at n proposals per state, and the best one
if the learning rate is chosen to suit), acceptance_vs_kl, kl_before_after, bias_variance (the estimators that no
other beats in both), best_thresholds (if the study asked for them: the best threshold of each estimator, what it
saves, and all estimators compared at their best), and figures (every figure of every estimator with its interval; CSV
alone).

An estimator ties with the best one unless the interval of the ratio of their MSEs, paired by seeds, excludes 1.

A figure is the mean over the seeds of an environment; 0.9716(3) has a standard error of 0.0003. All estimators are
compared on the same resampled states. inf and nan are results too: they are shown, never dropped.

Of the folders that `python -m jackpot_sim.diagnose --out` writes, one or several to compare, the figures and the best
corrections are printed, and all tables are written as CSV; of the options --out and --quiet count.

Exit codes: 0 done, 2 something asked for cannot be done (one sentence says what).
"""

app = app_of(
    "analysis",
    "Tables with uncertainty from the records of a study that `python -m jackpot_sim.sweep` has run.",
    _EPILOGUE,
)

_GRID = (16, 64, 256, 1024, 4096)
"""Proposals per state at which MSEs are compared unless others are asked for."""


@app.default
def analyse(
    *run: Path,
    out: Path | None = None,
    n_samples: Annotated[list[int] | None, MANY] = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    resample: Resample = Resample.BOTH,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Analyse a run.

    Args:
        run: One run's folder, for instance runs/default-1234abcd; by default the latest below runs/. Or folders of
            diagnoses.
        out: The folder for the CSV files; by default the folder `analysis` in the run's folder.
        n_samples: Proposals per state at which MSEs are compared; by default 16 64 256 1024 4096.
        replicates: Bootstrap replicates.
        level: Coverage of the intervals in the CSV files.
        seed: The seed of the bootstrap's own randomness.
        resample: The level at which to resample: the states of each cell, seeds (whole cells), or both, the careful
            choice, which gives too wide intervals where seeds differ by their states alone.
        quiet: Write the files and print no tables.
    """
    options = Options(replicates, level, seed, resample)
    if run and all(map(diagnoses.is_one, run)):
        return _compare(run, out, quiet)
    root = _chosen(run)
    grid = _GRID if n_samples is None else tuple(dict.fromkeys(n_samples))
    rows, states = records.load(root), records.load(root, "states")
    if states.empty:
        raise StudyError(
            f"{root} holds no exact figures, and only these have the per-state table to resample: its own command "
            "prints its tables again, with standard errors"
        )
    built = tables.build(rows, states, grid, options, records.load(root, "thresholds"))
    folder = out or root / "analysis"
    written = write(built, folder)
    if not quiet:
        output, cells = console(), rows["cell"].nunique()
        if not run:
            output.print(f"{root}, the latest run below runs/.\n", soft_wrap=True)
        show.print_tables(built, output)
        planned = len(records.read_manifest(root)["cells"])
        unfinished = f" of {planned}: the run is not finished" if cells < planned else ""
        output.print(
            f"{cells} cells{unfinished}; {replicates} replicates over {_OVER[resample]}. "
            f"{len(written)} CSV files in {folder}.",
            soft_wrap=True,
        )
    return 0


def _compare(roots: Sequence[Path], out: Path | None, quiet: bool) -> int:
    """Tables of diagnoses."""
    frames = diagnoses.read(roots)
    folder = out or roots[0] / "analysis"
    written = _write(frames, folder)
    if not quiet:
        diagnoses.show(roots, frames, console())
        console().print(f"{len(written)} CSV files in {folder}.", soft_wrap=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, analyses, and turns every foreseeable failure into one sentence and exit code 2."""
    return answer(app, "analysis", argv, failures=(StudyError,))


def _chosen(runs: Sequence[Path]) -> Path:
    """The run that is given, or else the latest below runs/ with a finished cell.

    Raises:
        StudyError: several are given, or none and there is no run.
    """
    if len(runs) > 1:
        raise StudyError(f"one run at a time: {len(runs)} folders were given, {', '.join(map(str, runs))}")
    if runs:
        return runs[0]
    manifests = [path for path in Path("runs").glob(f"*/{MANIFEST}") if path.is_file()]
    latest = sorted(manifests, key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)
    found = next((path.parent for path in latest if records.has_finished(path.parent)), None)
    if found is None:
        others = f" (of {len(latest)} other folders of studies none is one with a finished cell)" if latest else ""
        raise StudyError(
            f"there is no run below runs/{others}: name a run's folder, or run `python -m jackpot_sim.sweep` first"
        )
    return found


_OVER = {Resample.STATES: "states", Resample.SEEDS: "seeds", Resample.BOTH: "seeds and states"}


def write(built: tables.Tables, folder: Path) -> list[Path]:
    """Writes each table as CSV; the paths.

    Raises:
        StudyError: the folder cannot be written.
    """
    return _write({name: frame for name, frame in vars(built).items() if len(frame)}, folder)


def _write(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in frames.items():
            # inf and nan stay distinguishable from a missing value.
            path = folder / f"{name}.csv"
            write_atomically(path, lambda temporary, f=frame: f.to_csv(temporary, index=False, na_rep="nan"))
            written.append(path)
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error
    return written
