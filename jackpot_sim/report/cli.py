"""The command line of `jackpot-sim report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import ValidationError
from rich.console import Console

from jackpot_sim.commands import FLAG, answer, app_of, console
from jackpot_sim.diagnose.report.records import REPORT
from jackpot_sim.diagnose.report.terminal import show as show_diagnosis
from jackpot_sim.diagnose.results import Diagnosis
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, TRAINING, Kind, kind_of_folder
from jackpot_sim.sweep import cli as sweep
from jackpot_sim.sweep import records
from jackpot_sim.training import summary
from jackpot_sim.training.conduct import load, manifest

app = app_of(
    "jackpot_sim.report",
    "Show the tables of a run's folder again: of a sweep, a study of training, or a diagnosis.",
    "The folder says which command wrote it, and the tables are those that the command printed, read from the records. "
    "`jackpot-sim analysis DIR` computes more of a sweep's exact figures, with uncertainty; it compares diagnoses.\n\n"
    "Exit codes: 0 shown; 2 something asked for cannot be done (one sentence says what).",
)


@app.default
def report(*folders: Path, wide: Annotated[bool, FLAG] = False) -> int:
    """Show the tables.

    Args:
        folders: Folders of runs, for instance runs/default-1234abcd; by default the latest below runs/.
        wide: Tables with all their columns, and a diagnosis in full, however narrow the terminal is.
    """
    output = console()
    chosen = list(folders) or [_latest()]
    kinds = [_kind(root) for root in chosen]  # a folder that is none is refused before anything is shown
    for root, kind in zip(chosen, kinds, strict=True):
        if len(chosen) > 1 or not folders:
            output.print(f"{root}, a {kind.noun}:\n", style="bold", soft_wrap=True)
        _SHOWN[kind](root, output, wide)
    return 0


def _latest() -> Path:
    """The folder below runs/ that was begun last.

    Raises:
        StudyError: there is none.
    """
    found = [path for path in Path("runs").glob(f"*/{MANIFEST}") if path.is_file()]
    if not found:
        raise StudyError("there is no run below runs/: name the folder of one, as in runs/default-1234abcd")
    return max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def _kind(root: Path) -> Kind:
    """The kind of a folder.

    Raises:
        StudyError: it holds no run of any kind.
    """
    path = root / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"{root} holds no run: {path} cannot be read ({error.strerror}); give the folder that a sweep, a study of "
            "training or `diagnose --out` wrote, and to `diagnose` that of rollouts"
        ) from error
    except ValueError as error:
        raise StudyError(f"{path} is damaged: run the command that wrote it once more") from error
    kind = kind_of_folder(content) if isinstance(content, dict) else None
    if kind is None:
        raise StudyError(f"{path} is not the manifest of a run: give the folder that a command wrote")
    return kind


def _sweep(root: Path, output: Console, wide: bool) -> None:
    sweep.show(root, wide=wide)
    planned = len(records.read_manifest(root)["cells"])
    finished = records.load(root)["cell"].nunique()
    unfinished = "" if finished == planned else f" of {planned}: the command that began it finishes it"
    output.print(f"{finished} cells{unfinished}; records in {root}.", soft_wrap=True)


def _training(root: Path, output: Console, _: bool) -> None:
    name = str(manifest(root).get("study", root.name))
    try:
        steps, outcomes = load(root)
        table = summary.outcomes_table(name, steps, outcomes)
    except (KeyError, ValueError) as error:  # a column that is not there; a file that is no Parquet
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"{root} holds records that cannot be read: run the study again") from error
    output.print(table)
    output.print(f"{len(outcomes)} run{'s' * (len(outcomes) > 1)}; records in {root}.", soft_wrap=True)
    output.print(summary.policies(root, outcomes), soft_wrap=True)
    for sentence in summary.divergences(root, outcomes):
        output.print(sentence, soft_wrap=True)


def _diagnosis(root: Path, output: Console, wide: bool) -> None:
    path = root / REPORT
    try:
        diagnosis = Diagnosis.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StudyError(f"{path} is missing, damaged or of another version: make the diagnosis anew") from error
    show_diagnosis(diagnosis, output, wide=wide)
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
