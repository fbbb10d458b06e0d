"""What the figures' command lines share: `python -m paper_figures.NAME [--records DIR] [--out DIR]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cyclopts
from cyclopts import App
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from jackpot_sim.requirements import RequirementError, require
from jackpot_sim.studies.errors import StudyError
from paper_figures import records as runs
from paper_figures import style


class Found(Protocol):
    """Records that were read, and where."""

    @property
    def root(self) -> Path:
        """The folder or the file."""
        ...


F = TypeVar("F", bound=Found)


@dataclass(frozen=True)
class Made:
    """A figure, and what is to be said about it."""

    figure: Figure
    report: Sequence[RenderableType]
    verdict: str
    agrees: bool


_TABLE_WIDTH = 100
"""A terminal or a pipe that claims to be narrower gets whole numbers on broken lines, not cut ones."""

_EPILOGUE = "Exit codes: 0 drawn, and the numbers agree; 1 drawn, and they do not; 2 it could not be drawn."


def run(name: str, about: str, make: Callable[[runs.Loaded], Made], argv: Sequence[str] | None) -> int:
    """Draws figure `name` from the records of its study, writes it, and prints its report; the exit code."""
    return run_from(runs.load, arguments, name, about, make, argv)


def run_from(
    load: Callable[..., F],
    arguments: Callable[..., None],
    name: str,
    about: str,
    make: Callable[[F], Made],
    argv: Sequence[str] | None,
) -> int:
    """The same from records of another kind.

    Args:
        load: reads the records of figure `name` from `--records`, or where they lie by default; takes the name, the
            folder, and by keyword what `arguments` has besides `records` and `out`.
        arguments: has the options of `arguments` at least, and says what its `records` are.
        name: the figure's.
        about: what `--help` says of it.
        make: draws it.
        argv: the arguments; None: those of the process.
    """
    app = App(name=f"python -m paper_figures.{name}", help=about, help_epilogue=_EPILOGUE, version_flags=[])
    app.default(arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        require()
        if any(token in ("--help", "-h") for token in tokens):
            app.help_print(tokens=[])
            return 0
        _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return _draw(name, load, make, **bound.arguments)
    except (StudyError, RequirementError) as error:
        errors.print(f"{name}: {error}")
    except cyclopts.CycloptsError as error:
        errors.print(f"{name}: {' '.join(str(error).split())} (see --help)")
    except KeyboardInterrupt:
        errors.print(f"{name}: interrupted; the same command goes on from there")
        return 130
    return 2


def run_all(about: str, mains: Sequence[Callable[[Sequence[str]], int]], argv: Sequence[str] | None) -> int:
    """Draws one figure after the other with `--out`, the only option that all can share; the worst exit code."""
    app = App(name="python -m paper_figures", help=about, help_epilogue=_EPILOGUE, version_flags=[])
    app.default(_where)
    tokens = list(sys.argv[1:] if argv is None else argv)
    if any(token in ("--help", "-h") for token in tokens):
        app.help_print(tokens=[])
        return 0
    try:
        app.parse_args(tokens, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        errors.print(f"paper_figures: {' '.join(str(error).split())} (see --help)")
        return 2
    return max(main_of(tokens) for main_of in mains)


def _where(*, out: Path = Path("figures")) -> None:
    """Where to write.

    Args:
        out: Where the PDFs and the PNGs go.
    """
    raise AssertionError("the arguments are bound, never called")


def arguments(*, records: Path | None = None, out: Path = Path("figures")) -> None:
    """Where to read and where to write.

    Args:
        records: A run's folder; by default runs/figures/NAME, where the figure's own study is run first.
        out: Where the PDF and the PNG go.
    """
    raise AssertionError("the arguments are bound, never called")


def _draw(
    name: str,
    load: Callable[..., F],
    make: Callable[[F], Made],
    records: Path | None = None,
    out: Path = Path("figures"),
    **more: object,
) -> int:
    found = load(name, records, **more)
    with style.context():
        made = make(found)
        written = style.save(made.figure, out, name)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(Group(*made.report))
    console.print(f"Records {found.root}; wrote {' and '.join(str(path) for path in written)}.")
    console.print(made.verdict)
    return 0 if made.agrees else 1


def report_table(title: str, *columns: str) -> Table:
    """An empty table in the style of all reports; figures are aligned to the right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table
