"""The tables that a run prints when it ends: means over seeds, never over environments."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from jackpot_sim.environments.worlds import World
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep.labels import kinds_of, settings
from jackpot_sim.sweep.resolved import FEW, KEYS, OF_GRADIENT, lost, of, thin
from jackpot_sim.sweep.worse import APART, worse

_DETAILED = 6
"""The most environments that get a table each; more of them get a line each with the best estimators."""

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

ON_MSE = (
    "MSE: squared error of the update over the squared true gradient; no update at all has 1. A smaller update has "
    "less variance, so that the MSE rewards shrinking it; rescaled, the MSE of the update's best multiple, does not."
)
ON_KLS = (
    "KL acc. and KL eff.: KL(policy‖·) of the accepted tokens and of the law that the weighted update samples; inf "
    "where a token of the policy is out of reach, nan where some state accepts nothing."
)
_ON_GRADIENT = (
    "gain: the share of the gradient that is left. var.: variance of one proposal, over that of one of the policy's "
    "own. *: the least of its column, where it lies more than {:g} standard errors below all others and ties with "
    "none. worse: the MSE over the least one of the table; tie: not told apart from it, exact figures by their "
    "scatter over seeds."
)
_ON_THIN = (
    f"?: the weights leave fewer than {FEW} effective rollouts (or tokens), so that the rollouts that carry the "
    "expectation may never have been drawn: the figure is not resolved, however small its scatter."
)
_ON_NOISE = (
    "The true gradient is lost in its noise, so that bias, gain and MSE, which are in units of it, are left out: {}. "
    "More n_samples or replicates are more rollouts; a reward that differs more among them helps too."
)
_ON_MONTE_CARLO = "monte_carlo: ± one standard error."
_ON_BIAS = "A bias is nan where the unbiased estimate of its square is negative."
_ON_TOO_MANY = (
    "Some environments have too many sequences to enumerate within memory_limit_gib; theirs were drawn. A smaller "
    "vocab or length gives exact figures."
)
_ON_REAL_MODELS = (
    "Real models: figures at the states that the actor visited are exact there, and ± is the standard error of their "
    "mean over rollouts. KL before belongs to the tokens that the policy writes; KL acc. and KL eff. are means over "
    "the actor's states, nan for corrections of whole sequences. weights: the time for masks and weights of all of the "
    "actor's tokens, Z given."
)
_ON_TOPK = (
    "Top-k actors show their likeliest tokens alone, as servers do. accept is sampled at the tokens drawn; bracket: "
    "the acceptance rate of a rejection at the visited states lies between these ends, whatever the actor's rest. "
    "KL before is KL(actor‖policy), sampled. Z in weights is the point of its bracket that the tokens of each "
    "update point to. KL acc. and KL eff. take whole laws and are left out."
)
_ON_SEQUENCES = (
    "Sequences: KL before is per token, and KL acc. and KL eff. compare visits to (prefix, token); KL prefix is the "
    "part that is due to the actor choosing the prefixes. Monte Carlo does not give them for corrections of whole "
    "sequences (nan)."
)


def legend(records: pd.DataFrame) -> str:
    """The meaning of the tables' words."""
    asked, measured = _has_gradients(records), _has_updates(records)
    sentences = [ON_MSE] * measured
    small, real = (of(records, world) for world in (World.SEQUENCES, World.ROLLOUTS))
    if records["environment"].nunique() <= _DETAILED:
        sequences, rollouts = [_ON_SEQUENCES] * (len(small) > 0), [_ON_REAL_MODELS] * (len(real) > 0)
        rollouts += [_ON_TOPK] * _shows_topk(real)
        sentences = [ON_KLS, *[_ON_GRADIENT.format(APART)] * asked, *sequences, *rollouts, *sentences]
    if (records["method"] == "monte_carlo").any():
        sentences += [_ON_MONTE_CARLO, *[_ON_BIAS] * measured]
    else:
        sentences.append("All figures are exact for their states; `jackpot-sim analysis` gives their uncertainty.")
    if small["prefix_total_variation"].isna().any():  # known wherever sequences are enumerated
        sentences.append(_ON_TOO_MANY)
    if asked and thin(records):
        sentences.append(_ON_THIN)
    if records["environment"].nunique() > _DETAILED and (clauses := lost(records)):
        sentences.append(f"{'lost: ' * measured}{_ON_NOISE.format('; '.join(clauses))}")
    return " ".join(sentences)


