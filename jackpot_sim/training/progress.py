"""The display of a study's progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jackpot_sim.training.conduct import Progress
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
    steps = {run.id: run.training.steps for run in study.runs}
    with Live(console=errors, transient=True, refresh_per_second=4) as live:
        yield lambda progress: live.update(_display(progress, steps))


class _Lines:
    """The display for logs: a line for each change."""

    def __init__(self, errors: Console, study: Study) -> None:
        self._errors, self._name, self._reported = errors, study.name, -1
        self._prepared: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        for name in progress.preparing:
            if name not in self._prepared:
                self._prepared.add(name)
                self._errors.print(f"{self._name}: teaching a policy and distilling its actors: {name}")
        if progress.finished != self._reported:
            self._reported = progress.finished
            self._errors.print(f"{self._name}: {progress.finished} of {progress.total} runs finished")


def _display(progress: Progress, steps: dict[str, int]) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "", "step", "KL(p‖q)", "acceptance", "reward", "accuracy", "s/step"):
        table.add_column(heading, justify="left" if heading in ("run", "") else "right")
    for name, row in progress.under_way.items():
        done, total = int(row.get("step", 0)), steps[name]
        figures = [row.get(key) for key in ("kl_policy_actor", "acceptance_rate", "reward", "accuracy", "seconds")]
        texts = ["" if figure is None else f"{figure:.3g}" for figure in figures]
        table.add_row(name, ProgressBar(total, done, width=20), f"{done}/{total}", *texts)
    parts: list[Table | Text] = [Text(f"{progress.finished} of {progress.total} runs finished")]
    if progress.preparing:
        parts.append(Text(f"teaching and distilling {len(progress.preparing)} models"))
    return Group(*parts, *([table] if progress.under_way else []))
