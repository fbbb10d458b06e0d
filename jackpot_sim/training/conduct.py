"""Conducting a study: first its models are made, then its runs are trained, in several processes.

The records depend on the study alone, not on the number of processes, the order in which runs end, or interruptions.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from operator import and_
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jackpot_sim.environments.language_models.carried import folder_of
from jackpot_sim.environments.language_models.checkpoints import resolved_device
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import Task, landing, outliving_workers
from jackpot_sim.studies.files import LOCK, locked, unwritable, write_atomically
from jackpot_sim.studies.folders import MANIFEST as MANIFEST
from jackpot_sim.studies.folders import StudyFolder
from jackpot_sim.studies.plugins import Plugin, require_unchanged
from jackpot_sim.studies.plugins import load as load_plugins
from jackpot_sim.studies.provenance import provenance
from jackpot_sim.studies.shared import SharedFolder, shared
from jackpot_sim.training import records
from jackpot_sim.training.config import Given
from jackpot_sim.training.loop import checkpoints, evaluation
from jackpot_sim.training.loop.run import LOG, STEPS, train
from jackpot_sim.training.loop.trainer import Row
from jackpot_sim.training.models.preparation import Pair, pairs, prepare
from jackpot_sim.training.study import Run, Study, name_of_run

OUTCOMES = "outcomes.parquet"

_PATIENCE = 150.0
"""Seconds to wait for another process that trains a run: those in which a node that lost its cluster ends itself."""
_LOOK_EVERY = 0.5
"""Seconds between looks at what the processes are doing."""


@dataclass
class Progress:
    """The progress of a study: counts of runs, and what is under way."""

    total: int
    finished: int = 0
    already_there: int = 0
    preparing: list[str] = field(default_factory=list)
    """The models that are being made, by name."""
    under_way: dict[str, Row] = field(default_factory=dict)
    """The last row of every run that is being trained, by the name of the run."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that do not change the records."""

    keep_policies: bool = True
    """True saves the policies of the runs that are still to be trained, False lets them go."""
    tensorboard: bool = False
    """True writes events for TensorBoard."""
    devices_elsewhere: bool = False
    """True where workers have devices that this machine lacks: they refuse what is missing."""
    models: Path | None = None
    """The folder of the first models of runs, which studies may share; None: in the study's folder."""

    def models_of(self, root: Path) -> Path:
        """The folder of the first models of a study in `root`."""
        return root / "models" if self.models is None else self.models


def conduct(
    study: Study,
    root: Path,
    executor: Executor,
    *,
    in_flight: int = 1,
    options: Options = Options(),
    report: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], object] = str,
) -> Progress:
    """Trains every run of `study` that `root` does not hold yet, and joins the records.

    Args:
        study: the study.
        root: the study's folder, new or of the same study.
        executor: the executor that makes models and trains runs.
        in_flight: the number of runs that are handed out at a time.
        options: the files that are written beside the records.
        report: called with the progress, at least every half second.
        say: called with a sentence before a GGUF file is converted, which takes a while.

    Raises:
        StudyError: the folder holds something else or cannot be written, or a run cannot be trained as asked.
    """
    try:
        with (
            _folder(root).claimed(study.config_hash, study.corrections),
            outliving_workers("what is finished is kept, and so are checkpoints"),
        ):
            check_possible(study, options.devices_elsewhere)
            _begin(root, study)
            split(root)
            missing = [run for run in study.runs if not (root / "runs" / run.id / STEPS).exists()]
            already = len(study.runs) - len(missing)
            progress = Progress(len(study.runs), already, already)
            _converted(missing, say)
            models = options.models_of(root).absolute()  # a worker may run in another folder
            with shared(root) as here:
                _prepared(pairs(missing), here, models, executor, in_flight, progress, report)
                work = functools.partial(_train, load_plugins(study.plugins), here, models, options, study.config_hash)
                _trained(missing, work, root, executor, in_flight, progress, report)
            join(study, root)
            return progress
    except OSError as error:
        raise unwritable(Path(error.filename or root), error) from error


