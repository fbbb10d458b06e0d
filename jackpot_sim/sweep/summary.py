"""The tables that a run prints when it ends: means over seeds, never over environments."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd

from jackpot_sim.environments.worlds import World
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep.labels import kinds_of, settings
from jackpot_sim.sweep.legends import DETAILED, NOISE, has_gradients, has_updates, shows_topk
from jackpot_sim.sweep.resolved import KEYS, OF_GRADIENT, lost, of, thin
from jackpot_sim.sweep.worse import APART, worse

NONE = "none"
"""The estimator that leaves the actor's tokens as they are."""
_TIE = 1e-9
ROUNDING = 1e-12
"""The size below which a figure is 0 but for rounding."""

_COLUMNS = {
    "acceptance_rate": ("accept", 2),
    "kl_accepted": ("KL acc.", 7),
    "kl_effective": ("KL eff.", 3),
    "kl_prefix": ("KL prefix", 8),
    "bias": ("bias", 4),
    "gain": ("gain", 6),
    "variance": ("var.", 5),
    "mse": ("MSE", 0),
    "mse_rescaled": ("rescaled", 1),
}
"""The figures of a table, each with its heading and its rank: where room is short, the last ranks are left out."""
_WORSE = "worse", 9
_WEIGHTS = "weights", 10
_BRACKET = "bracket", 3
"""The acceptance rate of a rejection where the actor shows its top-k alone; it has the rank of `KL eff.`, not there."""


def tables(records: pd.DataFrame) -> list[FittedTable]:
    """A table for each environment, or for many environments one table of the best estimators."""
    exact = records[records["method"] == "exact"]
    environments = [rows for _, rows in records.groupby("environment", sort=False)]
    if len(environments) <= DETAILED:
        return [_detail(rows, records) for rows in environments]
    return [_overview(records if exact.empty else exact)]


def describe(rows: pd.DataFrame, records: pd.DataFrame) -> tuple[str, str, str]:
    """An environment's name among those of the records, its knob, and its KL, with the target where that was missed."""
    first = rows.iloc[0]
    knob = f"{first['knob_name']}={rows['knob'].mean():.3g}"
    distance = f"{rows['kl_policy_actor'].mean():.3g}"
    if shows_topk(rows):
        distance = f"(actor‖policy, sampled) {rows['kl_actor_policy'].mean():.3g}"
    target, achieved = first["target_kl"], rows["achieved_kl"].mean()
    if not math.isnan(target) and abs(achieved / target - 1) > 0.01:
        distance += f" (nearest to {target:g})"
    if first["target_divergence"] == "kl_actor_policy":
        distance += f", reverse {achieved:.3g}"
    others = settings(list(records["environment"].unique()), first["knob_name"])[first["environment"]]
    return ", ".join([kinds_of(first["env_kind"], first["base_kind"]), *others]), knob, distance


def _detail(rows: pd.DataFrame, records: pd.DataFrame) -> FittedTable:
    name, knob, distance = describe(rows, records)
    means = means_of(rows)
    keys = [key for key in KEYS if key == "estimator" or rows[key].nunique() > 1]
    columns = _columns_of(rows, means)
    timed, compared = rows["weight_seconds"].notna().any(), "mse" in columns
    bracketed = bool(rows["acceptance_low"].notna().any())
    table = FittedTable(
        f"{name}, {knob}: KL before {distance}; {rows['n_samples'].iloc[0]} samples a {_state(rows)}, "
        f"{_updates(rows)}{_count(rows['seed'].nunique(), 'seed')}",
        keys,
        dict(
            [
                *(_COLUMNS[column] for column in columns),
                *[_BRACKET] * bracketed,
                *[_WORSE] * compared,
                *[_WEIGHTS] * bool(timed),
            ]
        ),
        caption=NOISE.format("; ".join(clauses)) if (clauses := lost(rows)) else "",
    )
    unresolved = thin(rows)
    resolved = _without(means, unresolved)
    ranked = resolved[resolved["method"] == means["method"].iloc[0]]  # a noisy row does not beat its own exact twin
    least = {column: _standing_out(ranked, column) for column in ("mse", "mse_rescaled")}
    for column in least:
        above = ranked[column] > ranked[column].min() * (1 + _TIE)
        if any(np.array(worse(rows, ranked, KEYS, column), dtype=object)[above] == "tie"):
            least[column] = math.nan
    ratios = dict(zip(map(_key, resolved.to_dict("records")), worse(rows, resolved, KEYS), strict=True))
    for row in means.to_dict("records"):
        cells = []
        is_thin = _key(row) in unresolved
        for column in columns:
            value = 0.0 if abs(row[column]) < ROUNDING else row[column]
            shown_value = f"{value:.2g}" if column.startswith("kl") else f"{value:.3g}"
            error = f"±{row[f'{column}_se']:.1g}" if row[f"{column}_se"] > ROUNDING else ""
            if is_thin and column in (*OF_GRADIENT, "variance"):
                error = "?"
            star = "*" if column in least and not is_thin and row[column] <= least[column] * (1 + _TIE) else ""
            cells.append(f"{shown_value}{error}{star}")
        if bracketed:
            low, high = row["acceptance_low"], row["acceptance_high"]
            cells.append("" if math.isnan(low) else f"{low:.3g} to {high:.3g}")
        if compared:
            cells.append(ratios.get(_key(row), "?"))
        if timed:
            cells.append(f"{1e3 * row['weight_seconds']:.2g} ms")
        table.add_row([str(row[key]) for key in keys], cells)
    return table


