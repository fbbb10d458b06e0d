"""The part that figures' commands share: `python -m paper_figures.NAME [--records DIR | --rerun] [--out DIR]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from cyclopts import Parameter
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from jackpot_sim import commands
from jackpot_sim.start import INTERRUPTED
from jackpot_sim.studies.errors import StudyError

from . import records as runs
from . import style


class FigureRecords(Protocol):
    """Records of a figure."""

    @property
    def root(self) -> Path | str:
        """The folder or the file that they were read from, or several in words."""
        ...


F = TypeVar("F", bound=FigureRecords)


@dataclass(frozen=True)
class Made:
    """A figure with its report, and the verdict whether its numbers agree with the paper's."""

    figure: Figure
    report: Sequence[RenderableType]
    verdict: str
    agrees: bool


IMPOSSIBLE = 2
"""The exit code for what cannot be drawn."""

_TABLE_WIDTH = 100
"""The least width of a report: on a narrower terminal lines break, and no number is cut."""

RERUN = Parameter(name=("--rerun", "--measure"), negative=())
"""The option that measures anew, with the name that it had in two figures."""

_EPILOGUE = "Exit codes: 0 drawn, and the numbers agree; 1 drawn, and they do not; 2 it could not be drawn."


def run(name: str, about: str, make: Callable[[runs.Loaded], Made], argv: Sequence[str] | None) -> int:
    """Draws figure `name` from the records of its study, writes it, and prints its report; the exit code."""
    return run_from(runs.load, name, about, make, argv)


def run_from(
    load: Callable[[str, Path | None, bool], F],
    name: str,
    about: str,
    make: Callable[[F], Made],
    argv: Sequence[str] | None,
) -> int:
    """The figure from records of another kind.

    Args:
        load: reads the records of figure `name`: takes the name, the folder of `--records`, and whether to run the
            figure's own study.
        name: the figure's.
        about: the text of `--help`.
        make: draws it.
        argv: the arguments; None: those of the process.
    """

    def figure(
        *, records: Path | None = None, rerun: Annotated[bool, commands.FLAG] = False, out: Path = Path("figures")
    ) -> int:
        """Read and draw.

        Args:
            records: A run's folder; by default the records that ship with the figure.
            rerun: Run the figure's own study in runs/figures/NAME, or what is missing there, and draw that.
            out: The folder for the PDF and the PNG.
        """
        return draw(name, load(name, records, rerun), make, out)

    return answer(name, about, figure, argv)


def answer(name: str, about: str, figure: Callable[..., int], argv: Sequence[str] | None) -> int:
    """Runs `figure` on the arguments given; the exit code.

    Args:
        name: the figure's.
        about: the text of `--help`.
        figure: reads and draws; its parameters are the options.
        argv: the arguments; None: those of the process.
    """
    app = commands.app_of(f"{__package__}.{name}", about, _EPILOGUE)
    app.default(figure)
    return commands.answer(app, name, argv, failures=(StudyError,), again="the same command goes on from there")


def run_all(
    about: str, mains: Mapping[str, Callable[[Sequence[str]], int]], fixed: Sequence[str], argv: Sequence[str] | None
) -> int:
    """Draws one figure after the other, those that can be drawn; the worst exit code.

    Args:
        about: the text of `--help`.
        mains: draw a figure each, by name.
        fixed: the figures without a study of their own, of which none is run.
        argv: the arguments; None: those of the process.
    """
    app = commands.app_of(__package__, about, _EPILOGUE)

    @app.default
    def figures(*, rerun: Annotated[bool, commands.FLAG] = False, out: Path = Path("figures")) -> int:
        """Draw all.

        Args:
            rerun: Run all studies, each in runs/figures/NAME, or what is missing there, and draw those records. Those
                of training take hours each.
            out: The folder for the PDFs and the PNGs.
        """
        again = ["--rerun"] if rerun else []
        codes: dict[str, int] = {}
        for name, main in mains.items():
            codes[name] = main(["--out", str(out), *(again if name not in fixed else [])])
            if codes[name] == INTERRUPTED:
                return INTERRUPTED
        if failed := [name for name, code in codes.items() if code == IMPOSSIBLE]:
            print(f"{__package__}: {len(failed)} of {len(codes)} not drawn: {', '.join(failed)}", file=sys.stderr)
        return max(codes.values())

    return commands.answer(app, "paper_figures", argv, failures=(StudyError,))


def print_text(name: str, about: str, text: Callable[[], str], argv: Sequence[str] | None) -> int:
    """Prints a text that is made of the records that ship; the exit code.

    Args:
        name: the command's, after `paper_figures`.
        about: the text of `--help`.
        text: makes the text.
        argv: the arguments, which are none; None: those of the process.
    """
    app = commands.app_of(f"{__package__}.{name}", about)

    @app.default
    def whole() -> int:
        """Read the records that ship, and print the text in Markdown."""
        print(text())
        return 0

    return commands.answer(app, name, argv, failures=(StudyError,))


def draw(name: str, records: F, make: Callable[[F], Made], out: Path) -> int:
    """Draws figure `name` from its records, writes it to a folder, and prints its report; the exit code.

    Raises:
        StudyError: the records lack what the figure shows, or the folder cannot be written.
    """
    with style.context():
        made = make(records)
        written = style.save(made.figure, out, name)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(Group(*made.report))
    console.print(f"Records {records.root}; wrote {' and '.join(str(path) for path in written)}.")
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
