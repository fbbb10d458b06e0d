"""The time and memory of a whole diagnosis, from files to the effects of all corrections.

With one worker all is done in one thread, whose own time counts, without that of other programs; with two workers the
clock on the wall.
"""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from typing_extensions import override

from jackpot_sim.bench.errors import CannotMeasureError
from jackpot_sim.bench.timing import Finding
from jackpot_sim.core.arrays import Floats, Ints
from jackpot_sim.diagnose import one_pass
from jackpot_sim.diagnose.batch import Batch
from jackpot_sim.diagnose.what_if.candidates import candidates
from jackpot_sim.diagnose.what_if.effects import Effects
from jackpot_sim.readers.open_dump import open_dump
from jackpot_sim.readers.screening import Screening
from jackpot_sim.readers.table import TokenTable
from jackpot_sim.studies.workers import Workers

TOKENS = 10_000_000
"""The tokens of the dump."""
SECONDS, GIB, LINEAR, JSONL = 60.0, 1.0, 1.2, 2.0
"""The most seconds with two workers and GiB of all processes, the most by which a token may cost more in the whole dump
than in a tenth of it, and the fewest million tokens of JSONL a minute."""
_SHARES = (0.1, 0.4, 1.0)
"""The sizes whose times are compared."""
_A_FILE = 500_000
"""The tokens of a file, about as many as a training step has."""
_LENGTH, _LONGEST = 400, 8192
"""The median length of a sequence, and the largest."""
_EVERY = 0.2
"""The seconds between two looks at the memory."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Step:
    """The rollouts of a step: q is likely at most tokens, and p differs the more, the less likely the token is."""

    lengths: Ints
    actor: Floats
    policy: Floats
    advantages: Floats

    @classmethod
    def made(cls, step: int, tokens: int) -> Step:
        """A step of about as many tokens."""
        generator = np.random.default_rng(np.random.SeedSequence([15, step]))
        drawn = np.exp(generator.normal(np.log(_LENGTH), 0.8, size=2 * tokens // _LENGTH + 2))
        lengths = np.clip(drawn, 1, _LONGEST).astype(np.int64)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
        total = int(lengths.sum())
        actor = -(10.0 ** generator.normal(-1.5, 1.2, size=total).clip(-9, 1.1))
        policy = np.minimum(actor * (1 + generator.normal(0, 0.1, size=total)), -1e-12)
        return cls(lengths, actor, policy, generator.normal(size=len(lengths)))

    def rows(self, step: int) -> dict[str, Any]:
        """The columns of the plain schema, a row a sequence."""
        ends = np.cumsum(self.lengths)[:-1]
        return {
            "sequence": [f"{step}-{number}" for number in range(len(self.lengths))],
            "step": [step] * len(self.lengths),
            "advantage": self.advantages.tolist(),
            "actor_log_probs": np.split(self.actor, ends),
            "policy_log_probs": np.split(self.policy, ends),
        }


def diagnosing(tokens: int = TOKENS) -> Iterator[Finding]:
    """The seconds and the memory of the pass over a dump, whose files are made for it.

    Raises:
        CannotMeasureError: there are too few tokens to time.
    """
    if tokens < 1000:
        raise CannotMeasureError(f"tokens must be at least 1000, got {tokens}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield from _sizes(root, tokens)
        yield from _text(root, max(tokens // 20, 1000))
        yield from _beside_verl(tokens)


def _sizes(root: Path, tokens: int) -> Iterator[Finding]:
    """The time of dumps of three sizes with one worker, and of the largest with two."""
    passes = {}
    for share in _SHARES:
        size = int(share * tokens)
        files = _parquet(root / f"{size}", size)
        passes[size] = measured(functools.partial(passed, files, 1))
        one = passes[size]
        note = f"{1e6 * one.seconds / one.tokens:.1f} µs a token"
        yield Finding.over_rounds(f"diagnose, {_told(size)} of Parquet, 1 worker", [one.seconds], "s", note=note)
        if share == 1:
            two = measured(functools.partial(passed, files, 2))
            most = SECONDS if tokens >= TOKENS else None
            what = f"diagnose, {_told(size)} of Parquet, 2 workers"
            yield Finding.over_rounds(what, [two.seconds], "s", at_most=most, note="beside the reader")
            for workers, each in ((1, one), (2, two)):
                yield Finding(f"peak memory, {workers} worker{'s' * (workers > 1)}", each.gib, "GiB", at_most=GIB)
            yield from (
                Finding(f"share of the time: {name}", 100 * part / sum(one.parts.values()), "%", note="1 worker")
                for name, part in one.parts.items()
            )
    (small, first), *_, (large, last) = passes.items()
    growth = (last.seconds / large) / (first.seconds / small)
    most = LINEAR if tokens >= TOKENS else None
    yield Finding.over_rounds(f"a token of {_told(large)} over one of {_told(small)}", [growth], at_most=most)
    yield Finding(f"peak memory of {_told(large)} over {_told(small)}", last.gib / first.gib, "x")


def _text(root: Path, tokens: int) -> Iterator[Finding]:
    files = _jsonl(root / "text", tokens)
    found = measured(functools.partial(passed, files, 1))
    rate = 60 * found.tokens / found.seconds / 1e6
    what = f"diagnose, million tokens of JSONL a minute ({_told(tokens)})"
    yield Finding.over_rounds(what, [rate], "", at_least=JSONL if tokens >= TOKENS // 20 else None)


def _beside_verl(tokens: int) -> Iterator[Finding]:
    """The time of verl's metrics, without reading, sequences or corrections, on the same tokens padded."""
    what = f"verl's metrics alone on {_told(tokens)} in memory"
    try:
        import torch

        verl = importlib.import_module("verl.trainer.ppo.rollout_corr_helper")
    except ImportError as error:
        missing = (error.name or "verl").partition(".")[0]
        yield Finding(what, float("nan"), "s", note=f"not measured: {missing} is not installed here")
        return
    seconds = []
    for step in range(max(round(tokens / _A_FILE), 1)):
        made = Step.made(step, min(tokens, _A_FILE))
        mask = np.arange(made.lengths.max()) < made.lengths[:, None]
        sides = []
        for column in (made.policy, made.actor):
            padded = np.zeros(mask.shape, dtype=np.float32)
            padded[mask] = column
            sides.append(torch.from_numpy(padded))
        started = time.process_time()
        verl.compute_offpolicy_metrics(*sides, torch.from_numpy(mask))
        seconds.append(time.process_time() - started)
    yield Finding(what, sum(seconds), "s", note=f"{statistics.mean(seconds):.2g} s a step of {_told(_A_FILE)}")


