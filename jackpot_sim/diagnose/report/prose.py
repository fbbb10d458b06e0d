"""The words of a report: numbers, figures with their intervals, and lines that fit."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from jackpot_sim.diagnose.results import Figure

MISSING = "-"
"""A figure that does not exist."""


def number(value: float | None) -> str:
    """A number in three digits, whole ones in full.

    >>> number(0.0123456), number(12345.6), number(1e-9), number(None)
    ('0.0123', '12,346', '1e-09', '-')
    """
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(figure: Figure | None) -> str:
    """The 95 % interval of a figure, empty where it has none."""
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f"[{number(figure.low)}, {number(figure.high)}]"


def told(figure: Figure | None) -> str:
    """A figure with its interval."""
    return f"{number(None if figure is None else figure.value)} {interval(figure)}".strip()


def item(head: str, sentence: str, width: int, indent: int = 12) -> str:
    """A heading and its text, the lines of which begin under each other.

    >>> print(item("Cause", "one two three", 14, 7))
    Cause  one two
           three
    """
    return filled(f"{head:{indent}}", sentence, width)


def filled(first: str, sentence: str, width: int) -> str:
    """A sentence in lines of at most `width`, after `first` and as far in; words are never broken."""
    indent = " " * min(len(first), width // 3)
    return textwrap.fill(
        " ".join(sentence.split()),
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def pasted(lines: str) -> str:
    """Lines to paste, indented and as they are."""
    return textwrap.indent(lines.strip("\n"), "    ")


def shortened(text: str, most: int = 24) -> str:
    """A decoded token in quotes, its signs written out where they would break the line."""
    shown = repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 4]}...{shown[0]}"


def brief(meaning: str) -> str:
    """The first clause of a meaning, without what stands in brackets.

    >>> brief("mean of r - 1, nats: unbiased like k1"), brief("mean gap, nats (verl kl); more")
    ('mean of r - 1, nats', 'mean gap, nats')
    """
    return re.split(r": | \(|; |, in \[", meaning)[0]


def listed(names: Iterable[str]) -> str:
    """Names with commas."""
    return ", ".join(names)
