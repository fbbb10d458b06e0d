"""The records of a figure of training: those that ship with it, those in a folder, or those of a quick run.

A full study takes hours, so the records of each are in `measured/training/NAME`, and drawing them needs no
torch. `--records DIR` draws another finished study. `--rerun` trains the figure's own into runs/figures/NAME, for
hours, and `--quick` its short version into runs/figures/NAME-quick, for minutes.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from jackpot_sim.commands import FLAG, MANY
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, opened
from jackpot_sim.training import conduct, progress
from jackpot_sim.training.study import Study, read

from .. import analysed, command, shipped, style
from ..analysed import asked
from ..command import Made

Trained = analysed.records.Trained
Training = analysed.records.Training
of_folder = analysed.records.of_folder


def draw(name: str, about: str, make: Callable[[Trained], Made], argv: Sequence[str] | None) -> int:
    """Draws figure `name` from records of training, writes it, and prints its report; the exit code."""

    def figure(
        *,
        records: Path | None = None,
        rerun: Annotated[bool, FLAG] = False,
        quick: Annotated[bool, FLAG] = False,
        out: Path = Path("figures"),
    ) -> int:
        """Read and draw.

        Args:
            records: The folder of a finished study; by default the records that ship with the figure.
            rerun: Train the figure's study into runs/figures/NAME, or what is missing there, and draw that; hours, and
                needs torch.
            quick: Train the study's quick version into runs/figures/NAME-quick, and draw that; needs torch.
            out: The folder for the PDF and the PNG.
        """
        return command.draw(name, load(name, records, rerun, quick), _with_foot(make), out)

    return command.answer(name, about, figure, argv)


@dataclass(frozen=True)
class Several:
    """The records of several finished studies."""

    studies: Sequence[Trained]

    @property
    def root(self) -> str:
        """Their folders, in words."""
        return ", ".join(str(each.root) for each in self.studies)

    @property
    def about(self) -> str:
        """Tasks, models and steps of all, in words, for the foot of a figure."""
        grids = {f"{at} {name}": grid for at, each in enumerate(self.studies) for name, grid in each.grid.items()}
        words = asked.sentence(asked.of_training({"grid": grids}), without=("settings", "methods"))
        return f"{words}; studies: {len(self.studies)}; runs: {sum(len(each.outcomes) for each in self.studies)}"


T = TypeVar("T", Trained, Several)


def _with_foot(make: Callable[[T], Made]) -> Callable[[T], Made]:
    """The same figure with a line at its foot that says task, models, steps and seeds."""

    def whole(records: T) -> Made:
        made = make(records)
        style.foot(made.figure, f"{records.about}.")
        return made

    return whole


def draw_several(
    name: str, about: str, columns: Sequence[str], make: Callable[[Several], Made], argv: Sequence[str] | None
) -> int:
    """Draws figure `name` from the records of several studies, with no quick version; the exit code.

    Args:
        name: the figure's.
        about: the text of `--help`.
        columns: the columns of the steps that a study has to have.
        make: draws it.
        argv: the arguments; None: those of the process.
    """

    def figure(*, records: Annotated[list[Path] | None, MANY] = None, out: Path = Path("figures")) -> int:
        """Read and draw.

        Args:
            records: The folders of finished studies; by default all records that ship and have the figure's columns.
            out: The folder for the PDF and the PNG.
        """
        return command.draw(name, load_several(name, records, columns), _with_foot(make), out)

    return command.answer(name, about, figure, argv)


def load_several(name: str, given: Sequence[Path] | None, columns: Sequence[str]) -> Several:
    """The records of figure `name`: from the folders `given`, or all that ship and have these columns of the steps.

    Studies of on-policy actors alone, which have no mismatch, are passed over.

    Raises:
        StudyError: records are missing, not finished, not records of training, or lack a column.
    """
    if given is not None:
        studies = [of_folder(root) for root in given]
        for trained in studies:
            if lacking := _lacking(trained, columns):
                raise StudyError(f"{trained.root} lacks {lacking[0]}, which runs of this version record: run it again")
    else:
        shipped = sorted(committed(name).parent.glob(f"*/{conduct.MANIFEST}"))
        every = [of_folder(each.parent) for each in shipped]
        studies = [trained for trained in every if not _lacking(trained, columns) and not _on_policy(trained)]
    if not studies:
        raise StudyError(f"no records of {name} ship with this version: give finished studies with --records")
    return Several(studies)


def _lacking(trained: Trained, columns: Sequence[str]) -> list[str]:
    return [each for each in columns if each not in trained.steps or trained.steps[each].isna().all()]


def _on_policy(trained: Trained) -> bool:
    """True where the policy itself writes the rollouts of every run."""
    runs = [run for methods in trained.grid.values() for run in methods.values()]
    return all(run["actor"] == {"kind": "on-policy"} for run in runs)


def load(name: str, given: Path | None, rerun: bool = False, quick: bool = False) -> Trained:
    """The records of figure `name`: from `given`, of its study or the quick version, trained first, or those that ship.

    Raises:
        StudyError: the records are missing, not finished, or not records of training.
    """
    if sum([given is not None, rerun, quick]) > 1:
        raise StudyError("give one of --records, --rerun and --quick")
    if rerun or quick:
        return of_folder(_trained(name, quick), quick)
    root = given or committed(name)
    if given is None and not (root / conduct.MANIFEST).exists():
        raise StudyError(
            f"no records of {name} ship with this version: give a finished study with --records, which "
            f"`python -m jackpot_sim.training --config {config(name)} --out DIR` trains for hours, or --quick"
        )
    trained = of_folder(root)
    if given is None and not is_of(read(config(name)), root):
        _tell(f"{name}: the records that ship are not of configs/{name}.yaml as it is: --rerun trains those")
    return trained


@functools.cache
def _tell(sentence: str) -> None:
    """Says a sentence once, however often the records are read."""
    print(sentence, file=sys.stderr)


def is_of(study: Study, root: Path) -> bool:
    """True for the records of this study: by what this version makes of both, whatever version wrote them."""
    return Study.model_validate(conduct.manifest(root)["config"]).config_hash == study.config_hash


def committed(name: str) -> Path:
    """The folder of the records that ship with figure `name`."""
    return shipped.bundled("measured", "training", name)


def config(name: str) -> Path:
    """The configuration of the study of figure `name`."""
    return shipped.bundled("configs", f"{name}.yaml")


def _trained(name: str, quick: bool) -> Path:
    """The folder of the figure's study, or of its quick version, whose missing runs are trained."""
    require("torch", "transformers", purpose=f"{'--quick' if quick else '--rerun'}, which trains models,")
    study, root = read(config(name), quick=quick), shipped.own(f"{name}-quick" if quick else name)
    if (root / conduct.MANIFEST).exists() and conduct.manifest(root)["config_hash"] != study.config_hash:
        raise StudyError(f"{root} holds another version of the study: move it away, and run this again")
    processes = min(os.cpu_count() or 1, len(study.runs))
    with progress.shown(study, quiet=False) as report, opened(ExecutorKind.LOKY, processes) as pool:
        options = conduct.Options(keep_policies=False)
        conduct.conduct(study, root, pool, in_flight=processes, options=options, report=report)
    return root
