"""The tables that a study prints: its outcomes by setting and method, and its runs before any is trained."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from jackpot_sim.studies.tables import FittedTable
from jackpot_sim.training.loop import checkpoints
from jackpot_sim.training.loop.run import POLICY
from jackpot_sim.training.records import ENDS
from jackpot_sim.training.study import Study, name_of_run

LAST = 20
"""The number of steps at the end over which the last figures are means."""
_NAMED = 4
"""The most runs that a sentence names."""


def outcomes_table(name: str, steps: pd.DataFrame, outcomes: pd.DataFrame) -> FittedTable:
    """Accuracy and KL of every setting and method, means over seeds ± their standard error where there are several.

    Args:
        name: the study's.
        steps: the rows of all steps; of records of other versions, which may lack some figures, too.
        outcomes: the rows of all runs, which are shown in their order.
    """
    table = FittedTable(
        f"{name}: {over_seeds(outcomes['seed'].nunique())}",
        ["setting", "method", "ended"],
        {"best acc.": 0, "last acc.": 1, "Mean@k": 3, "Pass@k": 4, "KL(p‖q)": 2},
        caption=f"acc.: share of held-out problems solved. KL(p‖q): nats a token, last {LAST} steps.",
    )
    late = steps[steps["step"] >= steps.groupby(["setting", "method", "seed"])["step"].transform("max") - LAST]
    keys, shown = ["setting", "method", "seed"], ["mean_at_k", "pass_at_k", "kl_policy_actor"]
    per_seed = late.reindex(columns=[*keys, *shown]).groupby(keys)[shown].mean()
    for (setting, method), mine in outcomes.groupby(["setting", "method"], sort=False):
        last = per_seed.xs((setting, method), level=("setting", "method"))
        shares = [mine["best_accuracy"], mine["last_accuracy"], last["mean_at_k"], last["pass_at_k"]]
        figures = [mean_and_error(each).replace(" ", "") for each in shares]
        table.add_row([str(setting), str(method), ended(mine)], [*figures, _kl(last["kl_policy_actor"])])
    return table


def _kl(values: pd.Series[float]) -> str:
    """A mean over seeds, with its standard error unless it is too small to matter."""
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return "-"
    mean = float(known.mean())
    error = "" if len(known) < 2 or mean < 1e-3 else f"±{float(known.std(ddof=1)) / math.sqrt(len(known)):.1g}"
    return f"{mean:.2g}{error}"


def over_seeds(count: int) -> str:
    """The seeds behind the figures of a table, in words.

    >>> over_seeds(1), over_seeds(3)
    ('1 seed', 'means over 3 seeds ± standard error')
    """
    return "1 seed" if count == 1 else f"means over {count} seeds ± standard error"


def mean_and_error(values: pd.Series[float]) -> str:
    """The mean over seeds, with its standard error where there are two at least."""
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return "-"
    error = f" ± {np.std(known, ddof=1) / np.sqrt(len(known)):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{error}"


def divergences(root: Path, outcomes: pd.DataFrame) -> list[str]:
    """A sentence for each run that diverged: its step, its reason, and the checkpoint that is kept.

    Args:
        root: the folder of the study.
        outcomes: the outcomes of its runs.
    """
    return [
        f"{run} stopped at {reason}; {_kept(root / 'runs' / run)}"
        for run, reason in zip(_ids(outcomes), map(str, outcomes["ended"]), strict=True)
        if reason not in ENDS
    ]


def _ids(outcomes: pd.DataFrame) -> list[str]:
    """The name of each run."""
    return [name_of_run(*run) for run in outcomes[["setting", "method", "seed"]].values]


def policies(root: Path, outcomes: pd.DataFrame) -> str:
    """The sentences that say where the trained policies of a study in `root` are, and of which runs there is none."""
    folders = {run: root / "runs" / run / POLICY for run in _ids(outcomes)}
    there = [folder for folder in folders.values() if folder.is_dir()]
    why = "diverged, trained with --no-keep-policies, or known by its records alone"
    if not there:
        return f"No trained policy is kept: {why}."
    kib = sum(file.stat().st_size for folder in there for file in folder.iterdir()) / 2**10
    size = f"{kib:,.0f} KiB" if kib < 2**10 else f"{kib / 2**10:,.0f} MiB"
    where = there[0] if len(folders) == 1 else root / "runs" / "*" / POLICY
    gone = [name for name, folder in folders.items() if folder not in there]
    named = ", ".join(gone) if len(gone) <= _NAMED else f"{len(gone)} of {len(folders)} runs"
    lost = f" No policy is kept of {named}: {why}." if gone else ""
    return f"Trained policies: {where} ({size} in all), as save_pretrained writes them.{lost}"


def _kept(folder: Path) -> str:
    path = checkpoints.latest(folder)
    return "no checkpoint is left" if path is None else f"its last good checkpoint is {path}"


def ended(outcomes: pd.DataFrame) -> str:
    """The ends of the runs, in words; a policy with accuracy 0 throughout counts as never right, not as collapsed."""
    wrong = int((outcomes["best_accuracy"] == 0).sum())
    collapsed = outcomes["collapsed_at"].dropna().to_numpy(dtype=np.float64)
    diverged = int((~outcomes["ended"].isin(ENDS)).sum())
    parts = [f"{wrong} of {len(outcomes)} never right"] if wrong else []
    if len(collapsed):
        parts.append(f"{len(collapsed)} of {len(outcomes)} collapsed, at step {np.median(collapsed):.0f}")
    if diverged:
        parts.append(f"{diverged} diverged")
    return ", ".join(parts) or "not collapsed"


def runs_table(study: Study) -> FittedTable:
    """The runs of a study before any is trained."""
    table = FittedTable(
        f"{study.name}: config {study.config_hash}",
        ["setting", "method", "actor", "correction"],
        {"steps": 0, "updates a step": 2, "runs": 1},
        recorded=False,
    )
    for setting, methods in study.grid.items():
        for method, training in methods.items():
            updates = training.update.minibatches * training.update.epochs
            named = (setting, method, training.actor.kind, training.correction.label)
            table.add_row(named, (str(training.steps), str(updates), str(len(study.seeds))))
    return table
