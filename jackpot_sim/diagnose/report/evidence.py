"""The evidence in a terminal's report: figures, corrections, places, alarms, the worst, and the account of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jackpot_sim.diagnose.report.prose import (
    MISSING,
    brief,
    interval,
    item,
    number,
    shortened,
)
from jackpot_sim.diagnose.results import Breakdown, Diagnosis, Effect, Figure, Row, Worst
from jackpot_sim.studies.tables import FittedTable

METRICS = (
    *("k1", "k3", "chi_square_token", "ess_fraction_token", "ess_fraction_sequence", "log_perplexity_gap"),
    *("probability_gap", "abs_log_ratio_p99", "abs_log_ratio_max", "confident_disagreement"),
    *("overlap_low", "overlap_high", "overlap_p5_low", "overlap_p5_high", "kl_actor_policy"),
)
"""The figures that are shown where not all are, where a dump has them."""
FEWEST = 3
"""The figures that are shown of a dump that has none of those."""
CORRECTIONS = 5
"""The corrections that are shown beside the user's own."""
TOKENS, SEQUENCES = 3, 2
"""The worst tokens and sequences that are shown."""
_FIGURE = "k3"
"""The figure by which slices are compared, where they have it."""


def parts(diagnosis: Diagnosis, width: int, own: int, wide: bool) -> Iterator[str | FittedTable]:
    """The sections, in the order in which they matter."""
    yield ""
    if diagnosis.metrics:
        yield _metrics(diagnosis, wide)
    if shown := diagnosis.corrections if wide else shown_corrections(diagnosis, own):
        yield _corrections(diagnosis, own, shown, wide)
    if diagnosis.breakdowns:
        yield _places(diagnosis.breakdowns)
        if wide:
            yield from map(_breakdown, diagnosis.breakdowns)
    yield from _alarms(diagnosis, width)
    if diagnosis.worst_tokens or diagnosis.worst_sequences:
        yield _worst(diagnosis, wide)
    yield from _rows(diagnosis, width)


def _metrics(diagnosis: Diagnosis, wide: bool) -> FittedTable:
    known = {each.name: each for each in diagnosis.metrics}
    chosen = [known[name] for name in METRICS if name in known] or diagnosis.metrics[:FEWEST]
    shown = diagnosis.metrics if wide else chosen
    more = len(diagnosis.metrics) - len(shown)
    table = FittedTable(
        "The mismatch, with 95 % intervals over sequences",
        ["figure"],
        {"value": 0, "interval": 1},
        prose="meaning",
        recorded=False,
        caption=f"{more} more figures: --wide, or --json." if more else "",
    )
    for each in shown:
        table.add_row([each.name], [number(each.value), interval(each)], each.meaning if wide else brief(each.meaning))
    return table


def shown_corrections(diagnosis: Diagnosis, own: int, most: int = CORRECTIONS) -> list[Effect]:
    """The user's own corrections, the advised one, none, and those that no other beats in all of three figures.

    The three are the share of signal kept, the effective sample size, and the KL that is left.
    """
    effects = [each for each in diagnosis.corrections if each.refused is None]
    first = diagnosis.corrections[:own]
    advised = [each for each in effects if each.name == (diagnosis.advice.correction or "none")]
    none = [each for each in effects if each.name == "none"]
    front = sorted((each for each in effects if not _beaten(each, effects)), key=lambda each: -_worth(each))
    chosen: list[Effect] = []
    for each in (*first, *advised, *none):
        if each not in chosen:
            chosen.append(each)
    for each in front:
        if len(chosen) < own + most and _goods(each) not in map(_goods, chosen):  # of equal ones, one is enough
            chosen.append(each)
    return chosen


def _goods(effect: Effect) -> tuple[float, float, float] | None:
    """Signal kept, effective sample size, and minus the KL that is left: each is better where it is larger."""
    signal, ess, left = _value(effect.signal), _value(effect.ess), effect.effective_kl_reverse
    return None if signal is None or ess is None or left is None else (signal, ess, -left)


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def _beaten(effect: Effect, others: Sequence[Effect]) -> bool:
    own = _goods(effect)
    if own is None:
        return True
    goods = [each for each in map(_goods, others) if each is not None]
    return any(all(x >= y for x, y in zip(each, own, strict=True)) and each != own for each in goods)


def _worth(effect: Effect) -> float:
    goods = _goods(effect)
    return -math.inf if goods is None else goods[0] * goods[1]


def _corrections(diagnosis: Diagnosis, own: int, shown: Sequence[Effect], wide: bool) -> FittedTable:
    more = len(diagnosis.corrections) - len(shown)
    table = FittedTable(
        f"Corrections of this very batch{', your own first' if own else ''}",
        ["correction"],
        {
            "signal": 0,
            "A > 0": 4,
            "A < 0": 5,
            "tokens": 1,
            "ESS": 2,
            "KL left": 3,
            "weight p99": 7,
            "max": 6,
            "shortest": 8,
            "longest": 9,
        },
        recorded=False,
        caption=(
            "signal: the share of Σ|A| kept, also of A > 0 and A < 0; tokens: the share kept; KL left: KL(weighted "
            "actor‖policy), nats; shortest, longest: tokens kept in either end quarter of lengths."
            f"{f' {more} more: --wide, or --json.' if more else ''}"
        ),
    )
    for each in shown:
        table.add_row([_name(each, wide)], _effect_figures(each))
    return table


def _name(effect: Effect, wide: bool) -> str:
    """A correction with its parameters; a preset by its name, and with its parameters where there is room."""
    if effect.refused is not None:
        return f"{effect.name} ({effect.refused})"
    if effect.label.startswith(effect.name.partition("(")[0]):
        return effect.label
    return f"{effect.name}: {effect.label}" if wide else effect.name


def _effect_figures(effect: Effect) -> list[str]:
    lengths = effect.by_length or [None]
    values = (
        _value(effect.signal),
        effect.kept_positive,
        effect.kept_negative,
        _value(effect.kept),
        _value(effect.ess),
        effect.effective_kl_reverse,
        effect.weight_p99,
        effect.weight_max,
        lengths[0],
        lengths[-1],
    )
    return [number(each) for each in values]


def _figure_of(rows: Sequence[Row]) -> str:
    names = list(rows[0].figures)
    return _FIGURE if _FIGURE in names or not names else names[0]


def _places(breakdowns: Sequence[Breakdown]) -> FittedTable:
    """One line for each breakdown: the slices with the least and the largest mismatch."""
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
        if known:
            least, most = min(known), max(known)
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
    if silent := [each.name for each in diagnosis.alarms if each.step is None]:
        yield item("" if rang else "Alarms", f"Never: {', '.join(silent)}.", width)


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
