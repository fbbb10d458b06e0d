"""The curves of training as the paper's figures show them, and the table beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich.table import Table

from jackpot_sim.training.summary import mean_and_error, over_seeds

from .. import analysed
from ..command import report_table
from .records import Trained
from .statistics import geometric, group, lost_in_words

ACCURACY = analysed.curves.ACCURACY
KL = analysed.curves.KL
Panel = analysed.curves.Panel
curves = analysed.curves.curves
legend = analysed.curves.legend
log_axis = analysed.curves.log_axis
name_of = analysed.curves.name_of


def tables(trained: Trained, runs: pd.DataFrame, title: str, settings: Mapping[str, str] | None = None) -> list[Table]:
    """A table for each setting: accuracies, KL at the end, runs lost.

    Args:
        trained: the study.
        runs: the figures of each run, see `statistics.per_run`.
        title: the beginning of each title.
        settings: the names of settings in titles, as the figure has them; others have that of the records.
    """
    out = []
    for setting in trained.settings:
        named = (settings or {}).get(setting, setting).replace("\n", " ")
        where = f"{title}, {named}" if len(trained.settings) > 1 else title
        title_of = f"{where}: {over_seeds(trained.seeds)}"
        shown = report_table(title_of, "method", "last accuracy", "best accuracy", "last KL", "runs lost")
        for method in trained.grid[setting]:
            mine = group(runs, setting, method)
            kl, diverged = geometric(mine["kl"]), int(mine["diverged"].sum())
            shown.add_row(
                name_of(method),
                *(mean_and_error(mine[each]) for each in ("accuracy", "best_accuracy")),
                "-" if np.isnan(kl) else f"{kl:.2g}",
                lost_in_words(mine["lost_at"]) + (f" ({diverged} diverged)" if diverged else ""),
            )
        out.append(shown)
    return out
