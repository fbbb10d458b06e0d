"""The command line of `python -m analysis`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from jackpot_sim.commands import FLAG, MANY, answer, app_of, console
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, TRAINING, Kind, kind_of_folder
from jackpot_sim.studies.tables import print_table
from jackpot_sim.sweep import records
from jackpot_sim.sweep.rollout_summary import rollout_tables
from jackpot_sim.training.conduct import OUTCOMES, manifest
from jackpot_sim.training.loop.run import STEPS

from . import asked, diagnoses, runs, sampled, show, style, tables
from . import figures as drawing
from .bootstrap import Options, Resample
from .training import curves
from .training import tables as trainings
from .training.records import so_far

_EPILOGUE = """
The folder says which command wrote it. All tables are written as CSV, and the most important ones are printed.

Exact figures of a sweep: lowest_mse (the best estimator at n proposals per state, and the best one if the learning
rate is chosen to suit), acceptance_vs_kl, kl_before_after, bias_variance (the estimators that no other beats in both),
best_thresholds (if the study asked for them), and figures (every figure of every estimator with its interval; CSV
alone). An estimator ties with the best one unless the interval of the ratio of their MSEs, paired by seeds, excludes 1.
All estimators are compared on the same resampled states.

Other figures of a sweep (Monte Carlo, language models, rollouts): sampled_figures, and the diagnostics and normalizers
of real models.

A study of training: runs, cells (setting and method), and differences to the method --base, paired by seed.

Diagnoses, one or several to compare: metrics, corrections, breakdowns.

A figure is the mean over seeds; 0.9716(3) has a standard error of 0.0003. inf and nan are results too: they are shown,
never dropped. An unfinished run is summarised as far as it is, and called so.

`python -m analysis runs [FOLDER]` lists the runs below a folder.

Exit codes: 0 done, 2 something asked for cannot be done (one sentence says what).
"""

app = app_of(
    __package__,
    "Tables with uncertainty, CSV and figures from the records of any run: a sweep, a study of training, or diagnoses.",
    _EPILOGUE,
)
app.command(runs.app, name="runs")

_GRID = (16, 64, 256, 1024, 4096)
"""Proposals per state at which MSEs are compared unless others are asked for."""


@app.default
def analyse(
    *run: Path,
    out: Path | None = None,
    figures: Annotated[bool, FLAG] = False,
    base: str | None = None,
    n_samples: Annotated[list[int] | None, MANY] = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    resample: Resample = Resample.BOTH,
    wide: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Analyse a run.

    Args:
        run: One run's folder, for instance runs/default-1234abcd; by default the latest below runs/. Or folders of
            diagnoses.
        out: The folder for the CSV files; by default the folder `analysis` in the run's folder.
        figures: Draw figures too, as PNG and PDF beside the CSV files.
        base: Of a study of training the method that others are compared with; by default none, or else the first.
        n_samples: Proposals per state at which exact MSEs are compared; by default 16 64 256 1024 4096.
        replicates: Bootstrap replicates for exact figures.
        level: Coverage of the intervals.
        seed: The seed of the bootstrap's own randomness.
        resample: The level at which to resample: the states of each cell, seeds (whole cells), or both, the careful
            choice, which gives too wide intervals where seeds differ by their states alone.
        wide: Print tables with all their columns, however narrow the terminal is.
        quiet: Write the files and print no tables.
    """
    options = Options(replicates, level, seed, resample)
    if len(run) > 1 and not all(map(diagnoses.is_one, run)):
        raise StudyError(f"one run at a time: {len(run)} folders were given, {', '.join(map(str, run))}")
    roots = list(run) or [_latest()]
    kind = _kind(roots[0])
    folder = out or roots[0] / "analysis"
    if base is not None and kind is not TRAINING:
        raise StudyError(f"--base is for studies of training, and {roots[0]} holds none")
    if kind is DIAGNOSIS:
        made = _diagnoses(roots)
    elif kind is TRAINING:
        made = _training(roots[0], base, level, wide=wide, figures=figures)
    else:
        grid = _GRID if n_samples is None else tuple(dict.fromkeys(n_samples))
        made = _sweep(roots[0], grid, options, wide=wide, figures=figures)
    written = write(made.tables, folder)
    with style.context():
        drawn = [path.name for name, figure in made.figures.items() for path in style.save(figure, folder, name)]
    if quiet:
        return 0
    output = console()
    if not run:
        output.print(f"{roots[0]}, the latest run below runs/.\n", soft_wrap=True)
    made.show(output)
    output.print(f"{len(written)} CSV file{'s' * (len(written) != 1)} in {folder}.", soft_wrap=True)
    if figures:
        output.print(f"Figures in {folder}: {', '.join(drawn)}." if drawn else made.undrawn, soft_wrap=True)
    return 0


class _Made(NamedTuple):
    """The tables and figures of a run."""

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Figure]
    show: Callable[[Console], None]
    """Prints the tables."""
    undrawn: str
    """The reason why there is no figure; empty where there is one."""


