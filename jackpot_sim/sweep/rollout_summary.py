"""What a run of real models prints beside its estimators: how far apart the models are, and the ways to Z."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from jackpot_sim.estimators.mismatch.summaries import descriptions
from jackpot_sim.sweep import records
from jackpot_sim.sweep.labels import labels

_ON_WAYS = (
    "server-: of the actor only its own top-k is known, which is what a rollout stores; the others know both laws on "
    "both top-k. kept: mean estimate / mean Z. mean error: |estimate − Z|/Z, state by state. > 1: estimates that no Z "
    "can have. outside: exact Z outside the bracket. s: the trainer's time for all tokens. What a trainer can do and "
    "should: server-calibrated (normalizer.bracket_on_topk, then normalizer.calibrated)."
)
_DETAILED = 3
"""Up to so many environments are told of here; of more, the records tell."""


_UNTOLD = [
    f"{name}_{how}" for name in ("kl_actor_policy", "total_variation", "overlap") for how in ("median", "trimmed")
]
"""Robust companions of what seldom needs them: they are in the records."""


_REWARDS = {
    "reward_actor": "mean reward of the actor's rollouts",
    "reward_policy": "mean reward of the policy's own",
}


def rollout_tables(root: Path) -> list[Table]:
    """The tables of diagnostics and of normalisers of a run, if it has them; several environments side by side."""
    found = {name: records.load(root, name) for name in ("diagnostics", "normalizers")}
    makers = {"diagnostics": _diagnostics, "normalizers": _normalizers}
    out = []
    if found["diagnostics"]["environment"].nunique() > 1:
        out.append(_side_by_side(found["diagnostics"], found["normalizers"]))
    for name, frame in found.items():
        if 0 < frame["environment"].nunique() <= _DETAILED:
            named = labels(list(frame["environment"].unique()))
            out += [makers[name](rows, named[str(key)]) for key, rows in frame.groupby("environment", sort=False)]
    return out


def _diagnostics(rows: pd.DataFrame, label: str) -> Table:
    table = _table(
        f"{label}: what the actor's rollouts say of the mismatch (95 % intervals over sequences)",
        "p: the policy, q: the actor, r = p/q and ℓ = log r at the tokens drawn.",
    )
    for heading in ("figure", "value", "low", "high"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    explained = descriptions() | _REWARDS
    for figure, group in rows[~rows["figure"].isin(_UNTOLD)].groupby("figure", sort=False):
        mean = group[["value", "low", "high"]].mean()
        table.add_row(str(figure), *(f"{mean[name]:.3g}" for name in mean.index), explained[str(figure)])
    return table


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
"""What is told of environments beside each other."""


def _side_by_side(diagnostics: pd.DataFrame, ways: pd.DataFrame) -> Table:
    table = _table("The environments side by side, the nearest first (all figures: the tables of diagnostics)")
    k = int(ways["k"].max()) if len(ways) else 0
    for heading in ("environment", *_COMPARED.values(), *([f"error of Z, k={k}"] if k else [])):
        table.add_column(heading, justify="left" if heading == "environment" else "right", overflow="fold")
    named = labels(list(diagnostics["environment"].unique()))
    means = diagnostics.pivot_table(index="environment", columns="figure", values="value", sort=False)
    for environment, row in means.sort_values("kl_actor_policy").iterrows():
        cells = [f"{row[name]:.3g}" if name in row else "" for name in _COMPARED]
        if k:
            chosen = (ways["environment"] == environment) & (ways["way"] == "server-calibrated") & (ways["k"] == k)
            cells.append(f"{ways[chosen]['error'].mean():.2%}")
        table.add_row(named[str(environment)], *cells)
    return table


def _normalizers(rows: pd.DataFrame, label: str) -> Table:
    first = rows[(rows["way"] == rows["way"].iloc[0]) & (rows["k"] == rows["k"].iloc[0])]
    tokens, overlap = int(first["tokens"].sum()), first["overlap"].mean()
    table = _table(f"{label}: ways to Z(λ={rows['lam'].iloc[0]:g}) = {overlap:.4f} at {tokens:,} tokens", _ON_WAYS)
    for heading in ("way", "k", "kept of Z", "mean error", "worst", "> 1", "outside", "bytes a token", "s"):
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for (way, k), group in rows.groupby(["way", "k"], sort=False):
        mean = group.mean(numeric_only=True)
        table.add_row(
            str(way),
            str(k),
            f"{mean['kept']:.4f}",
            f"{mean['error']:.2%}",
            f"{group['error_max'].max():.1%}",
            f"{mean['above_one']:.1%}",
            "" if math.isnan(mean["outside"]) else f"{mean['outside']:.1%}",
            f"{mean['bytes_per_token']:.0f}",
            f"{mean['seconds']:.2g}",
        )
    return table


def _table(title: str, caption: str = "") -> Table:
    return Table(
        title=Text(title, no_wrap=True, overflow="ignore"),  # not cut to the width of what is below it
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
