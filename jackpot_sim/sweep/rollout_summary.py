"""What a run of real models prints beside its estimators: how far apart the models are, and the ways to Z."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from jackpot_sim.estimators.clustered import descriptions
from jackpot_sim.sweep import records
from jackpot_sim.sweep.labels import labels

_DETAILED = 3
"""Up to so many environments are told of here; of more, the records tell."""


_UNTOLD = [
    f"{name}_{how}" for name in ("kl_actor_policy", "total_variation", "overlap") for how in ("median", "trimmed")
]
"""Robust companions of what seldom needs them: they are in the records."""


def rollout_tables(root: Path) -> list[Table]:
    """The tables of diagnostics and of normalisers of a run, as far as it has them."""
    found = {name: records.load(root, name) for name in ("diagnostics", "normalizers")}
    makers = {"diagnostics": _diagnostics, "normalizers": _normalizers}
    out = []
    for name, frame in found.items():
        if 0 < frame["environment"].nunique() <= _DETAILED:
            named = labels(list(frame["environment"].unique()))
            out += [makers[name](rows, named[str(key)]) for key, rows in frame.groupby("environment", sort=False)]
    return out


def _diagnostics(rows: pd.DataFrame, label: str) -> Table:
    table = _table(f"{label}: what the actor's rollouts say of the mismatch (95 % intervals over sequences)")
    for heading in ("figure", "value", "low", "high"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    explained = descriptions()
    for figure, group in rows[~rows["figure"].isin(_UNTOLD)].groupby("figure", sort=False):
        mean = group[["value", "low", "high"]].mean()
        table.add_row(str(figure), *(f"{mean[name]:.3g}" for name in mean.index), explained[str(figure)])
    return table


def _normalizers(rows: pd.DataFrame, label: str) -> Table:
    first = rows[(rows["way"] == rows["way"].iloc[0]) & (rows["k"] == rows["k"].iloc[0])]
    tokens, overlap = int(first["tokens"].sum()), first["overlap"].mean()
    table = _table(f"{label}: ways to Z(λ={rows['lam'].iloc[0]:g}) = {overlap:.4f} at {tokens:,} tokens")
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


def _table(title: str) -> Table:
    return Table(
        title=Text(title, no_wrap=True, overflow="ignore"),  # not cut to the width of what is below it
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
