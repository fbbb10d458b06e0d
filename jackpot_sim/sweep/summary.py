"""What a run prints when it ends: medians over its cells, per environment and estimator."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.table import Table

_COLUMNS = {
    "acceptance_rate": "accept",
    "kl_accepted": "KL acc.",
    "kl_effective": "KL eff.",
    "bias": "bias",
    "variance": "variance",
    "mse": "MSE",
}


def tables(records: pd.DataFrame) -> list[Table]:
    """One table per environment kind; the least median MSE is marked."""
    return [_table(str(kind), rows) for kind, rows in records.groupby("env_kind", sort=False)]


def _table(kind: str, rows: pd.DataFrame) -> Table:
    bases = ", ".join(sorted(set(rows["base_kind"])))
    n_samples = ", ".join(str(n) for n in sorted(set(rows["n_samples"])))
    distance = rows["kl_policy_actor"].median()
    table = Table(
        title=f"{kind} on {bases}: KL before {distance:.3g}, {n_samples} samples a state, "
        f"medians of {rows['cell'].nunique()} cells",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    keys = ["estimator", "denominator", "method"]
    shown = [key for key in keys if key == "estimator" or rows[key].nunique() > 1]
    for key in shown:
        table.add_column(key, overflow="fold")  # names give way before figures do
    for heading in _COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    medians = rows.groupby(keys, sort=False)[list(_COLUMNS)].median().reset_index()
    least = medians["mse"].min()
    for row in medians.to_dict("records"):
        best = row["mse"] == least
        cells = [str(row[key]) for key in shown] + [f"{row[name]:.3g}" for name in _COLUMNS]
        table.add_row(*cells[:-1], cells[-1] + ("*" if best else " "), style="bold" if best else None)
    return table
