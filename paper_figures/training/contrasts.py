"""Differences between cells of a study that were named beforehand, with intervals that hold together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from .. import style
from ..command import Made, report_table
from . import cells, curves
from .records import Trained
from .statistics import CONFIDENCE, ON_POLICY, Difference, group, interval, per_run


class Cell(NamedTuple):
    """The runs of a setting and a method."""

    setting: str
    method: str


class Contrast(NamedTuple):
    """A cell and the one that it is compared with."""

    name: str
    """The difference in words: "sequence TIS − TIS"."""
    first: Cell
    second: Cell


def contrasted(runs: pd.DataFrame, asked: Iterable[Contrast], figure: str = "accuracy") -> dict[str, Difference]:
    """A figure of the first cell less that of the second, paired by seed, by the contrast's name.

    The intervals hold simultaneously at 95 % (Bonferroni).

    Args:
        runs: the figures of each run, see `statistics.per_run`.
        asked: all contrasts of the study; a cell without runs raises KeyError.
        figure: a column of the runs.
    """
    changes = {
        each.name: (group(runs, *each.first)[figure] - group(runs, *each.second)[figure]).dropna() for each in asked
    }
    level = 1 - (1 - CONFIDENCE) / len(changes)
    return {name: interval(each, level) for name, each in changes.items()}


def table_of(found: Mapping[str, Difference], title: str) -> Table:
    """The differences, a line each."""
    table = report_table(title, "compared", "difference", "seeds")
    for name, each in found.items():
        table.add_row(name, str(each), str(each.pairs))
    return table


def in_words(found: Mapping[str, Difference]) -> str:
    """The differences in a sentence, by what they decide: "above: …; below: …; LEFT OPEN: …"."""
    ways = {"ABOVE": True, "BELOW": False, "LEFT OPEN": None}
    said = {
        word: ", ".join(f"{name} {each}" for name, each in found.items() if each.above is way)
        for word, way in ways.items()
    }
    return "; ".join(f"{word}: {names}" for word, names in said.items() if names)


def figure_of(
    runs: pd.DataFrame, methods: Sequence[str], settings: Mapping[str, str], found: Mapping[str, Difference]
) -> Figure:
    """(a) Last accuracy and (b) KL at the end of every cell, and (c) the contrasts in last accuracy.

    Args:
        runs: the figures of each run; those on-policy, in a setting of this name, are a dotted line in (a).
        methods: the study's, in order.
        settings: the label of each setting, in order.
        found: see `contrasted`.
    """
    shown = [
        each for each in methods if (runs.index.isin([each], "method") & runs.index.isin(settings, "setting")).any()
    ]
    looks = style.of_methods(shown)
    figure, (left, middle, right) = style.canvas(3, 3.1, [1, 1, 0.9])
    cells.draw_cells(left, runs, "accuracy", looks, settings, log=False)
    cells.draw_cells(middle, runs, "kl", looks, settings, log=True)
    cells.draw_level(left, float(group(runs, ON_POLICY, "none")["accuracy"].mean()))
    left.set(title="(a) Last accuracy", xlabel="training of the actor")
    middle.set(title="(b) KL(p‖q) at the end, nats", xlabel="training of the actor", yscale="log")
    curves.log_axis(middle.yaxis)
    cells.draw_differences(right, {name.replace(" − ", "\n− "): {name: each} for name, each in found.items()})
    right.set(title="(c) Compared", xlabel="difference in accuracy")
    handles = cells.legend(shown, looks)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=7)
    return figure


def made(
    trained: Trained,
    settings: Mapping[str, str],
    asked: Iterable[Contrast],
    title: str,
    seeds: str = "seeds",
) -> Made:
    """The figure, the tables and the verdict of a study that contrasts decide; it agrees with whatever they say.

    Args:
        trained: the runs.
        settings: the label of each setting, in order.
        asked: all contrasts of the study.
        title: that of its tables.
        seeds: "seeds" in the verdict's words.

    Raises:
        StudyError: the runs lack a cell.
    """
    asked = list(asked)
    for cell in dict.fromkeys(cell for each in asked for cell in (each.first, each.second)):
        trained.need([cell.method], [cell.setting])
    runs = per_run(trained)
    found = contrasted(runs, asked)
    figure = figure_of(runs, trained.methods, settings, found)
    table = table_of(found, "Last accuracy less that of another, paired by seed; intervals hold together")
    said = f"VERDICT: in last accuracy, {trained.seeds} {seeds}, {in_words(found)}."
    sentence = "NO VERDICT, a quick look that decides nothing." if trained.quick else said
    return Made(figure, [*curves.tables(trained, runs, title, settings), table], sentence, True)
