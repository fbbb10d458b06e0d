"""The table of figures in a terminal's report: the size of the mismatch, its tail, and then all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jackpot_sim.diagnose.report.prose import brief, number
from jackpot_sim.diagnose.results import Figure
from jackpot_sim.estimators.mismatch.lines import STABLE
from jackpot_sim.estimators.mismatch.summaries import OF_THE_SAMPLE
from jackpot_sim.studies.tables import FittedTable

ONLY_WIDE = ("total_variation", "log_perplexity_gap")
"""Figures of a group that are shown only with all: overlap and k1 say nearly the same."""
GROUPS = {
    "how large": ("probability_gap", "k3", "k1", "kl_actor_policy", "overlap", "overlap_p5", *ONLY_WIDE),
    "how heavy the tail": (
        *("chi_square_token", "ess_fraction_token", "ess_fraction_sequence"),
        *("abs_log_ratio_p99", "abs_log_ratio_max", "confident_disagreement"),
    ),
}
"""The figures that are shown where not all are, where a dump has them, by the question that they answer."""
FEWEST = 3
"""The figures that are shown of a dump that has none of those."""
UNRESOLVED = "unresolved"
_LOW, _HIGH = "_low", "_high"
_BRACKETS = {
    "overlap": "mean over tokens of Σ min(p, q), in [0, 1]",
    "overlap_p5": "its 5th percentile over tokens",
    "total_variation": "mean over tokens of TV = 1 − Σ min(p, q)",
}
"""The meanings of figures of which the top-k leave an interval, by the name that both ends share."""


class _Line(NamedTuple):
    """A line of the table."""

    name: str
    value: str
    interval: str
    meaning: str


def metrics_table(metrics: Sequence[Figure], wide: bool) -> FittedTable:
    """The table of figures, all of them if wide."""
    lines = {line.name: line for line in _lines({each.name: each for each in metrics})}
    groups = {
        heading: [name for name in names if name in lines and (wide or name not in ONLY_WIDE)]
        for heading, names in GROUPS.items()
    }
    chosen = {name for names in groups.values() for name in names}
    others = [name for name in lines if name not in chosen]
    groups["also"] = others if wide else [] if chosen else others[:FEWEST]
    more = len(lines) - sum(map(len, groups.values()))
    told = [lines[name] for names in groups.values() for name in names]
    notes = [
        *(["unresolved: too few sequences, or too heavy a tail, for an interval."] * _some(told, UNRESOLVED)),
        *(["a to b: all that the top-k leave possible."] * any(" to " in line.value for line in told)),
        *_on_overlap(metrics),
    ]
    short = [
        "r = p/q, ℓ = log r.",
        *(["unresolved: too few sequences."] * _some(told, UNRESOLVED)),
        *(["a to b: what the top-k leave open."] * any(" to " in line.value for line in told)),
    ]
    table = FittedTable(
        "The mismatch over tokens, with 95 % intervals over sequences",
        ["figure"],
        {"value": 0, "interval": 1},
        prose="meaning",
        recorded=False,
        caption=" ".join(notes),
        brief=" ".join(short) + _more(more),
    )
    for heading, names in groups.items():
        if names and len(groups["also"]) < len(told):
            table.add_row([f"{heading}:"], ["", ""])
        for name in names:
            _, value, interval, meaning = lines[name]
            table.add_row([name], [value, interval], meaning if wide else _short(meaning))
    return table


def _more(count: int) -> str:
    return f" {count} more: --wide." if count else ""


def _short(meaning: str) -> str:
    """The first clause of a meaning; means are over tokens, as the title says."""
    return brief(meaning).replace("mean over tokens of ", "mean ")


def _some(lines: Sequence[_Line], interval: str) -> bool:
    return any(line.interval == interval for line in lines)


def _lines(known: Mapping[str, Figure]) -> Iterator[_Line]:
    """A line for each figure, and one for both ends of a bracket."""
    for name, figure in known.items():
        shared = name.removesuffix(_LOW).removesuffix(_HIGH)
        low, high = (known.get(f"{shared}{end}") for end in (_LOW, _HIGH))
        if shared not in _BRACKETS or low is None or high is None:
            yield _Line(name, number(figure.value), _interval(figure), figure.meaning)
        elif name.endswith(_LOW):
            yield _bracket(shared, low, high)


def _interval(figure: Figure) -> str:
    """The interval; empty for a figure that has none by its nature, or has no value."""
    if figure.value is None or figure.name in OF_THE_SAMPLE:
        return ""
    return _ends(figure.low, figure.high)


def _ends(low: float | None, high: float | None) -> str:
    return UNRESOLVED if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _bracket(name: str, low: Figure, high: Figure) -> _Line:
    ends = [number(each.value) for each in (low, high)]
    return _Line(name, " to ".join(dict.fromkeys(ends)), _ends(low.low, high.high), _BRACKETS[name])


def _on_overlap(metrics: Sequence[Figure]) -> list[str]:
    """The line that the 5th percentile of the overlap is held against, and if the bracket tells the side."""
    ends = {each.name: each.value for each in metrics if each.value is not None}
    low, high = (ends.get(f"overlap_p5{end}") for end in (_LOW, _HIGH))
    if low is None or high is None:
        return []
    untold = ", which this bracket cannot tell" if low < STABLE <= high else ""
    return [f"overlap_p5: training was reported stable from {STABLE:g} on{untold}."]