def _shows_topk(rows: pd.DataFrame) -> bool:
    """True if the actor of some rows shows its likeliest tokens alone."""
    return bool((rows["laws"] == "top-k").any())


def _has_gradients(rows: pd.DataFrame) -> bool:
    """True unless gradients were not asked for: then no estimator has a figure of them."""
    return bool(rows[[*OF_GRADIENT, "variance", "grad_norm_sq"]].notna().to_numpy().any())


def _has_updates(rows: pd.DataFrame) -> bool:
    """True where the true gradient of some environment stands out, so that figures in units of it mean something."""
    return _has_gradients(rows) and not all(lost(each) for _, each in rows.groupby("environment"))


def tables(records: pd.DataFrame) -> list[FittedTable | Table]:
    """A table for each environment, or for many environments one table of the best estimators."""
    exact = records[records["method"] == "exact"]
    environments = [rows for _, rows in records.groupby("environment", sort=False)]
    if len(environments) <= _DETAILED:
        return [_detail(rows, records) for rows in environments]
    return [_overview(records if exact.empty else exact)]


def describe(rows: pd.DataFrame, records: pd.DataFrame) -> tuple[str, str, str]:
    """An environment's name among those of the records, its knob, and its KL, with the target where that was missed."""
    first = rows.iloc[0]
    knob = f"{first['knob_name']}={rows['knob'].mean():.3g}"
    distance = f"{rows['kl_policy_actor'].mean():.3g}"
    if _shows_topk(rows):
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
        caption=_ON_NOISE.format("; ".join(clauses)) if (clauses := lost(rows)) else "",
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
    if _shows_topk(rows):
        left_out |= {"kl_accepted", "kl_effective"}
    if not _has_gradients(rows):
        left_out |= {*OF_GRADIENT, "variance"}
    elif not _has_updates(rows):
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


def _overview(records: pd.DataFrame) -> Table:
    samples, seeds = records["n_samples"].iloc[0], records["seed"].nunique()
    over = "1 seed" if seeds == 1 else f"means over {seeds} seeds"
    table = Table(
        title=f"Which estimator is best at {samples} samples a state or prompt ({over})",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    winning = {"mse": "lowest MSE", "mse_rescaled": "lowest rescaled MSE"} if _has_updates(records) else {}
    for heading in ("environment", "knob", "KL before", *winning.values()):
        table.add_column(heading, overflow="fold")
    for _, rows in records.groupby("environment", sort=False):
        resolved, is_lost = _without(means_of(rows), thin(rows)), bool(lost(rows))
        winners = ("lost" if is_lost else _winner(resolved, column) for column in winning)
        table.add_row(*describe(rows, records), *winners)
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


def _winner(means: pd.DataFrame, column: str) -> str:
    """The estimator whose figure is least, with the number of ties; `no update` where that is better."""
    least = means[column].min()
    if math.isnan(least):
        return "undefined"
    if column == "mse" and least >= 1:
        return f"no update (the least is {least:.3g})"
    first, *others = means[means[column] <= least * (1 + _TIE)].to_dict("records")
    name = str(first["estimator"])
    if means["denominator"].nunique() > 1:
        name += f" / {first['denominator']}"
    if rivals := _rivals(means, column):
        return f"tie of {1 + len(others) + rivals} within the noise; least: {name} {least:.3g}"
    return f"{name}{f' and {len(others)} more' if others else ''}: {least:.3g}"
