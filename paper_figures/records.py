"""The records of a figure: those that ship with it, those in a given folder, or those of its own study, run anew."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.sweep import display, plan, records, spec
from jackpot_sim.sweep.run import Progress, run
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.worlds import Environment

from . import shipped
from .analysed import Options, tables

_SAY_EVERY = 15.0
"""The least number of seconds between two lines about the progress."""


@dataclass(frozen=True)
class Loaded:
    """The rows of a run that a figure shows."""

    root: Path
    records: pd.DataFrame
    states: pd.DataFrame

    def figures(self, *estimators: str) -> pd.DataFrame:
        """The figures of these estimators (of all, if none is named) with their intervals, sorted by KL before."""
        chosen = self.records[self.records["estimator"].isin(estimators)] if estimators else self.records
        figures = tables.figures(chosen, self.states, Options())
        return figures.sort_values(["env_kind", "target_kl"], kind="stable", ignore_index=True)


def study(name: str) -> Study:
    """The study that ships with the figure: its own, or that of another figure."""
    return spec.parse(read_mapping(shipped.bundled("configs", f"{config_of(name)}.yaml")))


def config_of(name: str) -> str:
    """The name of the configuration whose study the figure shows: `same_as` in the figure's own, if it is given."""
    return str(read_mapping(shipped.bundled("configs", f"{name}.yaml")).get("same_as", name))


def published(name: str) -> pd.DataFrame:
    """The paper's numbers, from `published/NAME.csv`."""
    return pd.read_csv(shipped.bundled("published", f"{name}.csv"), comment="#")


def load(name: str, given: Path | None, rerun: bool = False, say: Callable[[str], None] | None = None) -> Loaded:
    """The records of figure `name`: those that ship, those in `given`, or those of its study, run to its end first.

    Where two figures share a study, they share its records. A given folder may hold more than the figure needs, and
    other numbers of states and seeds.

    Raises:
        StudyError: the folder holds no run, an unfinished run, or one that lacks a row of the figure.
    """
    root = finished(name, given, rerun, say)
    return _fitting(name, study(name), Loaded(root, records.load(root), records.load(root, "states")))


def finished(name: str, given: Path | None, rerun: bool = False, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a finished run, see `load`, of which the rows are not checked.

    Raises:
        StudyError: the folder holds no run, or an unfinished run; what ships is of another configuration.
    """
    if rerun:
        exclusive(given)
        root = shipped.own(config_of(name))
        _run(name, study(name), root, say or _to_stderr)
    elif given is None:
        root = _shipped(name)
    else:
        root = given
    measured, planned = records.load(root)["cell"].nunique(), records.read_manifest(root).get("cells", [])
    if measured < len(planned):
        raise StudyError(f"{root} holds {measured} of {len(planned)} cells: finish the run first")
    return root


def exclusive(given: object) -> None:
    """Refuses records that are given beside --rerun."""
    if given is not None:
        raise StudyError("give --records or --rerun, not both")


def _shipped(name: str) -> Path:
    """The folder of the records that ship, if they are those of the figure's study."""
    root = shipped.measured(config_of(name))
    if not (root / MANIFEST).exists():
        raise StudyError(f"no records of {name} ship with this version: --rerun makes them, or --records names a run")
    # By what this version makes of both: the digest in the manifest is that of the version which wrote it.
    if spec.parse(records.read_manifest(root)["config"]).config_hash != study(name).config_hash:
        raise StudyError(
            f"the records of {name} that ship are not of configs/{config_of(name)}.yaml as it is: --rerun makes those"
        )
    return root


def table(root: Path, name: str) -> pd.DataFrame:
    """A table of a run, empty where the study has none of this name."""
    return records.load(root, name)


def _run(name: str, wanted: Study, root: Path, say: Callable[[str], None]) -> None:
    """Runs the cells of the study that `root` lacks, in this process."""
    if (root / MANIFEST).exists():
        config_hash = records.read_manifest(root).get("config_hash")
        if config_hash != wanted.config_hash:
            raise StudyError(
                f"{root} holds a run of another study (config {config_hash}, {name} is {wanted.config_hash}): "
                "move it away, or leave --rerun out"
            )
    cells = plan.cells(wanted)
    missing = [cell for cell in cells if not (root / "records" / f"{cell.id}.parquet").exists()]
    if missing:
        say(f"{name}: measuring {len(missing)} of {len(cells)} cells into {root}")
    started = time.perf_counter()
    with display.shown(wanted, root, quiet=False) as bar:
        run(wanted, root, SerialExecutor(), report=_told(name, bar, say))
    if missing:
        say(f"{name}: done in {time.perf_counter() - started:.0f} s")


def _told(
    name: str, bar: Callable[[Progress], None], say: Callable[[str], None], every: float = _SAY_EVERY
) -> Callable[[Progress], None]:
    """A function that tells of finished cells: by the bar, which a terminal alone shows, and in lines elsewhere."""
    begun = told = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal told
        bar(progress)
        now = time.monotonic()
        if not sys.stderr.isatty() and progress.already_there < progress.finished and now - told >= every:
            told = now
            say(f"{name}: {progress.finished} of {progress.total} cells after {now - begun:.0f} s")

    return report


def _fitting(name: str, wanted: Study, loaded: Loaded) -> Loaded:
    """The rows that the figure shows; an error if one of its environments or estimators is missing."""
    rows = loaded.records
    asked = {_without_states(json.loads(cell.environment)): cell.env for cell in plan.cells(wanted)}
    has = {environment: _without_states(json.loads(environment)) for environment in rows["environment"].unique()}
    labels = [each.label for each in wanted.estimators]
    denominator = wanted.denominators_of(wanted.estimators[0])[0]
    exact = rows[(rows["method"] == "exact") & (rows["denominator"] == str(denominator))]
    exact = exact[exact["estimator"].isin(labels)]
    exact = exact.assign(asked=exact["environment"].map(has))
    spelt = exact.groupby("asked")["environment"].nunique()
    if twice := [_several(asked[each]) for each in asked if spelt.get(each, 0) > 1]:
        raise StudyError(f"{loaded.root} holds {twice[0]}: {name} can show only one")
    measured = set(zip(exact["asked"], exact["estimator"], strict=True))
    for environment, env in asked.items():
        for label in labels:
            if (environment, label) not in measured:
                raise StudyError(
                    f"{loaded.root} lacks {label} on {_described(env)}, as exact figures: {name} shows what "
                    f"paper_figures/configs/{config_of(name)}.yaml asks for, and --rerun runs that"
                )
    shown = exact[exact["asked"].isin(list(asked))].drop(columns="asked").reset_index(drop=True)
    return Loaded(loaded.root, shown, loaded.states[loaded.states["cell"].isin(shown["cell"])].reset_index(drop=True))


def _without_states(environment: Mapping[str, Any]) -> str:
    """The environment without its number of states, or of prompts for sequences."""
    stripped = copy.deepcopy(dict(environment))
    stripped.get("base", {}).pop("states", None)
    if stripped["kind"] == "small-lm":
        stripped.pop("prompts", None)
    return json.dumps(stripped, sort_keys=True)


def _several(env: Environment) -> str:
    return f"{env.kind} with several numbers of {'prompts' if env.kind == 'small-lm' else 'states'}"


def _described(env: Environment) -> str:
    if env.kind != "small-lm":
        return f"{env.kind} at target_kl {env.target_kl}"
    knob = f"target_kl {env.target_kl}" if env.source.knob is None else f"{env.knob_name} {env.source.knob}"
    return f"{env.kind} ({env.family} at {knob}, length {env.length})"


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
