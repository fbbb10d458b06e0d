"""The contents of a report, before they are HTML: runs, their sections, tables and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table
import yaml

from jackpot_sim.studies.tables import FittedTable

Described = dict[str, Any]
"""A part of a plot as plotly.js takes it."""


_LONGEST = 30
"""The characters of the longest figure with its interval."""
_FIGURES = ("inf", "nan", "tie", "least", "unresolved")


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    """The number of columns, from the left, that name a row."""
    note: str = ""

    @property
    def prose(self) -> frozenset[int]:
        """The columns of texts, which are set as such: those that hold a cell which no figure would fill."""
        return frozenset(
            at
            for at in range(self.names, len(self.headings))
            if any(len(row[at]) > _LONGEST or (row[at][:1].isalpha() and row[at] not in _FIGURES) for row in self.rows)
        )

    @classmethod
    def of(cls, table: FittedTable | rich.table.Table) -> Table:
        """A terminal's table with all its columns."""
        if isinstance(table, FittedTable):
            headings = [*table.names, *table.figures, *([table.prose] if table.prose else [])]
            rows = [(*names, *figures, *([prose] * bool(table.prose))) for names, figures, prose in table.rows]
            return cls(table.title, headings, rows, len(table.names), table.caption)
        columns = table.columns
        names = next((at for at, column in enumerate(columns) if column.justify != "left"), len(columns))
        cells = [[str(cell) for cell in column.cells] for column in columns]
        return cls(
            str(table.title or ""),
            [str(column.header) for column in columns],
            list(zip(*cells, strict=True)),
            max(1, min(names, len(columns) - 1)),
            str(table.caption or ""),
        )


@dataclass(frozen=True)
class View:
    """The lines that a plot shows at a time."""

    name: str
    traces: Sequence[Described]
    layout: Described


@dataclass(frozen=True)
class Plot:
    """A plot with its explanation, and its numbers for those who do not see it."""

    title: str
    views: Sequence[View]
    reading: str
    """The explanation of how to read it, in two sentences."""
    table: Table
    choice: str = "Environment"
    """The word for what the views differ in."""


@dataclass(frozen=True)
class Section:
    """A part of the report of a run."""

    heading: str
    paragraphs: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    code: Mapping[str, str] | None = None
    """Lines to paste, by heading."""


@dataclass(frozen=True)
class Run:
    """The report of one run."""

    name: str
    noun: str
    question: str
    verdict: Sequence[str]
    headline: Table
    sections: Sequence[Section]
    provenance: Table
    configuration: str = ""
    """The study as YAML."""


def number(value: float | None, digits: int = 3) -> str:
    """A number in a few digits; inf and nan are written out, and what is missing is a dash.

    >>> number(0.0123456), number(12345.6), number(float("inf")), number(None)
    ('0.0123', '12,346', 'inf', '–')
    """
    if value is None:
        return "–"
    if math.isfinite(value) and abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def told(value: float | None, low: float | None, high: float | None) -> str:
    """A figure with the interval around it, where it has one.

    >>> told(0.5, 0.4, 0.6), told(0.5, float("nan"), float("nan"))
    ('0.5 [0.4, 0.6]', '0.5')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high) or not math.isfinite(value or 0.0):
        return number(value)
    if low == high:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def provenance(entries: Iterable[tuple[str, object]]) -> Table:
    """The table of where figures come from; what is not known is left out."""
    rows = [(name, str(value)) for name, value in entries if value not in (None, "")]
    return Table("Where these figures come from", ("what", "value"), rows)


def versions(manifest: Mapping[str, Any]) -> list[tuple[str, object]]:
    """The entries of a manifest that say which program wrote it."""
    names = {"version": "jackpot_sim", "commit": "commit", "numpy": "numpy", "python": "Python"}
    return [(shown, manifest.get(name)) for name, shown in names.items()]


def as_yaml(configuration: object) -> str:
    """A configuration as YAML, its fields in their order."""
    return str(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
