"""The tables on a terminal. A figure carries its standard error in units of its last digit: 0.9716(3)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jackpot_sim.studies.tables import folded
from jackpot_sim.sweep.labels import kinds_of

from .tables import Tables, tied

_ZERO = 1e-12
"""The size below which a figure is 0 but for rounding."""
_SURE = 0.99
"""The probability from which on a comparison is shown without it."""
_GAP = 2
"""The characters between two columns."""
_LEAST_NAME = 20
"""The width to which names are folded on the narrowest console; on a wider one they get up to half of a line."""

Row = tuple[str, ...]

_ON_MSE = (
    "An MSE of 1 is no update at all. The plain MSE rewards any correction that shrinks the update; the rescaled one "
    "is that at the best learning rate. In parentheses: bootstrap probability of being the lowest, where below 0.99, "
    "at the n where it is least."
)


_ON_BEST = (
    "Each seed has the best threshold of its own states: one chosen beforehand saves at most as much. The value is the "
    "geometric mean over seeds. A single seed tells no estimators apart."
)


def with_error(value: float, error: float) -> str:
    """`value` with the digits that `error` leaves, and the error in units of the last.

    >>> with_error(0.97163, 0.0003), with_error(4.1234e-5, 3e-7), with_error(1.3e-16, 0.0)
    ('0.9716(3)', '4.12(3)e-05', '0')

    The power of ten is that of the figure as it is rounded:

    >>> with_error(9.6e-6, 3e-6), with_error(-2e-6, 3e-5), with_error(99999.0, 20.0)
    ('1.0(3)e-05', '0(3)e-05', '1.0000(2)e+05')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < _ZERO and not error > _ZERO:
        return "0"
    if math.isnan(error):  # a single seed has none
        return f"{value:.3g}"
    if math.isinf(error):
        return f"{value:.3g}({error:g})"
    if error < 1e-9 * abs(value):
        return f"{value:.4g}"
    last = _exponent(float(f"{error:.0e}"))  # 0.0097 is 0.01
    exponent = _exponent(max(abs(round(value, -last)), error))  # and 9.6e-6 is 10e-6 where the last digit is 1e-6
    scale = 0 if -3 <= exponent <= 4 else exponent
    digits = max(0, scale - last)
    mantissa, shown = f"{value / 10.0**scale:.{digits}f}", round(error / 10.0 ** (scale - digits))
    if not float(mantissa):
        mantissa = mantissa.removeprefix("-")
    return f"{mantissa}({shown})" + (f"e{scale:+03d}" if scale else "")


def _exponent(size: float) -> int:
    return math.floor(math.log10(size))


def print_tables(tables: Tables, console: Console) -> None:
    """Prints the tables at the console's width; where that is too little, wider lines break."""
    _print_lowest(tables.lowest_mse, console)
    acceptance, kl = tables.acceptance_vs_kl, tables.kl_before_after
    _print_worse(tables.lowest_mse, kl, console)
    if len(tables.best_thresholds):
        _print_best(tables.best_thresholds, kl, console)
    rejecting = _with_acceptance_below_one(acceptance)
    rejecting_kl = kl.merge(acceptance[rejecting][["environment", "estimator", "denominator"]].drop_duplicates())
    if rejecting.any():
        _print_by_estimator("Acceptance rate, by environment", acceptance[rejecting], "acceptance_rate", console)
        title = "KL(policy‖·) before, and of the accepted tokens (nats)"
        _print_by_estimator(title, rejecting_kl, "kl_accepted", console)
    shown = set(acceptance.loc[rejecting, "estimator"])
    if left_out := [name for name in dict.fromkeys(acceptance["estimator"]) if name not in shown]:
        _print_sentence(console, f"These accept every token: {', '.join(left_out)}.")
        console.print()
    title = "KL(policy‖·) before, and of the weighted update (nats)"
    _print_by_estimator(title, kl, "kl_effective", console)
    _print_frontier(tables.bias_variance, console)