def _told(tokens: int) -> str:
    return f"{tokens / 1e6:g} M tokens"


def _steps(tokens: int) -> Iterator[tuple[int, Step]]:
    count = max(round(tokens / _A_FILE), 1)
    return ((step, Step.made(step, tokens // count)) for step in range(count))


def _parquet(folder: Path, tokens: int) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    files = []
    for step, made in _steps(tokens):
        files.append(folder / f"{step:06d}.parquet")
        pq.write_table(pa.table(made.rows(step)), files[-1])
    return files


def _jsonl(folder: Path, tokens: int) -> list[Path]:
    folder.mkdir()
    files = []
    for step, made in _steps(tokens):
        files.append(folder / f"{step:06d}.jsonl")
        columns = made.rows(step)
        with files[-1].open("w") as stream:
            for row in zip(*columns.values(), strict=True):
                values = (each.tolist() if isinstance(each, np.ndarray) else each for each in row)
                stream.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")
    return files


@dataclass
class Pass:
    """The cost of a pass.

    Attributes:
        tokens: the tokens that were used.
        seconds: of this process where it did all, else on the clock on the wall.
        parts: the seconds of each part, by name, where one process did all.
        gib: the most memory that its processes held together.
    """

    tokens: int
    seconds: float
    parts: dict[str, float] = field(default_factory=dict)
    gib: float = 0.0


def passed(files: list[Path], workers: int) -> Pass:
    """The pass over some files, timed in parts."""
    clock, now = _Clock(), time.process_time if workers == 1 else time.perf_counter
    what_if = functools.partial(Effects, candidates())
    started = now()
    tables = clock.each("reading", open_dump(files).tables())
    effects = functools.partial(_TimedEffects, clock, what_if) if workers == 1 else what_if
    found = one_pass.run(tables, _TimedScreening(clock), effects, workers=Workers(workers=workers))
    seconds = now() - started
    parts = clock.seconds
    if workers == 1:
        parts["measuring"] = seconds - sum(parts.values())
    return Pass(found.tokens, seconds, parts if workers == 1 else {})


class _Clock:
    """The seconds of this process that each part took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, run: Callable[[], T]) -> T:
        """The result of `run`; its time goes to the part."""
        started = time.process_time()
        try:
            return run()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time that each takes to come goes to the part."""
        iterator, end = iter(items), object()
        while (item := self.timed(name, lambda: next(iterator, end))) is not end:
            yield item  # type: ignore[misc]


class _TimedScreening(Screening):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    @override
    def screen(self, table: TokenTable) -> TokenTable | None:
        return self._clock.timed("screening", lambda: super(_TimedScreening, self).screen(table))


class _TimedEffects(Effects):
    def __init__(self, clock: _Clock, what_if: Callable[[], Effects]) -> None:
        vars(self).update(clock.timed("what-if", lambda: vars(what_if())))
        self._clock = clock

    @override
    def add(self, batch: Batch) -> None:
        self._clock.timed("what-if", lambda: super(_TimedEffects, self).add(batch))

    @override
    def merge(self, later: Effects) -> None:
        self._clock.timed("what-if", lambda: super(_TimedEffects, self).merge(later))


def measured(run: Callable[[], Pass]) -> Pass:
    """The pass in a process of its own, with the most memory that it and its workers held together."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        executor.submit(int).result()
        (process,) = executor._processes.values()
        future, largest = executor.submit(run), 0
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(_EVERY):
            largest = max(largest, _held(psutil.Process(process.pid)))
        found = future.result()
    found.gib = largest / 2**30
    return found


def _held(process: psutil.Process) -> int:
    """The bytes that a process and those below it hold; what they share counts once where the system can tell."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            memory = each.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.NoSuchProcess:
            continue
    return total
