"""The part that the figures' command lines share: `python -m paper_figures.NAME [--records DIR] [--out DIR]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from jackpot_sim import commands
from jackpot_sim.studies.errors import StudyError
from paper_figures import records as runs
from paper_figures import style


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


_TABLE_WIDTH = 100
"""The least width of a report: on a narrower terminal lines break, and no number is cut."""

_EPILOGUE = "Exit codes: 0 drawn, and the numbers agree; 1 drawn, and they do not; 2 it could not be drawn."


def run(name: str, about: str, make: Callable[[runs.Loaded], Made], argv: Sequence[str] | None) -> int:
    """Draws figure `name` from the records of its study, writes it, and prints its report; the exit code."""
    return run_from(runs.load, name, about, make, argv)


def run_from(
    load: Callable[[str, Path | None], F],
    name: str,
    about: str,
    make: Callable[[F], Made],
    argv: Sequence[str] | None,
) -> int:
    """The figure from records of another kind.

    Args:
        load: reads the records of figure `name` from `--records`, or where they lie by default; takes the name and
            the folder.
        name: the figure's.
        about: the text of `--help`.
        make: draws it.
        argv: the arguments; None: those of the process.
    """

    def figure(*, records: Path | None = None, out: Path = Path("figures")) -> int:
        """Read and draw.

        Args:
            records: A run's folder; by default runs/figures/NAME, where the figure's own study is run first.
            out: The folder for the PDF and the PNG.
        """
        return draw(name, load(name, records), make, out)

    return answer(name, about, figure, argv)


def answer(name: str, about: str, figure: Callable[..., int], argv: Sequence[str] | None) -> int:
    """Runs `figure` on the arguments given; the exit code.

    Args:
        name: the figure's.
        about: the text of `--help`.
        figure: reads and draws; its parameters are the options.
        argv: the arguments; None: those of the process.
    """
    app = commands.app_of(f"paper_figures.{name}", about, _EPILOGUE)
    app.default(figure)
    return commands.answer(app, name, argv, failures=(StudyError,), again="the same command goes on from there")


def run_all(about: str, mains: Sequence[Callable[[Sequence[str]], int]], argv: Sequence[str] | None) -> int:
    """Draws one figure after the other with `--out`, the only option that all can share; the worst exit code."""
    app = commands.app_of("paper_figures", about, _EPILOGUE)

    @app.default
    def figures(*, out: Path = Path("figures")) -> int:
        """Draw all.

        Args:
            out: The folder for the PDFs and the PNGs.
        """
        return max(main(["--out", str(out)]) for main in mains)

    return commands.answer(app, "paper_figures", argv, failures=(StudyError,))


def print_text(name: str, about: str, text: Callable[[], str], argv: Sequence[str] | None) -> int:
    """Prints a text that is made of the records that ship; the exit code.

    Args:
        name: the command's, after `paper_figures`.
        about: the text of `--help`.
        text: makes the text.
        argv: the arguments, which are none; None: those of the process.
    """
    app = commands.app_of(f"paper_figures.{name}", about)

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
