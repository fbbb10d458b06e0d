"""The workers of a study as a command's options ask for them, and the pool that they make."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeAlias

from cyclopts import Parameter

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.executors import ExecutorKind, opened, processes


class Pool(NamedTuple):
    """An executor and the tasks that it runs at once."""

    executor: Executor
    width: int


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The options about workers, which change no record.

    Attributes:
        executor: serial, loky or ray. Serial is this process alone; loky, processes of this machine; ray, those of a
            Ray cluster, see docs/clusters.md. By default loky, and serial for a sweep of real models, each of which
            fills the memory by itself.
        workers: Worker processes. By default as many as the processors of this machine, or of the cluster, have room
            for.
        ray_address: HOST:PORT of a running Ray cluster. Or auto for the one of this machine; by default the one that
            RAY_ADDRESS names, or else a local one that ends with the command.
        worker_threads: CPUs of a worker, and its most threads. Cells and runs say themselves how many they use, so
            that figures do not depend on it.
        worker_gpus: With ray: GPUs of a worker, or part of one. Without, a worker sees none.
    """

    executor: ExecutorKind | None = None
    workers: int | None = None
    ray_address: str | None = None
    worker_threads: int = 1
    worker_gpus: float = 0.0

    def __bool__(self) -> bool:
        """True where some option was given."""
        return self != DEFAULT

    def check(self) -> None:
        """Refuses what contradicts itself.

        Raises:
            StudyError: see above.
        """
        processes(self.executor, self.workers, 1)
        if self.worker_threads < 1:
            raise StudyError(f"--worker-threads must be at least 1, got {self.worker_threads}")
        if self.executor is ExecutorKind.SERIAL and self.worker_threads > 1:
            raise StudyError("--worker-threads cannot go with --executor serial, which has no workers")
        here, elsewhere = os.cpu_count() or 1, self.ray_address or os.environ.get("RAY_ADDRESS")
        if self.worker_threads > here and not (self.executor is ExecutorKind.RAY and elsewhere):
            # A local Ray would believe in as many processors as it is told of.
            raise StudyError(
                f"--worker-threads {self.worker_threads} leaves no room for a worker: this machine has {here} "
                f"processor{'s' * (here > 1)}, and no address of a Ray cluster is given"
            )
        gpus = self.worker_gpus
        if not 0 <= gpus <= 1 and not (gpus > 1 and gpus.is_integer()):
            raise StudyError(f"--worker-gpus must be a whole number, or a part of one GPU, got {gpus:g}")
        if self.executor is not ExecutorKind.RAY:
            if self.ray_address is not None:
                raise StudyError(f"--ray-address {self.ray_address} goes with --executor ray")
            if gpus:
                raise StudyError(f"--worker-gpus {gpus:g} goes with --executor ray")

    def otherwise(self, executor: ExecutorKind) -> Workers:
        """The same with this executor where none is named."""
        return self if self.executor else dataclasses.replace(self, executor=executor)

    @property
    def is_alone(self) -> bool:
        """True where one process of this machine is all there is, which this one may then be."""
        return self.executor is not ExecutorKind.RAY and self._count(None) == 1

    def _count(self, tasks: int | None) -> int:
        """The number of processes of this machine."""
        most = (os.cpu_count() or 1) if tasks is None else tasks
        return processes(self.executor, self.workers, most, self.worker_threads)

    @contextlib.contextmanager
    def opened(self, tasks: int | None = None) -> Iterator[Pool]:
        """The pool for some tasks, None for any number, whose processes end with the block.

        Raises:
            StudyError: a cluster does not answer, or has no room.
        """
        self.check()
        if self.executor is ExecutorKind.RAY:
            from jackpot_sim.studies import ray_executor

            with ray_executor.opened(
                self.workers,
                self._count(tasks),
                threads=self.worker_threads,
                gpus=self.worker_gpus,
                address=self.ray_address,
            ) as executor:
                yield Pool(executor, min(executor.workers, tasks or executor.workers))
            return
        count = self._count(tasks)
        with opened(self.executor or ExecutorKind.LOKY, count, self.worker_threads) as pool:
            yield Pool(pool, count)


Option: TypeAlias = Annotated[Workers, Parameter(name="*")]
"""The argument of a command that takes these options."""
DEFAULT, ALONE = Workers(), Workers(executor=ExecutorKind.SERIAL)