def _diagnoses(roots: Sequence[Path]) -> _Made:
    frames = diagnoses.read(roots)

    def show_all(output: Console) -> None:
        diagnoses.show(roots, frames, output)

    return _Made(frames, {}, show_all, "A diagnosis has its plots already, in its own folder.")


def _sweep(root: Path, grid: Sequence[int], options: Options, *, wide: bool, figures: bool) -> _Made:
    rows, states = records.load(root), records.load(root, "states")
    more = {name: records.load(root, name) for name in ("diagnostics", "normalizers", "thresholds")}
    resampled = (rows["method"] == "exact") & rows["cell"].isin(states["cell"])
    frames, built = dict[str, pd.DataFrame](), None
    if resampled.any():
        built = tables.build(rows[resampled], states, grid, options, more.pop("thresholds"))
        frames = {name: frame for name, frame in vars(built).items() if len(frame)}
    others = rows[~resampled]
    if len(others):
        frames |= sampled.build(others, options.level, more)
    manifest = records.read_manifest(root)
    planned, cells = len(manifest["cells"]), rows["cell"].nunique()
    unfinished = f" of {planned}: the run is not finished" if cells < planned else ""

    def show_all(output: Console) -> None:
        if built is not None:
            show.print_tables(built, output)
        # Exact figures of an environment say more than what was sampled of them.
        alone = others[~others["environment"].isin(rows.loc[resampled, "environment"])]
        if len(alone):
            sampled.print_tables(sampled.build(alone, options.level, {}), alone, output)
        for table in rollout_tables(root):
            # Short, with one sentence of legend: the whole is in the CSV files, and explained where it is wide.
            short = replace(table, prose="", caption=table.caption.partition(". ")[0].rstrip(".") + ".")
            print_table(output, table if wide else short, wide=wide)
        over = f"; {options.replicates} replicates over {_OVER[options.resample]}" if built is not None else ""
        output.print(f"{cells} cell{'s' * (cells != 1)}{unfinished}{over}.", soft_wrap=True)

    drawn = dict[str, Figure]()
    if figures:
        about = asked.sentence(asked.of_sweep(manifest)) + (f"; cells: {cells}{unfinished}" if unfinished else "")
        with style.context():
            for name, (figure, left_out) in drawing.draw(
                frames["figures" if built is not None else "sampled_figures"]
            ).items():
                style.foot(figure, about + (f". {left_out}." if left_out else "."))
                drawn[name] = figure
    return _Made(frames, drawn, show_all, "There is nothing to draw: no estimator has a finite bias, variance or KL.")


def _training(root: Path, base: str | None, level: float, *, wide: bool, figures: bool) -> _Made:
    trained, planned = so_far(root)
    frames = trainings.build(trained, base, level)
    there = len(trained.outcomes)
    unfinished = f" of {planned}: the study is not finished" if there < planned else ""

    def show_all(output: Console) -> None:
        output.print(f"{asked.sentence(asked.of_training(manifest(root)['config']))}.\n", soft_wrap=True)
        trainings.show(trained, frames, output, level, wide=wide)
        output.print(f"{there} run{'s' * (there != 1 or there < planned)}{unfinished}.", soft_wrap=True)

    drawn = dict[str, Figure]()
    panels = [panel for panel in (curves.KL, curves.ACCURACY) if curves.means_anything(trained, panel)]
    if figures and panels:
        with style.context():
            drawn["curves"], _ = curves.curves(trained, panels)
            style.foot(drawn["curves"], trained.about + (f"; runs: {there}{unfinished}" if unfinished else "") + ".")
    return _Made(frames, drawn, show_all, "There is nothing to draw: no step has an accuracy or a KL above 0.")


def _kind(root: Path) -> Kind | None:
    """The kind of a folder; None where its manifest does not tell, or is not there."""
    try:
        content = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kind_of_folder(content) if isinstance(content, dict) else None


def _latest() -> Path:
    """The latest run below runs/ of which something is finished.

    Raises:
        StudyError: there is none.
    """
    manifests = [path for path in Path("runs").glob(f"*/{MANIFEST}") if path.is_file()]
    latest = sorted(manifests, key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)
    found = next((path.parent for path in latest if _has_finished(path.parent)), None)
    if found is None:
        others = f" (of {len(latest)} other folders of studies none is one with a finished cell)" if latest else ""
        raise StudyError(
            f"there is no run below runs/{others}: name a run's folder, or run `python -m jackpot_sim.sweep` first"
        )
    return found


def _has_finished(root: Path) -> bool:
    kind = _kind(root)
    if kind is TRAINING:
        return (root / OUTCOMES).exists() or any(root.glob(f"runs/*/{STEPS}"))
    return records.has_finished(root) if kind is SWEEP else kind is DIAGNOSIS


_OVER = {Resample.STATES: "states", Resample.SEEDS: "seeds", Resample.BOTH: "seeds and states"}


def write(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Writes each table as CSV; the paths.

    Raises:
        StudyError: the folder cannot be written.
    """
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


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, analyses, and turns every foreseeable failure into one sentence and exit code 2."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens[:1] == ["runs"]:
        return runs.main(tokens[1:])
    return answer(app, "analysis", tokens, failures=(StudyError,))
