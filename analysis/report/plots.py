"""Descriptions of plots as plotly.js takes them: plain lists and dicts, in which nan and inf are gaps.

Colours are those of all figures; the page's own script sets whatever differs between light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..looks import Look
from .page import Described

SYMBOLS = {
    "x": "x",
    "X": "x",
    "+": "cross",
    "P": "cross",
    "s": "square",
    "D": "diamond",
    "d": "diamond-tall",
    "<": "triangle-left",
    ">": "triangle-right",
    "v": "triangle-down",
    "^": "triangle-up",
    "o": "circle",
    "*": "star",
    "h": "hexagon",
}
"""The symbols of markers, by their letters in figures."""
_DIGITS = 5
"""The significant digits that a plot needs."""


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, and its scale."""

    title: str
    log: bool = False
    from_zero: bool = False
    categories: bool = False

    def described(self) -> Described:
        """The axis as plotly.js takes it."""
        out: Described = {"title": {"text": self.title}}
        if self.log:
            out["type"] = "log"
        if self.from_zero:
            out["rangemode"] = "tozero"
        if self.categories:
            out["type"] = "category"
        return out


def layout(x: Axis, y: Axis, **more: object) -> Described:
    """The layout of a plot with these axes."""
    return {"xaxis": x.described(), "yaxis": y.described(), **more}


def level(y: float, text: str) -> Described:
    """A dotted line across a plot, with its meaning at the right end; to be a shape with its label."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": {"width": 1, "dash": "dot"},
        "label": {"text": html.escape(text), "textposition": "end", "font": {"size": 12}},
    }


def trace(
    name: str,
    look: Look,
    x: Iterable[float | str],
    y: Iterable[float | str],
    *,
    mode: str = "lines+markers",
    error_x: tuple[Iterable[float], Iterable[float]] | None = None,
    error_y: tuple[Iterable[float], Iterable[float]] | None = None,
    texts: Sequence[str] = (),
    thin: bool = False,
    log_y: bool = False,
    log_x: bool = False,
) -> Described:
    """One series.

    Args:
        name: its name in the legend, where series of one name are one entry.
        look: its colour and marker.
        x: along the horizontal axis.
        y: along the vertical axis.
        mode: lines, markers, or both.
        error_x: the low and the high ends of the interval of each x.
        error_y: those of each y.
        texts: what is said of each point when it is pointed at.
        thin: whether it is one of several lines behind a mean.
        log_y: whether the vertical axis is logarithmic, where zero has no place.
        log_x: whether the horizontal one is.
    """
    xs, ys = list(x), list(y)
    across, up = [_plain(each, log_x) for each in xs], [_plain(each, log_y) for each in ys]
    out: Described = {
        "type": "scatter",
        "mode": "lines" if thin else mode,
        # plotly.js reads tags in texts; the page's own legend takes the name as it is.
        "name": html.escape(name),
        "meta": name,
        "x": across,
        "y": up,
        "line": {"color": look.color, "width": 0.8 if thin else 2.2},
        "marker": {"color": look.color, "symbol": SYMBOLS[look.marker], "size": 10 if mode == "markers" else 7},
    }
    if mode == "markers":
        out["cliponaxis"] = False  # a point on the axis is a whole point
    if thin:
        out |= {"opacity": 0.35, "hoverinfo": "skip"}
    if texts:
        out |= {"text": [html.escape(each) for each in texts], "hovertemplate": "%{text}<extra></extra>"}
    for axis, at, ends in (("error_x", xs, error_x), ("error_y", ys, error_y)):
        if ends is not None and (bars := _bars(at, *ends)) is not None:
            out[axis] = bars | {"color": look.color, "thickness": 1.2, "width": 3}
    return out


def _bars(at: Sequence[float | str], low: Iterable[float], high: Iterable[float]) -> Described | None:
    """Bars from the low to the high ends; None where there are none."""
    ends = [
        (float(value) - bottom, top - float(value)) if math.isfinite(bottom) and math.isfinite(top) else (0.0, 0.0)
        for value, bottom, top in zip(at, low, high, strict=True)
    ]
    below, above = ([_rounded(max(0.0, each)) for each in side] for side in zip(*ends, strict=True))
    if not any([*below, *above]):
        return None
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _plain(value: float | str, log: bool) -> float | str | None:
    """A number as JSON has it, None for what no axis shows; texts are categories."""
    if isinstance(value, str):
        return html.escape(value)
    if not math.isfinite(value) or (log and value <= 0):
        return None
    return _rounded(value)


def _rounded(value: float) -> float:
    """A number in the digits that a plot needs; a whole one without its ".0", of which a page holds many."""
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
