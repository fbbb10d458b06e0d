"""One run from its first step to its last, in a folder of its own; after an interruption its checkpoint goes on.

RUN/checkpoint-000050.pt    while the run is under way
RUN/log.jsonl               a line for each step, to look at
RUN/tensorboard             events, on request
RUN/provenance.json         the code of every process that trained it, with the steps at which each began
RUN/policy                  the trained policy, as save_pretrained writes it, unless it is not to be kept
RUN/steps.parquet           a row for each step; written last, so a run that has it is finished
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jackpot_sim.environments.language_models.memory import peak_resident
from jackpot_sim.environments.language_models.threads import torch_threads
from jackpot_sim.requirements import require
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically
from jackpot_sim.studies.provenance import provenance, source_digest
from jackpot_sim.training import records
from jackpot_sim.training.config import Taught
from jackpot_sim.training.errors import DivergedError, RewardError
from jackpot_sim.training.loop import checkpoints
from jackpot_sim.training.loop.collapse import course
from jackpot_sim.training.loop.rewards import RewardOf
from jackpot_sim.training.loop.trainer import Row, Trainer
from jackpot_sim.training.models.adapters import Merged, is_adapted
from jackpot_sim.training.models.preparation import beginning, key_of, save_model
from jackpot_sim.training.records import FIGURES
from jackpot_sim.training.study import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEPS, LOG, POLICY, EVENTS = "steps.parquet", "log.jsonl", "policy", "tensorboard"
PROVENANCE = "provenance.json"

Watch = Callable[[Row], None]
"""Called with the row of every step."""


def train(
    run: Run,
    folder: Path,
    models: Path,
    *,
    watch: Watch = lambda _: None,
    reward: RewardOf | None = None,
    keep_policy: bool = True,
    tensorboard: bool = False,
    config_hash: str = "",
) -> None:
    """Trains until the run is finished, has collapsed, or diverges; a finished run is left as it is.

    A run that diverges is finished too: its records give the reason, and its last good checkpoint stays in place of a
    policy.

    Args:
        run: the run.
        folder: the folder of its records, new or of the same run.
        models: the folder in which its first models have been prepared.
        watch: called with the row of every step.
        reward: a reward function in place of the task's own, which still judges the tests.
        keep_policy: whether to save the trained policy at the end.
        tensorboard: whether to write events for TensorBoard into the run's folder.
        config_hash: that of the study, for the run's provenance.

    Raises:
        StudyError: a model or a reward does not work, or the folder cannot be written; what is written stays.
    """
    if (folder / STEPS).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with torch_threads(1):
            texts, policy, actor = beginning(run, models)
            trainer = Trainer(run.training, texts, policy, actor, run.seed, reward)
            with _events(folder, tensorboard) as events:
                _UnderWay(run, trainer, folder, watch, events, config_hash).to_its_end(keep_policy)
    except (RewardError, ValueError) as error:
        raise StudyError(f"{run.id}: {error}") from error
    except OSError as error:
        raise unwritable(Path(error.filename or folder), error) from error


class _UnderWay:
    """A run under way: its trainer and the rows so far."""

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        folder: Path,
        watch: Watch,
        events: SummaryWriter | None,
        config_hash: str,
    ) -> None:
        self._config_hash = config_hash
        self._models = key_of(run.training, run.seed) if isinstance(run.training.policy, Taught) else ""
        self._run, self._trainer, self._folder, self._watch, self._events = run, trainer, folder, watch, events
        self._rows: list[Row] = []
        self._kept_at = time.monotonic()

    def to_its_end(self, keep_policy: bool) -> None:
        """Makes the steps, tests and checkpoints; writes the policy and the rows at the end."""
        config, trainer, reason = self._run.training, self._trainer, ""
        self._go_on()
        try:
            while trainer.step < config.steps and not self._is_over():
                self._one()
                if self._due():
                    self._keep()
            row = self._begun()
            self._test(row)
            self._tell(row)
            trainer.check_weights()
        except DivergedError as error:
            reason = str(error)
            self._begun()
        if keep_policy and not reason:
            policy = Merged(trainer.policy).current() if is_adapted(trainer.policy) else trainer.policy
            save_model(policy, trainer.texts.tokenizer, self._folder / POLICY)
        table = records.steps(self._run, self._rows, reason)
        write_atomically(self._folder / STEPS, lambda path: records.write(table, path))
        if not reason:
            checkpoints.delete(self._folder)

    def _go_on(self) -> None:
        """Goes to the last checkpoint, in the records too, or without one to the beginning."""
        if (state := checkpoints.newest(self._folder)) is not None:
            if state.get("models", self._models) != self._models:
                raise StudyError(
                    f"{self._run.id} began with first models that other code made: delete {self._folder} to begin it "
                    "anew, or go back to that code"
                )
            self._trainer.restore(state["trainer"])
            self._rows = state["rows"]
        else:
            self._keep()  # for a run that diverges at once
        (self._folder / LOG).write_text("", encoding="utf-8")
        for row in self._rows:
            self._tell(row)
        self._sign()

    def _sign(self) -> None:
        """Adds this process to those that trained the run; the ones after its step have left nothing."""
        path, before = self._folder / PROVENANCE, list[dict[str, object]]()
        with contextlib.suppress(OSError, ValueError):  # of a run that begins, or a file that was damaged
            before = [each for each in json.loads(path.read_text("utf-8")) if each["step"] < self._trainer.step]
        mine = {"step": self._trainer.step, "config_hash": self._config_hash, "source": source_digest(), **provenance()}
        text = json.dumps([*before, mine], indent=1)
        write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))

    def _one(self) -> None:
        began, row = time.perf_counter(), self._begun()
        if self._trainer.step % self._run.training.evaluation.every == 0:
            self._test(row)
        row |= self._trainer.advance()
        row |= self._trainer.seconds | {"seconds": time.perf_counter() - began, "memory": _memory(self._trainer)}
        self._watch(row)
        self._tell(row)

    def _begun(self) -> Row:
        """The row of the current step, entered at once, so that a test is recorded though the step may diverge."""
        if not self._rows or self._rows[-1]["step"] != self._trainer.step:
            self._rows.append({"step": self._trainer.step})
        return self._rows[-1]

    def _test(self, row: Row) -> None:
        row |= self._trainer.evaluate()._asdict()

    def _tell(self, row: Row) -> None:
        with (self._folder / LOG).open("a", encoding="utf-8") as log:
            figures = {name: value if math.isfinite(value) else None for name, value in row.items()}  # JSON has no NaN
            log.write(f"{json.dumps(figures)}\n")
        if self._events is not None:
            for name in FIGURES:
                if math.isfinite(row.get(name, math.nan)):
                    self._events.add_scalar(name, row[name], int(row["step"]))

    def _due(self) -> bool:
        """True where the number of steps or the clock asks for a checkpoint."""
        config = self._run.training
        by_step = config.checkpoint_every is not None and self._trainer.step % config.checkpoint_every == 0
        return by_step or time.monotonic() - self._kept_at >= 60 * config.checkpoint_minutes

    def _keep(self) -> None:
        self._kept_at = time.monotonic()
        self._trainer.check_weights()
        state: checkpoints.Checkpoint = {"trainer": self._trainer.state(), "rows": self._rows, "models": self._models}
        checkpoints.save(self._folder, self._trainer.step, state)

    def _is_over(self) -> bool:
        """True where the run has stayed collapsed for `stop_after_collapse` steps."""
        patience = self._run.training.stop_after_collapse
        tests = [row for row in self._rows if "accuracy" in row]
        if patience is None or not tests:
            return False
        since = course([int(row["step"]) for row in tests], [row["accuracy"] for row in tests]).collapsed_at
        return since is not None and self._trainer.step - since >= patience


def _memory(trainer: Trainer) -> float:
    """The peak memory of the run so far, GiB: the process's on a CPU, what torch allocated on a GPU."""
    import torch

    if trainer.policy.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(trainer.policy.device)) / 2**30
    return peak_resident()


@contextlib.contextmanager
def _events(folder: Path, wanted: bool) -> Iterator[SummaryWriter | None]:
    """The writer of events for TensorBoard, which begins anew; None where none are wanted."""
    if not wanted:
        yield None
        return
    require("tensorboard", purpose="--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder / EVENTS, ignore_errors=True)
    with SummaryWriter(str(folder / EVENTS)) as writer:
        yield writer