def _columns_of(rows: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    """The figures that an environment can have and that were asked for."""
    # States have no prefix, and of real models the prefixes' law is not known.
    enumerated = _state(rows) == "prompt" and means["kl_prefix"].notna().any()
    left_out = {"kl_prefix"} if not enumerated else set()
    if shows_topk(rows):
        left_out |= {"kl_accepted", "kl_effective"}
    if not has_gradients(rows):
        left_out |= {*OF_GRADIENT, "variance"}
    elif not has_updates(rows):
        left_out |= {*OF_GRADIENT}
    return [column for column in _COLUMNS if column not in left_out]


def _standing_out(means: pd.DataFrame, column: str) -> float:
    """The least figure of a column; nan where the noise does not tell it from another."""
    return math.nan if _rivals(means, column) else float(means[column].min())


def _rivals(means: pd.DataFrame, column: str) -> int:
    """The number of estimators whose figure is not the least, but within the noise of it."""
    least, errors = means[column].min(), means[f"{column}_se"].fillna(0.0)
    tied = means[column] <= least * (1 + _TIE)
    noise = np.hypot(errors, errors[tied].max())
    return int((~tied & (means[column] - least <= APART * noise)).sum())


def _overview(records: pd.DataFrame) -> FittedTable:
    samples, seeds = records["n_samples"].iloc[0], records["seed"].nunique()
    over = "1 seed" if seeds == 1 else f"means over {seeds} seeds"
    updates = has_updates(records)
    uncorrected = updates and bool((records["estimator"] == NONE).any())
    figures = ["KL before", *["MSE"] * updates, *["none"] * uncorrected, "knob", *["lowest rescaled MSE"] * updates]
    table = FittedTable(
        f"Which estimator is best at {samples} samples a state or prompt ({over})",
        ["environment", *["lowest MSE"] * updates],
        {heading: rank for rank, heading in enumerate(figures)},
    )
    for _, rows in records.groupby("environment", sort=False):
        means = means_of(rows)
        resolved, unknown = _without(means, thin(rows)), ("lost", "") if lost(rows) else None
        best, least = unknown or _winner(resolved, "mse")
        cells = dict.fromkeys(figures, "")
        name, cells["knob"], cells["KL before"] = describe(rows, records)
        cells["MSE"], cells["none"] = least, f"{means.loc[means['estimator'] == NONE, 'mse'].mean():.3g}"
        cells["lowest rescaled MSE"] = " ".join(unknown or _winner(resolved, "mse_rescaled"))
        table.add_row([name, *[best] * updates], [cells[each] for each in figures])
    return table


def _updates(rows: pd.DataFrame) -> str:
    """The number of updates behind the figures of real models."""
    return "" if of(rows, World.ROLLOUTS).empty else f"{int(rows['replicates'].iloc[0])} updates, "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _state(rows: pd.DataFrame) -> str:
    """The place of a proposal."""
    return "prompt" if of(rows, World.STATES).empty else "state"


def _key(row: Mapping[Hashable, object]) -> tuple[object, ...]:
    return tuple(row[key] for key in KEYS)


def means_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The figures of each estimator by `KEYS`, means over seeds, with the standard errors of what is sampled."""
    grouped = rows.groupby(KEYS, sort=False)
    means = grouped[[*_COLUMNS, "weight_seconds", "acceptance_low", "acceptance_high"]].mean()
    for column in _COLUMNS:
        means[f"{column}_se"] = np.sqrt(grouped[f"{column}_se"].agg(_sum_of_squares)) / grouped.size()
    return means.reset_index()


def _without(means: pd.DataFrame, thin: set[tuple[str, ...]]) -> pd.DataFrame:
    """The estimators that are not among `thin`."""
    return means[[_key(row) not in thin for row in means.to_dict("records")]]


def _sum_of_squares(values: pd.Series) -> float:
    """The sum of squares; nan, not 0, where there is nothing to add."""
    return float((values**2).sum(min_count=1))


def best_of(rows: pd.DataFrame) -> tuple[str, float]:
    """The estimator with the least MSE in an environment, and its MSE; none and nan where no figure is resolved."""
    means = _without(means_of(rows), thin(rows)).dropna(subset=["mse"])
    if means.empty:
        return "", math.nan
    least = means.sort_values("mse", kind="stable").iloc[0]
    return str(least["estimator"]), float(least["mse"])


def _winner(means: pd.DataFrame, column: str) -> tuple[str, str]:
    """The estimator whose figure is least, with the number of ties, and the figure; `no update` is 1."""
    least = means[column].min()
    if math.isnan(least):
        return "undefined", ""
    if column == "mse" and least >= 1:
        return "no update", f"1 (then {least:.3g})"
    first, *others = means[means[column] <= least * (1 + _TIE)].to_dict("records")
    name = str(first["estimator"])
    if means["denominator"].nunique() > 1:
        name += f" / {first['denominator']}"
    if rivals := _rivals(means, column):
        return f"tie of {1 + len(others) + rivals} within the noise; least: {name}", f"{least:.3g}"
    return f"{name}{f' and {len(others)} more' if others else ''}", f"{least:.3g}"
