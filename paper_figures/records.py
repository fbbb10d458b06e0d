"""Where a figure's records come from: a folder that is given, or the figure's own study, run if need be."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import tables
from analysis.bootstrap import Options
from jackpot_sim.studies.configuration import read_mapping
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import SerialExecutor
from jackpot_sim.sweep import plan, records, spec
from jackpot_sim.sweep.run import run
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.worlds import Environment


@dataclass(frozen=True)
class Loaded:
    """The rows of a run that a figure asks for."""

    root: Path
    records: pd.DataFrame
    states: pd.DataFrame

    def figures(self, *estimators: str) -> pd.DataFrame:
        """Every figure of these estimators (of all, if none is named) with its interval, by KL before."""
        chosen = self.records[self.records["estimator"].isin(estimators)] if estimators else self.records
        found = tables.figures(chosen, self.states, Options())
        return found.sort_values(["env_kind", "target_kl"], kind="stable", ignore_index=True)


def study(name: str) -> Study:
    """The study that ships with the figure: its own, or that of another figure."""
    return spec.parse(read_mapping(_bundled("configs", f"{config_of(name)}.yaml")))


def config_of(name: str) -> str:
    """The name of the configuration whose study the figure shows: `same_as` in its own, where that stands."""
    return str(read_mapping(_bundled("configs", f"{name}.yaml")).get("same_as", name))


def published(name: str) -> pd.DataFrame:
    """What the paper shows, from `published/NAME.csv`."""
    return pd.read_csv(_bundled("published", f"{name}.csv"), comment="#")


def load(name: str, given: Path | None, say: Callable[[str], None] | None = None) -> Loaded:
    """The records of figure `name`: from `given`, or from runs/figures/NAME, which is run to its end first.

    NAME is the other figure's where two of them share a study. A folder that is given may hold more than the
    figure needs, and other numbers of states and seeds.

    Raises:
        StudyError: the folder holds no run, an unfinished one, or one that lacks what the figure shows.
    """
    root = finished(name, given, say)
    return _fitting(name, study(name), Loaded(root, records.load(root), records.load(root, "states")))


def finished(name: str, given: Path | None, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a finished run, see `load`, whatever it holds.

    Raises:
        StudyError: the folder holds no run, or an unfinished one.
    """
    root = given or Path("runs") / "figures" / config_of(name)
    if given is None:
        _run(name, study(name), root, say or _to_stderr)
    there, planned = records.load(root)["cell"].nunique(), records.read_manifest(root).get("cells", [])
    if there < len(planned):
        raise StudyError(f"{root} holds {there} of {len(planned)} cells: finish the run first")
    return root


def table(root: Path, name: str) -> pd.DataFrame:
    """A table of a run that not every study has; empty where it does not."""
    return records.load(root, name)


def _run(name: str, wanted: Study, root: Path, say: Callable[[str], None]) -> None:
    """Runs what `root` lacks of the study, in this process."""
    if (root / "manifest.json").exists():
        found = records.read_manifest(root).get("config_hash")
        if found != wanted.config_hash:
            raise StudyError(
                f"{root} holds a run of another study (config {found}, {name} is {wanted.config_hash}): "
                "delete it, or name the folder of a run with --records"
            )
    cells = plan.cells(wanted)
    missing = [cell for cell in cells if not (root / "records" / f"{cell.id}.parquet").exists()]
    if missing:
        say(f"{name}: measuring {len(missing)} of {len(cells)} cells into {root}")
    started = time.perf_counter()
    run(wanted, root, SerialExecutor())
    if missing:
        say(f"{name}: done in {time.perf_counter() - started:.0f} s")


def _fitting(name: str, wanted: Study, found: Loaded) -> Loaded:
    """The rows that the figure shows; an error if one of its environments or estimators is not there."""
    rows = found.records
    asked = {_without_states(json.loads(cell.environment)): cell.env for cell in plan.cells(wanted)}
    has = {environment: _without_states(json.loads(environment)) for environment in rows["environment"].unique()}
    labels = [each.label for each in wanted.estimators]
    exact = rows[(rows["method"] == "exact") & (rows["denominator"] == str(wanted.denominators[0]))]
    exact = exact[exact["estimator"].isin(labels)]
    exact = exact.assign(asked=exact["environment"].map(has))
    spelt = exact.groupby("asked")["environment"].nunique()
    if twice := [_several(asked[each]) for each in asked if spelt.get(each, 0) > 1]:
        raise StudyError(f"{found.root} holds {twice[0]}: {name} can show only one")
    there = set(zip(exact["asked"], exact["estimator"], strict=True))
    for environment, env in asked.items():
        for label in labels:
            if (environment, label) not in there:
                raise StudyError(
                    f"{found.root} lacks {label} on {_described(env)}, as exact figures: {name} shows what "
                    f"paper_figures/configs/{config_of(name)}.yaml asks for, and without --records it runs that"
                )
    kept = exact[exact["asked"].isin(list(asked))].drop(columns="asked").reset_index(drop=True)
    return Loaded(found.root, kept, found.states[found.states["cell"].isin(kept["cell"])].reset_index(drop=True))


def _without_states(environment: dict[str, Any]) -> str:
    """The environment but for its number of states, which for sequences are prompts."""
    stripped = copy.deepcopy(environment)
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


def _bundled(*parts: str) -> Path:
    return Path(str(resources.files("paper_figures").joinpath(*parts)))


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")