def check_possible(study: Study, devices_elsewhere: bool = False) -> None:
    """Refuses missing devices, and tasks without a problem to test on, before anything is taught.

    Raises:
        StudyError: see above, or the problems of a task cannot be read.
    """
    for device in {run.training.device for run in study.runs} if not devices_elsewhere else ():
        try:
            resolved_device(device)
        except ValueError as error:
            raise StudyError(str(error)) from error
    for task in {run.training.task for run in study.runs}:
        try:
            evaluation.held_out(task, 1)
        except ValueError as error:
            raise StudyError(str(error)) from error


def shortages(study: Study, devices_elsewhere: bool = False) -> tuple[str, ...]:
    """The problems that tasks have fewer of than runs ask for, in sentences: all of them are then taken.

    Raises:
        StudyError: the problems of a task cannot be read.
    """
    check_possible(study, devices_elsewhere)
    said = []
    asked = (
        (each.task, each.evaluation.problems, each.rollout.prompts) for each in (run.training for run in study.runs)
    )
    for task, tested, drawn in dict.fromkeys(asked):  # to list what a task holds out takes up to a second
        if (there := len(task.held_out(tested))) < tested:
            few = f"holds out {there} problems, fewer than evaluation.problems ({tested}): tests use them all"
            said.append(f"{task.kind} {few}")
        if task.different is not None and task.different < drawn:
            few = f"has {task.different} problems to train on, fewer than rollout.prompts ({drawn})"
            said.append(f"{task.kind} {few}: each batch repeats some")
    return tuple(dict.fromkeys(said))


def _begin(root: Path, study: Study) -> None:
    config = study.model_dump(mode="json")
    content = {
        "study": study.name,
        "config_hash": study.config_hash,
        "config": config,
        "corrections": study.corrections,
        **provenance(),
    }
    if _folder(root).has_manifest:
        begun = manifest(root)
        if begun["config"] == config:
            return
        content = begun | {"config": config}  # it asks for other seeds now
    _folder(root).write_manifest(content)


def manifest(root: Path) -> dict[str, Any]:
    """The manifest of a study's folder.

    Raises:
        StudyError: there is none, or it cannot be read.
    """
    return _folder(root).manifest()


def _folder(root: Path) -> StudyFolder:
    return StudyFolder(root, "study", lambda manifest: "config" in manifest)


def _converted(runs: Sequence[Run], say: Callable[[str], object]) -> None:
    """Makes checkpoints of the GGUF files that runs begin with, before workers would wait for each other to do it."""
    policies = [run.training.policy for run in runs]
    try:
        for source in dict.fromkeys(policy.path for policy in policies if isinstance(policy, Given)):
            folder_of(source, say)
    except ValueError as error:
        raise StudyError(str(error)) from error


def _prepared(
    wanted: Sequence[Pair],
    root: SharedFolder,
    models: Path,
    executor: Executor,
    in_flight: int,
    progress: Progress,
    report: Callable[[Progress], None],
) -> None:
    """Makes the models that runs begin with."""
    tasks = [Task(f"models {pair.key}", _prepare, (pair, root, models)) for pair in wanted]
    look = functools.partial(_look_at_models, progress, report=report)
    for name, future in landing(tasks, executor, in_flight, look, every=_LOOK_EVERY):
        _result(name, future)
    progress.preparing = []


def _prepare(pair: Pair, root: SharedFolder, models: Path) -> None:
    root.require()
    prepare(pair, models)


def _look_at_models(progress: Progress, names: Sequence[str], *, report: Callable[[Progress], None]) -> None:
    progress.preparing = list(names)
    report(progress)


