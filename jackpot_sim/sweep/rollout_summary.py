"""The tables of a run of real models beside its estimators: the distance between the models, and the ways to Z."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from jackpot_sim.estimators.mismatch.summaries import OF_THE_SAMPLE, descriptions
from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.sweep import records
from jackpot_sim.sweep.labels import labels

_ON_WAYS = (
    "server-…: uses only the actor's own top-k, as a rollout server returns it; the others use both laws on both "
    "top-k. kept: mean estimate / mean Z. mean error: |estimate − Z|/Z, state by state. > 1: share of estimates above "
    "1, which no Z is. outside: share of states whose exact Z lies outside the bracket. s: the trainer's time for all "
    "tokens. Recommended for a trainer: server-calibrated (normalizer.bracket_on_topk, then normalizer.calibrated)."
)
_BRIEF = "kept of Z: mean estimate / mean Z. error: |estimate − Z|/Z. --wide explains the rest."
_ON_UNRESOLVED = (
    "unresolved: there are too few sequences, or their weights are too heavy-tailed, for an interval that covers; more "
    "rollouts may give one. No interval: the figure describes the tokens drawn alone."
)
_DETAILED = 3
"""The most environments with tables of their own; the records have all."""

_OMITTED = [
    f"{name}_{how}"
    for name in ("kl_actor_policy", "total_variation", "overlap", "overlap_low", "overlap_high", "overlap_sampled")
    for how in ("median", "trimmed")
]
"""Robust companions of figures that seldom need them: they are in the records alone."""

_REWARDS = {
    "reward_actor": "mean reward of the actor's rollouts",
    "reward_policy": "mean reward of the policy's own",
}


def rollout_tables(root: Path) -> list[FittedTable]:
    """The tables of diagnostics and of normalisers of a run, if it has them; several environments side by side."""
    diagnostics, ways = (records.load(root, name) for name in ("diagnostics", "normalizers"))
    out = []
    if diagnostics["environment"].nunique() > 1:
        out.append(_side_by_side(diagnostics, ways))
    for frame, table_of in ((diagnostics, _diagnostics), (ways, _normalizers)):
        if 0 < frame["environment"].nunique() <= _DETAILED:
            by_name = labels(list(frame["environment"].unique()))
            out += [table_of(rows, by_name[str(key)]) for key, rows in frame.groupby("environment", sort=False)]
    return out


def _diagnostics(rows: pd.DataFrame, label: str) -> FittedTable:
    table = FittedTable(
        f"{label}: the mismatch, from the actor's rollouts (95 % intervals over sequences)",
        ["figure"],
        {"value": 0, "low": 1, "high": 2},
        prose="meaning",
        caption=f"p: the policy, q: the actor, r = p/q and ℓ = log r at the tokens drawn. {_ON_UNRESOLVED}",
        brief="p: policy, q: actor, ℓ = log p/q. unresolved: too few sequences. --wide: more.",
    )
    explained = descriptions() | _REWARDS
    for figure, group in rows[~rows["figure"].isin(_OMITTED)].groupby("figure", sort=False):
        value, low, high = mean_interval(group)
        ends = (f"{low:.3g}", f"{high:.3g}")
        if math.isnan(low):
            ends = ("", "") if figure in OF_THE_SAMPLE else ("unresolved", "")
        table.add_row([str(figure)], (f"{value:.3g}", *ends), explained[str(figure)])
    return table


def mean_interval(rows: pd.DataFrame) -> tuple[float, float, float]:
    """The mean over seeds of a figure, and the ends of its interval, whose distances add up in squares.

    The ends are nan where those of a seed are.
    """
    value = float(rows["value"].mean())
    if not math.isfinite(value):
        return value, value, value
    below, above = (np.sqrt(((rows["value"] - rows[end]) ** 2).sum(skipna=False)) for end in ("low", "high"))
    return value, value - float(below) / len(rows), value + float(above) / len(rows)


_COMPARED = {
    "kl_policy_actor": "KL(p‖q)",
    "kl_actor_policy": "KL(q‖p)",
    "overlap": "Z(1)",
    "k3": "k3",
    "chi_square_token": "χ²",
    "ess_fraction_token": "ESS, tokens",
    "ess_fraction_sequence": "ESS, sequences",
    "reward_policy": "reward of p",
    "reward_actor": "of q",
}
"""The figures by which environments are compared, with their headings."""


def _side_by_side(diagnostics: pd.DataFrame, ways: pd.DataFrame) -> FittedTable:
    k = int(ways["k"].max()) if len(ways) else 0
    headings = [*_COMPARED.values(), *([f"error of Z, k={k}"] if k else [])]
    table = FittedTable(
        "The environments side by side, the nearest first (all figures: the tables of diagnostics)",
        ["environment"],
        {heading: rank for rank, heading in enumerate(headings)},
    )
    by_name = labels(list(diagnostics["environment"].unique()))
    means = diagnostics.pivot_table(index="environment", columns="figure", values="value", sort=False)
    means = _with_sampled(means)
    for environment, row in means.sort_values("kl_actor_policy").iterrows():
        cells = [_compared(row, name) for name in _COMPARED]
        if k:
            chosen = (ways["environment"] == environment) & (ways["way"] == "server-calibrated") & (ways["k"] == k)
            cells.append(f"{ways[chosen]['error'].mean():.2%}")
        table.add_row([by_name[str(environment)]], cells)
    return table


def _with_sampled(means: pd.DataFrame) -> pd.DataFrame:
    """The figures of environments, with k3 as KL(q‖p) where the actor shows its top-k alone."""
    given = {name: means.get(name, pd.Series(math.nan, index=means.index)) for name in ("kl_actor_policy", "k3")}
    return means.assign(kl_actor_policy=given["kl_actor_policy"].fillna(given["k3"]))


def _compared(row: pd.Series, name: str) -> str:
    """A figure; of an actor that shows its top-k alone the bracket of Z, or what was sampled."""
    value, low = row.get(name, math.nan), row.get("overlap_low", math.nan)
    if name == "overlap" and math.isnan(value):
        sampled = row.get("overlap_sampled", math.nan)
        bracket = "" if math.isnan(low) else f" in {low:.3g} to {row['overlap_high']:.3g}"
        return "" if math.isnan(sampled) else f"{sampled:.3g} sampled{bracket}"
    if math.isnan(value):
        return ""
    sampled_kl = name == "kl_actor_policy" and not math.isnan(row.get("overlap_sampled", math.nan))
    return f"{value:.3g}{' sampled' if sampled_kl else ''}"


_WAYS = {"kept of Z": 1, "mean error": 0, "worst": 2, "> 1": 4, "outside": 5, "bytes a token": 6, "s": 3}
"""The figures of the ways to Z, by their headings, with their ranks: the last are left out where room is short."""


def _normalizers(rows: pd.DataFrame, label: str) -> FittedTable:
    first = rows[(rows["way"] == rows["way"].iloc[0]) & (rows["k"] == rows["k"].iloc[0])]
    tokens, overlap = int(first["tokens"].sum()), first["overlap"].mean()
    title = f"{label}: ways to Z(λ={rows['lam'].iloc[0]:g}) = {overlap:.4f} at {tokens:,} tokens"
    table = FittedTable(title, ["way", "k"], _WAYS, caption=_ON_WAYS, brief=_BRIEF)
    for (way, k), group in rows.groupby(["way", "k"], sort=False):
        mean = group.mean(numeric_only=True)
        figures = (
            f"{mean['kept']:.4f}",
            f"{mean['error']:.2%}",
            f"{group['error_max'].max():.1%}",
            f"{mean['above_one']:.1%}",
            "" if math.isnan(mean["outside"]) else f"{mean['outside']:.1%}",
            f"{mean['bytes_per_token']:.0f}",
            f"{mean['seconds']:.2g}",
        )
        table.add_row([str(way), str(k)], figures)
    return table
