"""The display of a study's progress: the runs under way with their figures, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jackpot_sim.studies.counting import duration
from jackpot_sim.training.conduct import Progress
from jackpot_sim.training.loop.trainer import Row
from jackpot_sim.training.study import Study


@contextlib.contextmanager
def shown(study: Study, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A function that shows the progress of a study: live on a terminal, a line for each finished run elsewhere."""
    if quiet:
        yield lambda _: None
        return
    errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not errors.is_terminal:
        yield _Lines(errors, study)
        return
    left = Left({run.id: run.training.steps for run in study.runs})
    with Live(console=errors, transient=True, refresh_per_second=4) as live:
        yield lambda progress: live.update(_display(progress, left))


class Left:
    """The time that the runs of a study have left, by the pace of their steps.

    Args:
        steps: the steps of every run, by its name.
        clock: gives the time in seconds.
    """

    def __init__(self, steps: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self._clock = steps, clock
        self._seen: dict[str, tuple[float, int]] = {}
        """The time and the step at which each run was first seen with a step done."""
        self._paces: dict[str, float] = {}
        """The seconds of a step of each run."""

    def seconds(self, progress: Progress) -> float | None:
        """The seconds that are left; None before the pace of some run is known."""
        now, width = self._clock(), len(progress.under_way)
        reached = {name: int(row.get("step", 0)) for name, row in progress.under_way.items()}
        for name, step in reached.items():
            if step > 0:
                begun, first = self._seen.setdefault(name, (now, step))
                if step > first:
                    self._paces[name] = (now - begun) / (step - first)
        if not self._paces or not width:
            return None
        usual = sum(self._paces.values()) / len(self._paces)
        busy = [(self.steps[name] - step) * self._paces.get(name, usual) for name, step in reached.items()]
        waiting = progress.total - progress.finished - width
        mean = usual * sum(self.steps.values()) / len(self.steps)
        for _ in range(waiting):  # each goes to the worker that is free first
            busy[busy.index(min(busy))] += mean
        return max(busy)


class _Lines:
    """The display for logs: a line for each finished run, and from time to time the figures of one under way."""

    def __init__(self, errors: Console, study: Study, *, every: float = 60.0) -> None:
        self._errors, self._name, self._reported = errors, study.name, -1
        self._prepared: set[str] = set()
        self._left = Left({run.id: run.training.steps for run in study.runs})
        self._every, self._next = every, 0.0

    def __call__(self, progress: Progress) -> None:
        for name in progress.preparing:
            if name not in self._prepared:
                self._prepared.add(name)
                self._errors.print(f"{self._name}: teaching a policy and distilling its actors: {name}")
        seconds, now = self._left.seconds(progress), time.monotonic()
        if progress.finished != self._reported:
            self._reported = progress.finished
            self._errors.print(f"{self._name}: {progress.finished} of {progress.total} runs finished")
        if seconds is not None and now >= self._next:
            self._next = now + self._every
            name, row = max(progress.under_way.items(), key=lambda each: each[1].get("step", 0))
            figures = "".join(f", {label} {text}" for label, text in _figures(row).items() if text)
            of = f"step {row.get('step', 0):.0f} of {self._left.steps[name]}"
            self._errors.print(f"{self._name}: about {duration(seconds)} left; {name}: {of}{figures}")


_SHOWN = {
    "KL(p‖q)": "kl_policy_actor",
    "accept": "acceptance_rate",
    "reward": "reward",
    "accuracy": "accuracy",
    "s/step": "seconds",
}
"""The figures of a run under way, by their headings."""


def _figures(row: Row) -> dict[str, str]:
    return {label: "" if (figure := row.get(key)) is None else f"{figure:.3g}" for label, key in _SHOWN.items()}


def _display(progress: Progress, left: Left) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "", "step", *_SHOWN):
        table.add_column(heading, justify="left" if heading in ("run", "") else "right")
    for name, row in progress.under_way.items():
        done, total = int(row.get("step", 0)), left.steps[name]
        table.add_row(name, ProgressBar(total, done, width=10), f"{done}/{total}", *_figures(row).values())
    seconds = left.seconds(progress)
    told = "" if seconds is None else f", about {duration(seconds)} left"
    parts: list[Table | Text] = [Text(f"{progress.finished} of {progress.total} runs finished{told}")]
    if progress.preparing:
        parts.append(Text(f"teaching and distilling {len(progress.preparing)} models"))
    return Group(*parts, *([table] if progress.under_way else []))
