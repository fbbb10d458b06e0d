"""The command line of `python -m analysis runs`: the runs below a folder, with what each was asked for."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from jackpot_sim.commands import FLAG, answer, app_of, console
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.studies.kinds import DIAGNOSIS, SWEEP, TRAINING, Kind, kind_of_folder
from jackpot_sim.training.conduct import OUTCOMES
from jackpot_sim.training.loop.run import STEPS
from jackpot_sim.training.study import name_of_run

from . import asked
from .training.records import planned

_KINDS = {SWEEP: "sweep", TRAINING: "training", DIAGNOSIS: "diagnosis"}
_DEPTH = 3
"""The deepest level at which runs are looked for, of which the first is that of runs/NAME."""

app = app_of(
    f"{__package__} runs",
    "List the runs below runs/ or another folder: kind, beginning, how far they are, and what they were asked for.",
    "Exit codes: 0 listed, 2 there is no such folder or no run in it.",
)


@dataclass(frozen=True)
class Listed:
    """A run of any kind."""

    folder: str
    kind: str
    """`sweep`, `training`, `diagnosis`, or `damaged`."""
    begun: str
    """The time of its manifest, in ISO 8601."""
    finished: int
    """The number of finished cells of a sweep, or runs of a study of training."""
    planned: int
    asked: Mapping[str, str]
    """The request, in words by headings."""


@app.default
def listing(
    folder: Path = Path("runs"), /, *, wide: Annotated[bool, FLAG] = False, json: Annotated[bool, FLAG] = False
) -> int:
    """List the runs, the latest first.

    Args:
        folder: The folder that holds the runs, or holds folders of them.
        wide: Everything that was asked for, on one line.
        json: A list of objects in JSON in place of a table.
    """
    found = runs_below(folder)
    if json:
        print(_json([asdict(each) for each in found]))
        return 0
    output = console()
    output.print(f"Runs below {folder}, the latest first.", style="bold")
    for each in found:
        done = f"{each.finished}" if each.finished == each.planned else f"{each.finished} of {each.planned}"
        units = {"sweep": " cells", "training": " runs"}.get(each.kind, "")
        name = str(Path(each.folder).relative_to(folder))
        about = f"{each.kind}, {each.begun[:16].replace('T', ' ')}" + (f", {done}{units}" if units else "")
        _print_line(output, f"{str(folder) if name == '.' else name}  ({about})", "", wide)
        _print_line(output, asked.sentence(each.asked, () if wide else _LESS), "    ", wide)
    return 0


_LESS = ("settings", "samples", "how")
"""The headings that are left out of the request where it is to be short."""


def _print_line(output: Console, text: str, indent: str, wide: bool) -> None:
    """A text on one line, or folded to the console's width."""
    room = max(20, output.width - len(indent))
    for line in [text] if wide else textwrap.wrap(text, room, break_on_hyphens=False) or [""]:
        output.print(f"{indent}{line}", soft_wrap=True)


def runs_below(folder: Path) -> list[Listed]:
    """The runs in a folder and below it, the latest first.

    Raises:
        StudyError: there is no such folder, it cannot be read, or it holds no run.
    """
    if not folder.is_dir():
        raise StudyError(f"there is no folder {folder}: name the one that holds your runs")
    try:
        manifests = [each for depth in range(_DEPTH) for each in folder.glob(f"{'*/' * depth}{MANIFEST}")]
        found = [each for each in map(_run, manifests) if each is not None]
    except OSError as error:
        raise StudyError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    if not found:
        raise StudyError(f"there is no run in {folder}: name the folder that holds your runs")
    return sorted(found, key=lambda each: (each.begun, each.folder), reverse=True)


def _run(path: Path) -> Listed | None:
    """The run of a manifest; None where it is that of something else."""
    begun = datetime.fromtimestamp(path.stat().st_mtime).isoformat(timespec="seconds")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return Listed(str(path.parent), "damaged", begun, 0, 0, {"manifest": "cannot be read"})
    kind = kind_of_folder(manifest) if isinstance(manifest, dict) else None
    if kind is None:
        return None
    try:
        done = _progress(kind, path.parent, manifest)
        return Listed(str(path.parent), _KINDS[kind], begun, *done, asked.in_words(kind, manifest))
    except (StudyError, KeyError, TypeError, AttributeError):
        return Listed(str(path.parent), "damaged", begun, 0, 0, {"manifest": "is not whole, or of another version"})


def _progress(kind: Kind, root: Path, manifest: Mapping[str, Any]) -> tuple[int, int]:
    """The number of cells or runs that are finished, and of those that were asked for."""
    if kind is DIAGNOSIS:
        return int((root / "report.json").exists()), 1
    if kind is SWEEP:
        there = [(root / "records" / f"{cell['cell']}.parquet").exists() for cell in manifest["cells"]]
        return sum(there), len(there)
    runs = planned(root, manifest)
    if (root / OUTCOMES).exists():
        return len(runs), len(runs)
    return sum((root / "runs" / name_of_run(*run) / STEPS).exists() for run in runs), len(runs)


def _json(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Lists the runs, and turns every foreseeable failure into one sentence and exit code 2."""
    return answer(app, "analysis", argv, failures=(StudyError,))