def _with_acceptance_below_one(acceptance: pd.DataFrame) -> pd.Series[bool]:
    """Rows of the estimators that reject a token in some environment."""
    least = acceptance.groupby(["estimator", "denominator"])["acceptance_rate"].transform("min")
    return least < 1 - 1e-9


def _names(frame: pd.DataFrame) -> pd.Series[str]:
    """Estimators, with their denominator where the study has several."""
    if frame["denominator"].nunique() <= 1:
        return frame["estimator"]
    return frame["estimator"] + " / " + frame["denominator"]


def _print_worse(lowest: pd.DataFrame, kl: pd.DataFrame, console: Console) -> None:
    """The MSE of every estimator over the least, at the middle one of the n."""
    counts = sorted(lowest["n_samples"].unique())
    n = counts[(len(counts) - 1) // 2]
    at = lowest[lowest["n_samples"] == n]
    title = f"MSE as a multiple of the least, at n={n} (tie: not told apart from the least)"
    print_texts(title, _beside(at, kl), _ratios(at, ""), console)


def _ratios(frame: pd.DataFrame, suffix: str) -> list[str]:
    return [
        "undefined" if math.isnan(worse) else "least" if worse == 1 else f"{worse:.3g}{' tie' if is_tied else ''}"
        for worse, is_tied in zip(frame[f"worse{suffix}"], frame[f"tied{suffix}"], strict=True)
    ]


def _beside(frame: pd.DataFrame, kl: pd.DataFrame) -> pd.DataFrame:
    """The rows under their full names, with KL before."""
    before = kl.drop_duplicates("environment").set_index("environment")["kl_before"]
    return frame.assign(estimator=_names(frame), kl_before=frame["environment"].map(before))


def _print_best(frame: pd.DataFrame, kl: pd.DataFrame, console: Console) -> None:
    n = int(frame["n_samples"].max())
    has = frame[frame["parameter"].notna()]
    named = _beside(has, kl)
    named = named.assign(estimator=named["estimator"] + ": " + named["parameter"])
    texts = [_with_ends(*row) for row in zip(has["best"], has["best_low"], has["best_high"], strict=True)]
    print_texts(f"Best threshold at n={n} [interval over seeds]", named, texts, console)
    texts = [
        _with_ends(100 * row[0], 100 * row[1], 100 * row[2], "%")
        for row in zip(has["saved"], has["saved_low"], has["saved_high"], strict=True)
    ]
    print_texts("MSE that the best threshold saves [interval]", named, texts, console)
    title = f"MSE as a multiple of the least, with every estimator at its best threshold, at n={n}"
    print_texts(title, _beside(frame, kl), _ratios(frame, "_best"), console)
    _print_sentence(console, _ON_BEST)
    console.print()


def _with_ends(value: float, low: float, high: float, unit: str = "") -> str:
    ends = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{unit}{ends}"


def _print_by_estimator(title: str, frame: pd.DataFrame, figure: str, console: Console) -> None:
    texts = [with_error(value, error) for value, error in zip(frame[figure], frame[f"{figure}_se"], strict=True)]
    # KL and acceptance are the same for all denominators.
    print_texts(title, frame, texts, console)


def print_texts(title: str, frame: pd.DataFrame, texts: Sequence[str], console: Console) -> None:
    """A row per estimator and a column per environment, in as many blocks as the width needs."""
    shown = frame.assign(text=texts).drop_duplicates(["environment", "estimator"])
    names = list(dict.fromkeys(shown["estimator"]))
    columns: list[tuple[str, Row]] = []
    for _, rows in shown.groupby("environment", sort=False):
        first = rows.iloc[0]
        text_of = dict(zip(rows["estimator"], rows["text"], strict=True))
        column = (f"{first['kl_before']:.3g}", *(text_of.get(name, "") for name in names))
        columns.append((_folded(first, max(map(len, column))), column))
    labels = tuple(folded(name, max(_LEAST_NAME, console.width // 2)) for name in ("KL before", *names))
    name_width = _width("", labels)
    room = console.width - name_width - _GAP
    blocks: list[list[tuple[str, Row]]] = [[]]
    for each in columns:
        if blocks[-1] and sum(_width(heading, cells) + _GAP for heading, cells in [*blocks[-1], each]) > room:
            blocks.append([])
        blocks[-1].append(each)
    console.print(Text(title, style="bold"))  # a table would fold it to its own width
    for block in blocks:
        table = _table(None)
        table.add_column("", no_wrap=True)
        for heading, _ in block:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for row in zip(labels, *(cells for _, cells in block), strict=True):
            table.add_row(*map(Text, row), style="dim" if row[0] == "KL before" else "")
        _print_whole(table, console, sum(_width(*each) + _GAP for each in block) + name_width)
    console.print()


def _width(heading: str, cells: Row) -> int:
    return max(len(line) for text in (heading, *cells) for line in text.split("\n"))


def _folded(row: pd.Series, width: int) -> str:
    """A heading in lines of about `width`: kinds fold at spaces and hyphens, a value stays whole."""
    lines = textwrap.wrap(_kinds(row), max(width, 11), break_long_words=False)
    for assignment in _condition(row).split():
        name, _, value = assignment.partition("=")
        lines += [assignment] if len(assignment) <= max(width, 11) else [f"{name}=", value]
    return "\n".join(lines)


def _print_frontier(frame: pd.DataFrame, console: Console) -> None:
    rows = []
    for _, group in frame.assign(name=_names(frame)).groupby("environment", sort=False):
        on = group[group["on_frontier"]].sort_values(["bias", "variance"], kind="stable")
        merged: list[tuple[list[str], float, float, float]] = []
        for name, bias, variance, chance in zip(on["name"], on["bias"], on["variance"], on["probability"], strict=True):
            same = [each for each in merged if tied(np.array(each[1:3]), np.array([bias, variance])).all()]
            if same:
                same[0][0].append(name)
            else:
                merged.append(([name], bias, variance, chance))
        members = [
            f"{' = '.join(names)} ({_plain(bias)}, {_plain(variance)}{_doubt('; ', chance)})"
            for names, bias, variance, chance in merged
        ]
        rows.append((group.iloc[0], [(", ".join(members) or "none is defined",)]))
    _print_grouped(
        "Bias-variance frontier: estimators that no other beats in both",
        ("estimator (bias, variance; chance of being on the frontier where below 0.99)",),
        rows,
        console,
    )


def _print_lowest(frame: pd.DataFrame, console: Console) -> None:
    rows = []
    for _, group in frame.assign(name=_names(frame)).groupby("environment", sort=False):
        # Successive n with the same winners share a line.
        lines: list[list[tuple[int, _Winner, _Winner]]] = []
        for n, at in group.groupby("n_samples", sort=True):
            winners = (int(str(n)), _Winner(at, ""), _Winner(at, "_rescaled"))
            if lines and all(a.key == b.key for a, b in zip(lines[-1][-1][1:], winners[1:], strict=True)):
                lines[-1].append(winners)
            else:
                lines.append([winners])
        cells = []
        for line in lines:
            counts = [n for n, _, _ in line]
            cells.append(
                (
                    f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}",
                    _winners([(n, plain) for n, plain, _ in line]),
                    _winners([(n, rescaled) for n, _, rescaled in line]),
                )
            )
        rows.append((group.iloc[0], cells))
    title = "Lowest MSE, relative to the squared gradient, at n proposals per state"
    _print_grouped(title, ("n", "lowest MSE", "lowest when rescaled"), rows, console, _ON_MSE)


class _Winner:
    """The estimators with the lowest MSE in one environment at one n."""

    def __init__(self, at: pd.DataFrame, suffix: str) -> None:
        best = at[at[f"lowest{suffix}"]]
        self.name = " = ".join(best["name"])
        self.mse = float(best[f"mse{suffix}"].min()) if len(best) else math.nan
        self.chance = float(best[f"probability{suffix}"].max()) if len(best) else 1.0
        updates = self.mse < 1 if suffix else self.mse <= 1  # the best multiple of nothing good is no update
        self.key = (self.name, bool(updates))


def _winners(line: Sequence[tuple[int, _Winner]]) -> str:
    """A line of one winner at every n, with its MSE at the first and the last."""
    name, updates = line[0][1].key
    if not name:
        return "none is defined"
    ends = list(dict.fromkeys(_plain(winner.mse) for _, winner in (line[0], line[-1])))
    n, chance = min(((n, winner.chance) for n, winner in line), key=lambda each: each[1])
    at = f" at n={n}" if len(line) > 1 else ""
    doubt = f" ({chance:.2f}{at})" if chance < _SURE else ""
    return f"{'' if updates else 'no update (MSE 1); least: '}{name} {' to '.join(ends)}{doubt}"


def _doubt(before: str, chance: float) -> str:
    return f"{before}{chance:.2f}" if chance < _SURE else ""


def _kinds(row: pd.Series) -> str:
    return kinds_of(row["env_kind"], row["base_kind"] if isinstance(row["base_kind"], str) else None)


def _condition(row: pd.Series) -> str:
    """The part of a label that tells an environment from others of its kinds."""
    return str(row["label"]).removeprefix(_kinds(row)).strip() or "as it is"


def _print_grouped(
    title: str,
    headings: Row,
    rows: Sequence[tuple[pd.Series, Sequence[Row]]],
    console: Console,
    caption: str = "",
) -> None:
    """Rows under a heading for each kind of environment; cells fold between words."""
    lines: list[tuple[Row, str]] = []
    kinds = ""
    for environment, members in rows:
        if _kinds(environment) != kinds:
            kinds = _kinds(environment)
            lines.append(((kinds, *[""] * len(headings)), "bold"))
        for index, cells in enumerate(members):
            lines.append((("" if index else f"  {_condition(environment)}", *cells), ""))
    texts = [("environment", *headings), *(cells for cells, _ in lines)]
    widths = _widths([list(column) for column in zip(*texts, strict=True)], console.width - _GAP * len(headings))
    table = _table(title)
    for heading, width in zip(texts[0], widths, strict=True):
        table.add_column(heading, width=width)
    for cells, style in lines:
        table.add_row(*map(Text, cells), style=style)
    _print_whole(table, console, sum(widths) + _GAP * len(headings))
    if caption:
        _print_sentence(console, caption)
    console.print()


def _widths(columns: list[list[str]], room: int) -> list[int]:
    """The width of each column: room for its longest word, and a share of the rest in proportion to its need."""
    least = [
        max(len(word) + (2 if text.startswith("  ") else 0) for text in column for word in text.split() or [""])
        for column in columns
    ]
    full = [max(map(len, column)) for column in columns]
    spare = max(0, room - sum(least))
    needs = [most - few for most, few in zip(full, least, strict=True)]
    if spare > 3 * needs[0]:  # there is room for names in one piece
        least[0], spare, needs[0] = full[0], spare - needs[0], 0
    share = min(1.0, spare / max(1, sum(needs)))
    return [few + int(share * more) for few, more in zip(least, needs, strict=True)]


def _plain(value: float) -> str:
    return "0" if abs(value) < _ZERO else f"{value:.3g}"


def _table(title: str | None) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        pad_edge=False,
    )


def _print_whole(table: Table, console: Console, needed: int) -> None:
    """Prints on lines of at least `needed` characters: a narrower terminal breaks them, and no number is cut."""
    before = console.width
    console.width = max(before, needed + 2 * _GAP)
    console.print(table)
    console.width = before


def _print_sentence(console: Console, sentence: str) -> None:
    console.print(sentence, highlight=False, markup=False)
