"""Tables from the records of `python -m jackpot_sim.diagnose`: what each correction would do to each dump."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.folders import MANIFEST
from jackpot_sim.studies.kinds import DIAGNOSIS, kind_of_folder
from jackpot_sim.studies.tables import FittedTable

TABLES = ("metrics", "corrections", "breakdowns")
_FIGURES = {"signal": 0, "ess": 1, "effective_kl_reverse": 2, "weight_max": 4, "kept": 3}
"""The figures of a correction that are printed, with their ranks where room is short."""
_BETTER = ("signal", "ess")
"""Figures that are better where they are larger; the KL is where it is smaller."""


def is_one(root: Path) -> bool:
    """True for the folder of a diagnosis."""
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and kind_of_folder(manifest) is DIAGNOSIS


def read(roots: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """The tables of some diagnoses, one below the other, with the folder of each row.

    Raises:
        StudyError: a table is missing or damaged.
    """
    return {
        name: pd.concat([_read(root, name).assign(folder=str(root)) for root in roots], ignore_index=True)
        for name in TABLES
    }


def _read(root: Path, name: str) -> pd.DataFrame:
    path = root / f"{name}.parquet"
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is missing or damaged: make the diagnosis anew with the same --out") from error


def show(roots: Sequence[Path], frames: dict[str, pd.DataFrame], output: Console) -> None:
    """Prints the verdict on each dump, its figures, and the corrections that no other beats."""
    for root in roots:
        report = _report(root)
        causes = ", ".join(each["name"] for each in report["causes"])
        output.print(
            f"{root}: {report['verdict']['state']}. {report['verdict']['sentence']}"
            f"{f'; causes: {causes}' if causes else ''}",
            soft_wrap=True,
        )
    metrics = frames["metrics"].pivot_table(index="name", columns="folder", values="value", sort=False)
    table = FittedTable("Figures of each dump", ["figure"], {str(root): at for at, root in enumerate(roots)})
    for name, row in metrics.iterrows():
        table.add_row([str(name)], [_number(row.get(str(root))) for root in roots])
    output.print(table)
    for root in roots:
        output.print(_corrections(root, frames["corrections"]))


def _report(root: Path) -> dict[str, Any]:
    path = root / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {"verdict": dict(report["verdict"]), "causes": list(report["causes"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is missing or damaged: make the diagnosis anew with the same --out") from error


def _corrections(root: Path, corrections: pd.DataFrame) -> FittedTable:
    own = corrections[(corrections["folder"] == str(root)) & corrections["refused"].isna()]
    best = own[[not _beaten(row, own) for _, row in own.iterrows()]].drop_duplicates([*_BETTER, "effective_kl_reverse"])
    headings = {name.replace("effective_kl_reverse", "KL left"): rank for name, rank in _FIGURES.items()}
    table = FittedTable(
        f"{root}: corrections that no other beats in signal kept, effective sample size and KL left",
        ["correction"],
        headings,
        caption=f"{len(best)} of {len(own)}; equal ones are named once. All are in the CSV files.",
    )
    for _, row in best.sort_values("effective_kl_reverse", kind="stable").iterrows():
        table.add_row([row["label"] or row["name"]], [_number(row[name]) for name in _FIGURES])
    return table


def _beaten(row: pd.Series[Any], others: pd.DataFrame) -> bool:
    """True for a correction that another one equals in all three figures and beats in one, or without figures."""
    figures = [*_BETTER, "effective_kl_reverse"]
    if row[figures].isna().any():
        return True
    ahead = pd.concat(
        [others[list(_BETTER)] - row[list(_BETTER)], row["effective_kl_reverse"] - others[["effective_kl_reverse"]]],
        axis=1,
    ).astype(float)
    return bool(((ahead >= 0).all(axis=1) & (ahead > 0).any(axis=1)).any())


def _number(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.3g}"
