"""The report of a diagnosis: is the mismatch dangerous, where does it come from, and what corrects it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jackpot_sim.diagnose.report import corrections, metrics
from jackpot_sim.diagnose.results import Breakdown, Diagnosis, Effect, Figure
from jackpot_sim.report.folders import of_diagnosis
from jackpot_sim.studies.folders import MANIFEST

from ..looks import Look
from .page import Plot, Run, Section, Table, View, number, provenance, told, versions
from .plots import Axis, layout, level, trace

_BLUE, _ORANGE, _GREY = Look("#0072B2", "o"), Look("#D55E00", "D"), Look("#999999", "o")


def of_run(root: Path) -> Run:
    """The report of a diagnosis's folder.

    Raises:
        StudyError: it is missing, damaged or of another version.
    """
    diagnosis = of_diagnosis(root)
    source, rows = diagnosis.source, diagnosis.rows
    plots = [_figures(diagnosis.metrics), _places(diagnosis.breakdowns), _tried(diagnosis)]
    all_metrics, all_corrections = (
        Table.of(metrics.metrics_table(diagnosis.metrics, wide=True)),
        Table.of(corrections.corrections_table(diagnosis, 0, wide=True)),
    )
    return Run(
        name=source.get("paths", root.name),
        noun="diagnosis",
        question=(
            f"Is the mismatch between actor and policy in these {rows.used:,} tokens of {rows.sequences_used:,} "
            "sequences dangerous, where does it come from, and what corrects it?"
        ),
        verdict=[f"{diagnosis.verdict.state.capitalize()}. {_sentence(diagnosis.verdict.sentence)}"],
        headline=Table.of(metrics.metrics_table(diagnosis.metrics, wide=False)),
        sections=[
            Section("Cause and advice", list(_advice(diagnosis)), code=diagnosis.advice.configuration),
            Section("What was measured", plots=[each for each in plots if each is not None]),
            *_alarms(diagnosis),
            Section("All figures", tables=[all_metrics, all_corrections, *_worst(diagnosis)]),
        ],
        provenance=provenance(
            [
                ("rollouts", source.get("paths")),
                ("format", source.get("format")),
                ("files", source.get("files")),
                ("tokens read, used", f"{rows.read:,}, {rows.used:,}"),
                *((f"left out: {reason}", f"{count:,}") for reason, count in rows.left_out.items()),
                ("command", "python -m jackpot_sim.diagnose ROLLOUTS --out DIR"),
                *versions(_manifest(root) | {"version": diagnosis.jackpot_sim}),
            ]
        ),
    )


def _manifest(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    return found


def _sentence(text: str) -> str:
    whole = text.strip()
    return whole if whole.endswith((".", "!", "?")) else f"{whole}."


def _advice(diagnosis: Diagnosis) -> list[str]:
    out = [
        f"{cause.name} ({cause.confidence:.0%} sure): {_sentence(cause.evidence)} Remedy: {_sentence(cause.remedy)}"
        for cause in diagnosis.causes
    ] or ["Cause: none is more than chance in these tokens."]
    advice = diagnosis.advice
    out.append(f"What to do: {_sentence(advice.sentence)}")
    if (threshold := advice.threshold) is not None:
        shown = told(threshold.value, threshold.low, threshold.high)
        out.append(f"Threshold: {threshold.name} {shown}, of the target: {_sentence(advice.target)}")
    if advice.changes_mind:
        out.append(f"It would change with: {'; '.join(advice.changes_mind)}.")
    return out


def _figures(found: Sequence[Figure]) -> Plot | None:
    """The figures with their intervals, in the groups of the table."""
    known = {each.name: each for each in found}
    views, rows = [], []
    for heading, names in metrics.GROUPS.items():
        shown = [each for name in names if (each := known.get(name)) is not None and each.value is not None]
        positive = [each for each in shown if each.value is not None and each.value > 0]
        for each in shown:
            rows.append([each.name, told(each.value, each.low, each.high), each.meaning])
        if not positive:
            continue
        ends = [_ends(each) for each in positive]
        series = trace(
            heading,
            _BLUE,
            [each.value or 0.0 for each in positive],
            [each.name for each in positive],
            mode="markers",
            error_x=([low for low, _ in ends], [high for _, high in ends]),
            texts=[f"{each.name}: {told(each.value, each.low, each.high)}; {each.meaning}" for each in positive],
            log_x=True,
        )
        size = 110 + 44 * len(positive)
        described = layout(Axis("value, in the unit of each figure", log=True), Axis("", categories=True), height=size)
        described["yaxis"]["autorange"] = "reversed"
        views.append(View(heading, [series], described))
    if not views:
        return None
    reading = (
        "Each point is a figure over all tokens, and its bar the 95 % interval over sequences; a point without a bar "
        "has none, by its nature or for lack of sequences. Figures that are 0 or below have no place on this axis, and "
        "stand in the table."
    )
    return Plot("The mismatch, with intervals", views, reading, _table("Figures", rows), "Figures")


def _ends(figure: Figure) -> tuple[float, float]:
    value = figure.value or 0.0
    low, high = (math.nan if end is None else end for end in (figure.low, figure.high))
    return (low if low > 0 else min(value, high) if math.isfinite(high) else math.nan), high


def _table(caption: str, rows: Sequence[Sequence[str]]) -> Table:
    return Table(caption, ("figure", "value", "meaning"), rows)


class _Slices(NamedTuple):
    """A figure that is shown by slices of the tokens."""

    name: str
    label: str
    log: bool = False


_BY = (
    _Slices("k3", "k3, nats", log=True),
    _Slices("abs_log_ratio_mean", "mean |ℓ|, nats", log=True),
    _Slices("k1", "k1 = mean −ℓ, nats"),
)
_WORDS = {
    "position": "position in the completion",
    "length": "length of the completion, tokens",
    "entropy": "entropy of the actor, nats",
    "probability": "probability that the actor gave the token",
    "step": "step",
    "lag": "lag of the weights, updates",
}


def _places(breakdowns: Sequence[Breakdown]) -> Plot | None:
    """ℓ = log p − log q by position, and by whatever else the tokens are told apart."""
    views, rows = [], []
    looks = (_BLUE, Look("#56B4E9", "v"), _ORANGE)
    for each in breakdowns:
        for shown in ((_BY[0], _BY[1]), (_BY[2],)):
            known = [of for of in shown if any(row.figures.get(of.name) is not None for row in each.rows)]
            if not known:
                continue
            traces = [
                trace(
                    of.label,
                    looks[_BY.index(of)],
                    [row.slice for row in each.rows],
                    [_or_nan(row.figures.get(of.name)) for row in each.rows],
                    log_y=of.log,
                    texts=[
                        f"{each.by} {row.slice}: {of.label} {number(row.figures.get(of.name))} ({row.tokens:,} tokens)"
                        for row in each.rows
                    ],
                )
                for of in known
            ]
            what = "size of ℓ" if known[0].log else "sign of ℓ"
            x = Axis(_WORDS.get(each.by, each.by), categories=True)
            y = Axis("nats", log=known[0].log)
            shapes = [] if known[0].log else [level(0, "")]
            views.append(View(f"{what}, by {each.by}", traces, layout(x, y, shapes=shapes)))
        rows += [
            [each.by, row.slice, f"{row.tokens:,}", *(number(row.figures.get(of.name)) for of in _BY)]
            for row in each.rows
        ]
    if not views:
        return None
    reading = (
        "ℓ = log policy − log actor of the token drawn, averaged over the tokens of each slice; a size that grows with "
        "the position tells of errors that add up, and one that sits at one end of another slice tells where to look. "
        "Slices with few tokens are noisy: the table gives their numbers, and has no intervals."
    )
    headings = ("by", "slice", "tokens", *(of.label for of in _BY))
    return Plot("ℓ by position, and by other slices", views, reading, Table("ℓ by slices", headings, rows, 2), "Slices")


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _value(figure: Figure | None) -> tuple[float, float, float]:
    if figure is None:
        return math.nan, math.nan, math.nan
    return _or_nan(figure.value), _or_nan(figure.low), _or_nan(figure.high)


def _tried(diagnosis: Diagnosis) -> Plot | None:
    """Each correction of this very batch: what it keeps, and what it leaves."""
    effects, labels = list[Effect](), set[str]()
    for each in diagnosis.corrections:
        if each.refused is None and each.label not in labels:
            effects.append(each)
            labels.add(each.label)
    named = {each.label for each in corrections.shown_corrections(diagnosis, 0)}
    across: Mapping[str, tuple[str, Callable[[Effect], Figure | None]]] = {
        "signal kept": ("share of the signal Σ|A| that is kept", lambda effect: effect.signal),
        "effective sample size": ("effective share of the tokens", lambda effect: effect.ess),
    }
    y = Axis("bias left: total variation", from_zero=True)
    views = []
    for name, (label, of) in across.items():
        known = [each for each in effects if each.bias is not None and of(each) is not None]
        groups = {
            "other corrections": (_GREY, [each for each in known if each.label not in named]),
            "common corrections": (_BLUE, [each for each in known if each.label in named]),
            "advised": (_ORANGE, [each for each in known if each.name == diagnosis.advice.correction]),
        }
        traces = []
        for group, (look, members) in groups.items():
            if not members:
                continue
            values = [_value(of(each)) for each in members]
            traces.append(
                trace(
                    group,
                    look,
                    [value for value, _, _ in values],
                    [_or_nan(each.bias) for each in members],
                    mode="markers",
                    error_x=([low for _, low, _ in values], [high for _, _, high in values]),
                    texts=[
                        f"{each.label}: {name} {told(*value)}, bias {number(each.bias)}"
                        for each, value in zip(members, values, strict=True)
                    ],
                )
            )
        if traces:
            views.append(View(name, traces, layout(Axis(label), y)))
    if not views:
        return None
    reading = (
        "To the right a correction keeps more of the batch, and further down it leaves less of the mismatch: the best "
        "ones lie in the lower right corner. Bars are 95 % intervals over sequences; point at one to see its name."
    )
    table = Table.of(corrections.corrections_table(diagnosis, 0, wide=False))
    return Plot("Corrections tried on this very batch", views, reading, table, "Across")


def _alarms(diagnosis: Diagnosis) -> list[Section]:
    if not diagnosis.alarms:
        return []
    rows = [
        [each.name, each.rule, "cannot tell" if each.unsure else "never" if each.step is None else f"step {each.step}"]
        for each in diagnosis.alarms
    ]
    note = "An alarm that rings tells of a large mismatch, and of no loss to come for sure."
    table = Table("The first step at which each alarm would have rung", ("alarm", "rule", "rings"), rows, 1, note)
    return [Section("Alarms", tables=[table])]


def _worst(diagnosis: Diagnosis) -> list[Table]:
    rows = [
        [
            each.text if each.text is not None else "–" if each.token is None else str(each.token),
            each.place,
            "whole" if each.position is None else str(each.position),
            number(each.actor_probability),
            number(each.policy_probability),
            number(each.log_ratio),
        ]
        for each in (*diagnosis.worst_tokens, *diagnosis.worst_sequences)
    ]
    headings = ("token", "place", "position", "actor", "policy", "ℓ, nats")
    return [Table("The worst tokens and sequences", headings, rows, 2)] if rows else []
