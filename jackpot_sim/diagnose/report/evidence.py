"""The evidence in a terminal's report: figures, corrections, places, alarms, the worst, and the account of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jackpot_sim.core.intervals import FEWEST
from jackpot_sim.diagnose.report.corrections import corrections_table
from jackpot_sim.diagnose.report.metrics import metrics_table
from jackpot_sim.diagnose.report.prose import MISSING, item, number, shortened
from jackpot_sim.diagnose.results import Breakdown, Diagnosis, Row, Worst
from jackpot_sim.studies.tables import FittedTable

TOKENS, SEQUENCES = 3, 2
"""The worst tokens and sequences that are shown."""
FILES = 4
"""The files that were passed over and are named."""
_FIGURE = "k3"
"""The figure by which slices are compared, where they have it."""


def parts(diagnosis: Diagnosis, width: int, own: int, wide: bool) -> Iterator[str | FittedTable]:
    """The sections, in the order in which they matter."""
    yield ""
    if diagnosis.metrics:
        yield metrics_table(diagnosis.metrics, wide)
    corrections = corrections_table(diagnosis, own, wide)
    if corrections.rows:
        yield ""
        yield corrections
    places = _places(diagnosis.breakdowns)
    if places.rows:
        yield ""
        yield places
    if wide:
        yield from map(_breakdown, diagnosis.breakdowns)
    yield from _alarms(diagnosis, width)
    if diagnosis.worst_tokens or diagnosis.worst_sequences:
        yield _worst(diagnosis, wide)
    yield from _rows(diagnosis, width)


def _figure_of(rows: Sequence[Row]) -> str:
    names = list(rows[0].figures)
    return _FIGURE if _FIGURE in names or not names else names[0]


def _places(breakdowns: Sequence[Breakdown]) -> FittedTable:
    """One line for each breakdown whose slices differ: those with the least and the largest mismatch."""
    table = FittedTable(
        "Where it is: k3 of the slices with the least and the most",
        ["by", "least at", "most at"],
        {"least": 1, "most": 0, "slices": 2},
        recorded=False,
    )
    for each in breakdowns:
        if not each.rows:
            continue
        name = _figure_of(each.rows)
        known = [(value, row.slice) for row in each.rows if (value := row.figures.get(name)) is not None]
        least, most = (min(known), max(known)) if known else ((0.0, ""), (0.0, ""))
        if least[0] != most[0]:
            table.add_row([each.by, least[1], most[1]], [number(least[0]), number(most[0]), str(len(each.rows))])
    return table


def _breakdown(breakdown: Breakdown) -> FittedTable:
    names = list(breakdown.rows[0].figures) if breakdown.rows else []
    headings = {"tokens": 0, "sequences": 1} | {name: 2 + at for at, name in enumerate(names)}
    table = FittedTable(f"By {breakdown.by}", [breakdown.by], headings, recorded=False)
    for row in breakdown.rows:
        figures = [number(row.figures.get(name)) for name in names]
        table.add_row([row.slice], [f"{row.tokens:,}", f"{row.sequences:,}", *figures])
    return table


def _alarms(diagnosis: Diagnosis, width: int) -> Iterator[str]:
    rang = sorted((each.step, each.name, each.rule) for each in diagnosis.alarms if each.step is not None)
    for at, (step, name, rule) in enumerate(rang):
        yield item("" if at else "Alarms", f"{name} would have rung at step {step}: {rule}.", width)
    if rang:
        yield item("", "A ring tells of a large mismatch, and of no loss to come for sure (docs/claims.md).", width)
    unsure = [each.name for each in diagnosis.alarms if each.unsure]
    if unsure:
        said = f"Cannot tell, with fewer than {FEWEST} sequences a step: {', '.join(unsure)}."
        yield item("" if rang else "Alarms", said, width)
    if silent := [each.name for each in diagnosis.alarms if each.step is None and not each.unsure]:
        yield item("" if rang or unsure else "Alarms", f"Never: {', '.join(silent)}.", width)


def _worst(diagnosis: Diagnosis, wide: bool) -> FittedTable:
    tokens = diagnosis.worst_tokens if wide else diagnosis.worst_tokens[:TOKENS]
    sequences = diagnosis.worst_sequences if wide else diagnosis.worst_sequences[:SEQUENCES]
    table = FittedTable(
        "The worst tokens and sequences",
        ["token", "place"],
        {"position": 3, "actor": 1, "policy": 2, "log-ratio": 0},
        recorded=False,
        caption="actor, policy: probabilities. log-ratio: log p - log q, over a whole sequence their sum; nats.",
    )
    folder = _common_folder([each.place for each in (*tokens, *sequences)])
    for each in (*tokens, *sequences):
        position = "whole" if each.position is None else str(each.position)
        figures = (each.actor_probability, each.policy_probability, each.log_ratio)
        table.add_row([_token(each), each.place.removeprefix(folder)], [position, *map(number, figures)])
    return table


def _common_folder(places: Sequence[str]) -> str:
    """The folder of all places, which is left out of them; empty where there are several."""
    folders = {place[: place.rfind("/") + 1] for place in places}
    return folders.pop() if len(folders) == 1 else ""


def _token(worst: Worst) -> str:
    if worst.position is None:
        return f"sequence {worst.sequence}"
    number_ = MISSING if worst.token is None else str(worst.token)
    return number_ if worst.text is None else shortened(worst.text)


def _rows(diagnosis: Diagnosis, width: int) -> Iterator[str]:
    rows, source = diagnosis.rows, diagnosis.source
    files = f"{source.get('files', '?')} file{'s' * (source.get('files') != '1')}"
    yield item(
        "Read",
        f"{rows.read:,} tokens of {rows.sequences_read:,} sequences ({files}, format {source.get('format', '?')}); "
        f"used {rows.used:,} tokens of {rows.sequences_used:,} sequences.",
        width,
    )
    for at, (reason, count) in enumerate(rows.left_out.items()):
        where = "; ".join(rows.samples.get(reason, [])[:1])
        yield item("" if at else "Left out", f"{count:,} {reason}{f': {where}' if where else ''}", width)
    if rows.rounded:
        yield item("Rounded", f"{rows.rounded:,} tokens have a log-prob just above 0, which is read as 0.", width)
    if passed_over := rows.passed_over:
        names = ", ".join(path.rpartition("/")[2] for path in passed_over[:FILES])
        more = f" and {len(passed_over) - FILES} more" if len(passed_over) > FILES else ""
        yield item("Passed over", f"{names}{more}, which {'are no dumps' if passed_over[1:] else 'is no dump'}.", width)
