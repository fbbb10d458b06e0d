"""Tables that fit their console: names are folded and never dropped, no figure is cut, and columns give way instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from jackpot_sim.commands import in_ascii

_GAP = 2
"""The characters of a column beside its text."""
_INDENT = "  "
"""The beginning of the further lines of a folded name."""
_ROOM_FOR_PROSE = 24
"""The least width of a column of sentences."""


@dataclass
class FittedTable:
    """A table of names and figures that is laid out for the width of the console it is printed on.

    Where not all columns fit, names are folded; where that is not enough, the figures that matter least are left out,
    and a line below the table names them.
    """

    title: str
    names: Sequence[str]
    """The headings of the columns of names, which are never left out."""
    figures: Mapping[str, int]
    """The headings of the columns of figures; those with the largest numbers are left out first."""
    prose: str = ""
    """The heading of a last column of sentences, if there is one; it is left out before any figure."""
    caption: str = ""
    """The meaning of the table's words, below it."""
    brief: str = ""
    """One line in the place of the caption, unless all of the table is asked for."""
    rows: list[tuple[tuple[str, ...], tuple[str, ...], str]] = field(default_factory=list)
    recorded: bool = True
    """True where the records hold what the table leaves out."""

    def add_row(self, names: Iterable[str], figures: Iterable[str], prose: str = "") -> None:
        """Adds a row: its names, its figures in the order of their headings, and its sentence."""
        self.rows.append((tuple(names), tuple(figures), prose))

    def full_width(self) -> int:
        """The width at which nothing is left out, and no name is folded."""
        return sum(self._name_widths(len)) + self._width_beside(list(self.figures), prose=bool(self.prose))

    def in_ascii(self) -> FittedTable:
        """The same table with its signs written out."""
        rows = [
            (tuple(map(in_ascii, names)), tuple(map(in_ascii, figures)), in_ascii(sentence))
            for names, figures, sentence in self.rows
        ]
        return FittedTable(
            in_ascii(self.title),
            [*map(in_ascii, self.names)],
            {in_ascii(heading): rank for heading, rank in self.figures.items()},
            in_ascii(self.prose),
            in_ascii(self.caption),
            in_ascii(self.brief),
            rows,
            self.recorded,
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        own = self.in_ascii() if options.ascii_only else self
        shown, prose, widths = own._fitting(options.max_width)
        yield Text(own.title, style="bold")
        yield own._laid_out(shown, prose, widths)
        left_out = [
            *(each for each in own.figures if each not in shown),
            *([own.prose] if own.prose and not prose else []),
        ]
        if left_out:
            where = "--wide shows them, and the records hold them." if self.recorded else "--wide shows them."
            yield Text(f"Left out for lack of room: {', '.join(left_out)}. {where}")
        if legend := own.brief or own.caption:
            yield Text(legend)

    def _fitting(self, room: int) -> tuple[list[str], bool, list[int]]:
        """The headings of the figures that fit, if the prose does, and the widths of the names."""
        widths, least = self._name_widths(len), self._name_widths(_least)
        by_rank = sorted(self.figures, key=lambda heading: self.figures[heading])
        choices = [(by_rank[:count], False) for count in range(len(by_rank), -1, -1)]
        for shown, prose in [(by_rank, True), *choices] if self.prose else choices:
            left = room - self._width_beside(shown, prose=prose)
            if sum(least) <= left:
                break
        else:
            least = [1] * len(widths)  # too narrow for whole words: they are broken
        return [heading for heading in self.figures if heading in shown], prose, _narrowed(widths, least, left)

    def _name_widths(self, of: Callable[[str], int]) -> list[int]:
        """The width of each column of names: the largest of its texts'."""
        columns = zip(self.names, *(names for names, *_ in self.rows), strict=True)
        return [max(map(of, column)) for column in columns]

    def _width_beside(self, shown: Sequence[str], *, prose: bool) -> int:
        """The width of everything but the names themselves."""
        places = {heading: at for at, heading in enumerate(self.figures)}
        columns = [[heading, *(figures[places[heading]] for _, figures, _ in self.rows)] for heading in shown]
        widths = [max(map(len, column)) for column in columns] + [_ROOM_FOR_PROSE] * prose
        return sum(widths) + _GAP * (len(self.names) + len(widths))

    def _laid_out(self, shown: Sequence[str], prose: bool, widths: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for heading, width in zip(self.names, widths, strict=True):
            table.add_column(folded(heading, width), no_wrap=True)
        for heading in shown:
            table.add_column(heading, justify="right", no_wrap=True)
        if prose:
            table.add_column(self.prose)
        places = [at for at, heading in enumerate(self.figures) if heading in shown]
        for names, figures, sentence in self.rows:
            cells = [folded(name, width) for name, width in zip(names, widths, strict=True)]
            table.add_row(*cells, *(figures[at] for at in places), *([sentence] if prose else []))
        return table


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths, narrowed where there is most to give until they fit into the room or are the least."""
    out = list(widths)
    while sum(out) > room and (spare := [width - few for width, few in zip(out, least, strict=True)]):
        if max(spare) <= 0:
            break
        out[spare.index(max(spare))] -= 1
    return out


def folded(name: str, width: int) -> str:
    """A name in lines of at most `width`, which end after a word or a sign; what has neither is broken where it must.

    >>> print(folded("rao-blackwell(jackpot(c1=4, lam=1))", 18))
    rao-blackwell(
      jackpot(c1=4,
      lam=1))
    """
    lines = [""]
    for piece in _pieces(name):
        rest = piece
        while len(lines[-1]) + len(rest.rstrip()) > width:
            room = width - len(lines[-1])
            if lines[-1].strip() or room < 1:
                lines.append(_INDENT if width > len(_INDENT) else "")
            else:
                lines[-1], rest = lines[-1] + rest[:room], rest[room:]
        lines[-1] += rest
    return "\n".join(line.rstrip() for line in lines)


def _pieces(name: str) -> list[str]:
    """The parts of a name between which it may be folded."""
    return re.findall(r".+?(?:[(,/]\s*|\s+|(?<=[a-zA-Z]{3})[-_:](?=[a-zA-Z]{3})|$)", name)


def _least(name: str) -> int:
    """The width of a name's longest part, with the indentation of a further line."""
    first, *others = _pieces(name) or [""]
    return max(len(first.rstrip()), *(len(_INDENT) + len(each.rstrip()) for each in others), 1)


def print_table(console: Console, table: FittedTable | Table, *, wide: bool = False) -> None:
    """Prints a table; `wide` shows all of a fitted one, on lines that a narrow terminal breaks."""
    before = console.width
    if wide and isinstance(table, FittedTable):
        own = table.in_ascii() if console.options.ascii_only else table
        console.width = max(before, own.full_width())
        table = dataclasses.replace(table, brief="")
    console.print(table)
    console.width = before
