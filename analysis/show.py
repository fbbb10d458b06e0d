"""The tables on a terminal. A figure is written with its standard error in units of its last digit: 0.9716(3)."""

from __future__ import annotations

import math

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.tables import Tables

_ZERO = 1e-12
"""Below this a figure is what rounding leaves of 0."""
_SURE = 0.99
"""From this probability on, a comparison is shown without it."""


def with_error(value: float, error: float) -> str:
    """`value` as far as `error` says that its digits mean something.

    >>> with_error(0.97163, 0.0003), with_error(4.1234e-5, 3e-7), with_error(1.3e-16, 0.0)
    ('0.9716(3)', '4.12(3)e-05', '0')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < _ZERO and not error > _ZERO:
        return "0"
    if not math.isfinite(error):
        return f"{value:.3g}({error:g})"
    if error < 1e-9 * abs(value):
        return f"{value:.4g}"
    exponent = math.floor(math.log10(max(abs(value), error)))
    scale = 0 if -3 <= exponent <= 4 else exponent
    error, value = error / 10.0**scale, value / 10.0**scale
    digits = max(0, -math.floor(math.log10(error)))
    shown = round(error * 10**digits)
    if shown == 10 and digits > 0:  # 0.0097 is 0.01: one digit fewer
        digits, shown = digits - 1, 1
    return f"{value:.{digits}f}({shown})" + (f"e{scale:+03d}" if scale else "")


def overview(tables: Tables, width: int) -> RenderableType:
    """What `python -m analysis` prints."""
    acceptance, kl = tables.acceptance_vs_kl, tables.kl_before_after
    rejecting = _with_acceptance_below_one(acceptance)
    kept = kl.merge(acceptance[rejecting][["environment", "estimator", "denominator"]].drop_duplicates())
    parts: list[RenderableType] = []
    if rejecting.any():
        parts += _by_estimator("Acceptance against KL(policy‖actor)", acceptance[rejecting], "acceptance_rate", width)
        parts += _by_estimator("KL(policy‖·) before, and of the accepted tokens", kept, "kl_accepted", width)
    parts += _by_estimator("KL(policy‖·) before, and of the weighted update", kl, "kl_effective", width)
    parts.append(_frontier(tables.bias_variance))
    parts.append(_lowest(tables.lowest_mse))
    return Group(*parts)


def _with_acceptance_below_one(acceptance: pd.DataFrame) -> pd.Series[bool]:
    """Rows of the estimators that reject something somewhere: the others have nothing to say on acceptance."""
    least = acceptance.groupby(["estimator", "denominator"])["acceptance_rate"].transform("min")
    return least < 1 - 1e-9


def _names(frame: pd.DataFrame) -> pd.Series[str]:
    """Estimators, with their denominator where the study has several."""
    if frame["denominator"].nunique() <= 1:
        return frame["estimator"]
    return frame["estimator"] + " / " + frame["denominator"]


def _by_estimator(title: str, frame: pd.DataFrame, figure: str, width: int) -> list[RenderableType]:
    """A row per environment and a column per estimator, in as many tables as `width` asks for."""
    texts = [with_error(value, error) for value, error in zip(frame[figure], frame[f"{figure}_se"], strict=True)]
    # KL and acceptance are the same for all denominators.
    shown = frame.assign(text=texts).drop_duplicates(["environment", "estimator"])
    cells = {
        str(name): dict(zip(rows["environment"], rows["text"], strict=True))
        for name, rows in shown.groupby("estimator", sort=False)
    }
    environments = frame.drop_duplicates("environment")
    room = width - 10 - max(max(len(_condition(label)) + 2, len(_kinds(label))) for label in environments["label"])
    out: list[RenderableType] = []
    columns: list[str] = []
    for name in cells:
        needed = sum(max(len(each), *map(len, cells[each].values())) + 3 for each in [*columns, name])
        if columns and needed > room:
            out.append(_grid(title, environments, {each: cells[each] for each in columns}))
            title, columns = f"{title.removesuffix(', more')}, more", []
        columns.append(name)
    return [*out, _grid(title, environments, {each: cells[each] for each in columns})]


def _grid(title: str, environments: pd.DataFrame, cells: dict[str, dict[str, str]]) -> Table:
    table = _table(title)
    for heading in ("KL before", *cells):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    rows = zip(environments["environment"], environments["label"], environments["kl_before"], strict=True)
    _fill(table, [(label, [f"{kl:.3g}", *(each[name] for each in cells.values())]) for name, label, kl in rows])
    return table


def _frontier(frame: pd.DataFrame) -> Table:
    table = _table("Bias-variance frontier: estimators that no other beats in both")
    table.add_column("estimator (bias, variance; chance of being on the frontier where below 0.99)")
    rows = []
    for _, group in frame.assign(name=_names(frame)).groupby("environment", sort=False):
        on = group[group["on_frontier"]].sort_values(["bias", "variance"])
        found = zip(on["name"], on["bias"], on["variance"], on["probability"], strict=True)
        told = [
            f"{name} ({_plain(bias)}, {_plain(variance)}{_doubt('; ', chance)})"
            for name, bias, variance, chance in found
        ]
        rows.append((group["label"].iloc[0], [", ".join(told) or "none is defined"]))
    _fill(table, rows)
    return table


def _lowest(frame: pd.DataFrame) -> Table:
    table = _table("Lowest MSE at n proposals per state")
    table.add_column("n: estimator (bootstrap probability that it is the lowest, where below 0.99)")
    rows = []
    for _, group in frame.assign(name=_names(frame)).groupby("environment", sort=False):
        runs: list[tuple[str, list[int], float]] = []
        for n, at in group.groupby("n_samples", sort=True):
            best = at[at["lowest"]]
            name = " = ".join(best["name"]) or "none is defined"
            chance = float(best["probability"].max()) if len(best) else 1.0
            if runs and runs[-1][0] == name:
                runs[-1] = (name, [*runs[-1][1], int(str(n))], min(runs[-1][2], chance))
            else:
                runs.append((name, [int(str(n))], chance))
        told = [
            f"{counts[0]}{f'–{counts[-1]}' if len(counts) > 1 else ''}: {name}"
            + (f" ({chance:.2f})" if chance < _SURE else "")
            for name, counts, chance in runs
        ]
        rows.append((group["label"].iloc[0], ["; ".join(told)]))
    _fill(table, rows)
    return table


def _doubt(before: str, chance: float) -> str:
    return f"{before}{chance:.2f}" if chance < _SURE else ""


def _condition(label: str) -> str:
    """What tells an environment from others of its kinds."""
    return label.partition(" on ")[2].partition(" ")[2]


def _kinds(label: str) -> str:
    kind, _, rest = label.partition(" on ")
    return f"{kind} on {rest.partition(' ')[0]}"


def _fill(table: Table, rows: list[tuple[str, list[str]]]) -> None:
    """Adds rows under a heading for each kind of environment."""
    kinds = ""
    for label, texts in rows:
        if _kinds(label) != kinds:
            kinds = _kinds(label)
            table.add_row(Text(kinds, style="bold"), *[""] * len(texts))
        table.add_row(Text(f"  {_condition(label)}"), *map(Text, texts))


def _plain(value: float) -> str:
    return "0" if abs(value) < _ZERO else f"{value:.3g}"


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("environment", no_wrap=True)
    return table


def print_tables(tables: Tables, console: Console) -> None:
    """Prints the overview at the console's width."""
    console.print(overview(tables, console.width))