def _trained(
    runs: Sequence[Run],
    work: Callable[[Run], None],
    root: Path,
    executor: Executor,
    in_flight: int,
    progress: Progress,
    report: Callable[[Progress], None],
) -> None:
    """Trains the runs."""

    def look(names: Sequence[str]) -> None:
        progress.under_way = {name: last_row(root / "runs" / name / LOG) for name in names}
        report(progress)

    tasks = [Task(run.id, work, (run,)) for run in runs]
    for name, future in landing(tasks, executor, in_flight, look, every=_LOOK_EVERY):
        _result(name, future)
        progress.finished += 1
        report(progress)


def _train(
    plugins: Sequence[Plugin], root: SharedFolder, models: Path, options: Options, config_hash: str, run: Run
) -> None:
    require_unchanged(plugins)
    root.require()
    folder = root.root / "runs" / run.id
    # A node that was taken for dead may still train the run that another one is given.
    with locked(folder, _PATIENCE):
        train(
            run,
            folder,
            models,
            keep_policy=options.keep_policies,
            tensorboard=options.tensorboard,
            config_hash=config_hash,
        )
        (folder / LOCK).unlink()  # who waits for it finds a finished run


def _result(name: str, future: Future[None]) -> None:
    try:
        future.result()
    except StudyError as error:
        raise StudyError(f"{error} (what was finished is kept)") from error
    except ValueError as error:
        raise StudyError(f"{name}: {error} (what was finished is kept)") from error
    except BrokenExecutor:
        raise
    except (MemoryError, RuntimeError) as error:  # torch's is a RuntimeError
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise StudyError(f"{name} did not fit into memory: give a smaller update.batch_size or rollout") from error


def last_row(log: Path) -> Row:
    """The newest line of a run's log; empty if there is none yet."""
    with contextlib.suppress(OSError, ValueError):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="ignore").rstrip("\n").split("\n")
        row = json.loads(lines[-1])
        if isinstance(row, dict):
            return row
    return {}


def join(study: Study, root: Path) -> None:
    """Joins the rows of all runs into steps.parquet, and their outcomes into outcomes.parquet."""
    tables, outcomes = [], []
    for run in study.runs:
        table, reason = records.read(root / "runs" / run.id / STEPS)
        tables.append(table.replace_schema_metadata(None))
        outcomes.append(records.outcome(table, reason, run.training.steps))
        if not reason:
            checkpoints.delete(root / "runs" / run.id)  # a kill may have come just before this was done
    together = pa.concat_tables(tables, promote_options="default")  # one may be older, and lack a column
    write_atomically(root / STEPS, lambda path: records.write(together, path))
    joined = pa.Table.from_pylist(outcomes, schema=records.OUTCOMES)
    write_atomically(root / OUTCOMES, lambda path: records.write(joined, path))


def split(root: Path) -> None:
    """Gives every run in the joined records its own table again, where no folder of runs was kept.

    So records that ship without that folder can be extended by more seeds.

    Raises:
        StudyError: the records cannot be read.
    """
    joined, runs, unfinished = root / OUTCOMES, root / "runs", root / ".runs.tmp"
    if runs.exists() or not joined.exists():
        return
    try:
        rows, outcomes = pq.read_table(root / STEPS), pq.read_table(joined).to_pylist()
    except (ValueError, OSError) as error:
        raise StudyError(f"{root} holds records that cannot be read, and no runs: choose another --out") from error
    shutil.rmtree(unfinished, ignore_errors=True)
    for outcome in outcomes:
        keys = {name: outcome[name] for name in ("setting", "method", "seed")}
        mine = rows.filter(functools.reduce(and_, (pc.field(name) == value for name, value in keys.items())))
        folder = unfinished / name_of_run(**keys)
        folder.mkdir(parents=True)
        records.write(records.with_reason(mine, outcome["ended"]), folder / STEPS)
    unfinished.rename(runs)


def load(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The steps and the outcomes of a finished study.

    Raises:
        StudyError: the folder holds no finished study.
    """
    manifest(root)
    try:
        return pd.read_parquet(root / STEPS), pd.read_parquet(root / OUTCOMES)
    except OSError as error:
        raise StudyError(f"{root} holds no finished study: run it to its end first") from error
