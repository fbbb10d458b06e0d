"""One run from its first step to its last, in a folder of its own; what was cut short goes on from its checkpoint.

RUN/checkpoint-000050.pt    while it is under way
RUN/log.jsonl               a line a step, to look at
RUN/policy                  the trained policy, as save_pretrained leaves it, where it is asked for
RUN/steps.parquet           a row a step; written last: where it is, the run is finished
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jackpot_sim.environments.language_models.checkpoints import quiet
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.training import checkpoints, records
from jackpot_sim.training.collapse import course
from jackpot_sim.training.evaluation import Scores
from jackpot_sim.training.faults import DivergedError, RewardError
from jackpot_sim.training.preparation import beginning
from jackpot_sim.training.study import Run
from jackpot_sim.training.trainer import RewardOf, Row, Trainer

STEPS, LOG, POLICY = "steps.parquet", "log.jsonl", "policy"

Watch = Callable[[Row], None]
"""Called with the row of every step."""


def train(
    run: Run,
    folder: Path,
    models: Path,
    *,
    watch: Watch = lambda _: None,
    reward: RewardOf | None = None,
    keep_policy: bool = False,
    tensorboard: bool = False,
) -> None:
    """Trains until the run is finished, has collapsed, or cannot go on.

    A run that diverges is finished too: its rows say so, and its last good checkpoint stays.

    Args:
        run: what to train.
        folder: where its records go, new or of the same run.
        models: where the models that it begins with have been prepared.
        watch: told of every step.
        reward: in the place of the task's own.
        keep_policy: whether the trained policy is saved.
        tensorboard: whether to write events for TensorBoard, into the run's folder.

    Raises:
        StudyError: a model or a reward does not work, or the folder cannot be written; what there is stays.
    """
    if (folder / STEPS).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with torch_threads(1):
            texts, policy, actor = beginning(run, models)
            trainer = Trainer(run.training, texts, policy, actor, run.seed, reward)
            _Course(run, trainer, folder, watch, tensorboard).to_its_end()
            if keep_policy:
                _save(trainer, folder / POLICY)
    except RewardError as error:
        raise StudyError(f"{run.id}: {error}") from error
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error


class _Course:
    """A run under way: its trainer and the rows so far."""

    def __init__(self, run: Run, trainer: Trainer, folder: Path, watch: Watch, tensorboard: bool) -> None:
        self._run, self._trainer, self._folder, self._watch = run, trainer, folder, watch
        self._rows: list[Row] = []
        self._writer = _tensorboard(folder) if tensorboard else None

    def to_its_end(self) -> None:
        """Steps, tests and checkpoints; the rows at the end."""
        config = self._run.training
        if (state := checkpoints.newest(self._folder)) is not None:
            self._trainer.restore(state["trainer"])
            self._rows = state["rows"]
        (self._folder / LOG).write_text("".join(f"{json.dumps(row)}\n" for row in self._rows), encoding="utf-8")
        reason = ""
        while self._trainer.step < config.steps and not self._is_over():
            try:
                self._one()
            except DivergedError as error:
                reason = str(error)
                break
            if self._trainer.step % config.checkpoint_every == 0:
                self._keep()
        if not reason:
            self._rows.append({"step": self._trainer.step} | _tested(self._trainer.evaluate()))
        table = records.steps(self._run, self._rows, reason)
        write_atomically(self._folder / STEPS, lambda path: records.write(table, path))
        if not reason:
            checkpoints.delete(self._folder)

    def _one(self) -> None:
        trainer, began = self._trainer, time.perf_counter()
        step = trainer.step
        if step == 0:
            self._keep()  # what a run that diverges at once falls back on
        row: Row = {"step": step}
        row |= _tested(trainer.evaluate()) if step % self._run.training.evaluation.every == 0 else {}
        row |= trainer.advance()
        row["seconds"] = time.perf_counter() - began
        self._rows.append(row)
        self._watch(row)
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{json.dumps(row)}\n")
        if self._writer is not None:
            for name, value in row.items():
                if math.isfinite(value):
                    self._writer.add_scalar(name, value, step)

    def _keep(self) -> None:
        checkpoints.save(self._folder, self._trainer.step, {"trainer": self._trainer.state(), "rows": self._rows})

    def _is_over(self) -> bool:
        """Whether it has stayed collapsed for so long that going on would teach nothing."""
        patience = self._run.training.stop_after_collapse
        tests = [row for row in self._rows if "accuracy" in row]
        if patience is None or not tests:
            return False
        found = course([int(row["step"]) for row in tests], [row["accuracy"] for row in tests]).collapsed_at
        return found is not None and self._trainer.step - found >= patience


def _tested(scores: Scores) -> Row:
    return scores._asdict()


def _save(trainer: Trainer, folder: Path) -> None:
    unfinished = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    with quiet():
        trainer.policy.save_pretrained(unfinished)
        trainer.texts.tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise StudyError("--tensorboard needs the library tensorboard: pip install tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))
