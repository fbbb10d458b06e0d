"""The tables that a study prints: its outcomes by setting and method, and its runs before any is trained."""

from __future__ import annotations

import numpy as np
import pandas as pd
from rich.table import Table

from jackpot_sim.training.study import Study

LAST = 20
"""The number of steps at the end over which the last figures are means."""


def outcomes_table(study: Study, steps: pd.DataFrame, outcomes: pd.DataFrame) -> Table:
    """Accuracy and KL of every setting and method, means over seeds ± their standard error."""
    table = Table(title=f"{study.name}: means over {len(study.seeds)} seeds ± standard error", title_justify="left")
    for heading in ("setting", "method", "best accuracy", "last accuracy", "Mean@k", "Pass@k", "last KL(p‖q)", "ended"):
        table.add_column(heading, justify="left" if heading in ("setting", "method", "ended") else "right")
    late = steps[steps["step"] >= steps.groupby(["setting", "method", "seed"])["step"].transform("max") - LAST]
    per_seed = late.groupby(["setting", "method", "seed"])[["mean_at_k", "pass_at_k", "kl_policy_actor"]].mean()
    for setting, methods in study.grid.items():
        for method in methods:
            mine = outcomes[(outcomes["setting"] == setting) & (outcomes["method"] == method)]
            last = per_seed.xs((setting, method), level=("setting", "method"))
            figures = [mine["best_accuracy"], mine["last_accuracy"]]
            figures += [last["mean_at_k"], last["pass_at_k"], last["kl_policy_actor"]]
            table.add_row(
                setting,
                method,
                *(mean_and_error(figure) for figure in figures),
                _ended(mine),
            )
    return table


def mean_and_error(values: pd.Series[float]) -> str:
    """The mean over seeds, with its standard error where there are two at least."""
    known = values.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return "-"
    error = f" ± {np.std(known, ddof=1) / np.sqrt(len(known)):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{error}"


def _ended(outcomes: pd.DataFrame) -> str:
    """The ends of the runs, in words; a policy with accuracy 0 throughout counts as never right, not as collapsed."""
    wrong = int((outcomes["best_accuracy"] == 0).sum())
    collapsed = outcomes["collapsed_at"].dropna().to_numpy(dtype=np.float64)
    diverged = int((~outcomes["ended"].isin(["finished", "collapsed"])).sum())
    parts = [f"{wrong} of {len(outcomes)} never right"] if wrong else []
    if len(collapsed):
        parts.append(f"{len(collapsed)} of {len(outcomes)} collapsed, at step {np.median(collapsed):.0f}")
    if diverged:
        parts.append(f"{diverged} diverged")
    return ", ".join(parts) or "not collapsed"


def runs_table(study: Study) -> Table:
    """The runs of a study before any is trained."""
    table = Table(title=f"{study.name}: config {study.config_hash}", title_justify="left")
    for heading in ("setting", "method", "actor", "correction", "steps", "updates a step", "runs"):
        table.add_column(heading, justify="right" if heading in ("steps", "updates a step", "runs") else "left")
    for setting, methods in study.grid.items():
        for method, training in methods.items():
            updates = training.update.minibatches * training.update.epochs
            names = (setting, method, training.actor.kind, training.correction.label)
            table.add_row(*names, str(training.steps), str(updates), str(len(study.seeds)))
    return table
