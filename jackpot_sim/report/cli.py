"""The command line of `jackpot-sim report`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Console

from jackpot_sim.beside import beside
from jackpot_sim.commands import FLAG, answer, app_of, console
from jackpot_sim.diagnose.report.terminal import show as show_diagnosis
from jackpot_sim.report import folders as contents
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, TRAINING, Kind
from jackpot_sim.studies.tables import print_table
from jackpot_sim.sweep import cli as sweep
from jackpot_sim.sweep import records
from jackpot_sim.training import summary

app = app_of(
    "jackpot_sim.report",
    "Show the tables of a run's folder again, of a sweep, a study of training or a diagnosis; or write them as a page.",
    "The folder says which command wrote it, and the tables are those that the command printed, read from the records. "
    "With --out they are written with plots into one HTML file, which opens without a network and can be sent. "
    "`jackpot-sim analysis DIR` computes more of a sweep's exact figures, with uncertainty; it compares diagnoses.\n\n"
    "Exit codes: 0 shown or written; 2 something asked for cannot be done (one sentence says what).",
)


@app.default
def report(*folders: Path, out: Path | None = None, wide: Annotated[bool, FLAG] = False) -> int:
    """Show the tables, or write a page.

    Args:
        folders: Folders of runs, for instance runs/default-1234abcd; by default the latest below runs/.
        out: The HTML file to write in place of tables: all of the folders in one page, with plots.
        wide: Tables with all their columns, and a diagnosis in full, however narrow the terminal is.
    """
    output = console()
    chosen = list(folders) or [contents.latest()]
    kinds = [contents.kind_of(root) for root in chosen]  # a folder that is none is refused before anything is shown
    if out is not None:
        build = importlib.import_module(beside("analysis.report.build"))
        size = build.write(list(zip(chosen, kinds, strict=True)), out)
        output.print(f"{out}: {size / 1e6:.2f} MB.", soft_wrap=True)
        return 0
    for root, kind in zip(chosen, kinds, strict=True):
        if len(chosen) > 1 or not folders:
            output.print(f"{root}, a {kind.noun}:\n", style="bold", soft_wrap=True)
        _SHOWN[kind](root, output, wide)
    return 0


def _sweep(root: Path, output: Console, wide: bool) -> None:
    sweep.show(root, wide=wide)
    planned = len(records.read_manifest(root)["cells"])
    finished = records.load(root)["cell"].nunique()
    unfinished = "" if finished == planned else f" of {planned}: the command that began it finishes it"
    output.print(f"{finished} cells{unfinished}; records in {root}.", soft_wrap=True)


def _training(root: Path, output: Console, wide: bool) -> None:
    about, steps, outcomes = contents.of_training(root)
    print_table(output, summary.outcomes_table(str(about.get("study", root.name)), steps, outcomes), wide=wide)
    output.print(f"{len(outcomes)} run{'s' * (len(outcomes) > 1)}; records in {root}.", soft_wrap=True)
    output.print(summary.policies(root, outcomes), soft_wrap=True)
    for sentence in summary.divergences(root, outcomes):
        output.print(sentence, soft_wrap=True)


def _diagnosis(root: Path, output: Console, wide: bool) -> None:
    show_diagnosis(contents.of_diagnosis(root), output, wide=wide)
    if plots := sorted(each.name for each in root.glob("*.png")):
        output.print(f"Plots in {root}: {', '.join(plots)}.", soft_wrap=True)


_SHOWN: dict[Kind, Callable[[Path, Console, bool], None]] = {
    SWEEP: _sweep,
    TRAINING: _training,
    DIAGNOSIS: _diagnosis,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Shows the tables, and turns every foreseeable failure into one sentence and exit code 2."""
    return answer(app, "report", argv, failures=(StudyError,))
