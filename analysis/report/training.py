"""The report of a study of training: which method learns, which is lost, and what the mismatch did meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jackpot_sim.core.arrays import Floats
from jackpot_sim.estimators.mismatch.lines import STABLE
from jackpot_sim.report.folders import of_training
from jackpot_sim.training import summary
from jackpot_sim.training.loop.collapse import running_mean
from jackpot_sim.training.records import ENDS

from ..looks import Look, of_methods
from .page import Described, Plot, Run, Section, Table, View, as_yaml, number, provenance, versions
from .plots import Axis, layout, level, trace

POINTS = 12_000
"""The most points of a plot, so that a page stays small."""
_FEWEST, _MOST = 16, 150
"""The points that a line has at least and at most."""
ROUNDING = 1e-9
"""The size up to which a KL is 0 but for rounding."""
_ROWS = 6
"""The steps of the table below a plot."""


class _Panel(NamedTuple):
    """A figure over the steps."""

    column: str
    title: str
    label: str
    reading: str
    log: bool = False
    line: tuple[float, str] | None = None


_LINES = (
    "Thick lines are means over seeds of running means over 20 steps, thin lines single seeds, × a run that is lost."
)
PANELS = (
    _Panel(
        "kl_policy_actor",
        "Distance of policy and actor",
        "KL(policy‖actor), nats per token",
        f"{_LINES} A line that climbs belongs to a method that drives policy and actor apart; means are geometric, and "
        "a KL that is 0 but for rounding, as on-policy, or infinite has no place on the axis.",
        log=True,
    ),
    _Panel(
        "accuracy",
        "What the policy has learnt",
        "accuracy on held-out problems",
        f"{_LINES} Higher is better, and a line that falls for good is a collapse; a run that was stopped ends there, "
        "and the mean goes on over the seeds that are left.",
    ),
    _Panel(
        "overlap_p5",
        "Alarm: 5th percentile of the overlap",
        "5th percentile of Z = Σ min(p, q)",
        f"{_LINES} Z is 1 where policy and actor agree; training was reported stable from {STABLE:g} on (dotted), and "
        "a line below tells of a large mismatch, not of a loss that must come.",
        line=(STABLE, f"reported stable from {STABLE:g} on"),
    ),
    _Panel(
        "acceptance_rate",
        "Tokens kept",
        "acceptance rate of the correction",
        f"{_LINES} It is the share of tokens that the correction keeps; 1 throughout is a method that rejects nothing.",
    ),
    _Panel(
        "grad_norm",
        "Size of the gradient",
        "gradient norm before clipping",
        f"{_LINES} A rise shortly before accuracy falls is the update that broke the policy; means are geometric.",
        log=True,
    ),
    _Panel(
        "reward",
        "Reward of the actor's rollouts",
        "mean reward",
        f"{_LINES} It belongs to the actor, which may lag behind the policy or differ from it.",
    ),
)


def of_run(root: Path) -> Run:
    """The report of a study's folder.

    Raises:
        StudyError: the study is not finished, or its records cannot be read.
    """
    manifest, steps, outcomes = of_training(root)
    name = str(manifest.get("study", root.name))
    looks = of_methods(list(dict.fromkeys(outcomes["method"])))
    settings, seeds = list(dict.fromkeys(outcomes["setting"])), sorted(outcomes["seed"].unique())
    headline = Table.of(summary.outcomes_table(name, steps, outcomes))
    plots = [plot for panel in PANELS if (plot := _curves(panel, steps, outcomes, looks)) is not None]
    where = f" in {len(settings)} settings ({', '.join(settings)})" if len(settings) > 1 else ""
    sections = [Section("The course of training", plots=plots)]
    if ended := summary.divergences(root.relative_to(root.parent), outcomes):
        sections.append(Section("Runs that could not go on", [each.partition(";")[0] + "." for each in ended]))
    return Run(
        name=name,
        noun="study of training",
        question=(
            f"A policy learns from the rollouts of another actor: which of {len(looks)} methods "
            f"({', '.join(looks)}) still learns{where}, and which is lost? Asked with "
            f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, up to {int(outcomes['steps'].max()):,} steps each."
        ),
        verdict=list(_verdict(outcomes, settings)),
        headline=Table(
            headline.caption,
            headline.headings,
            headline.rows,
            headline.names,
            "Accuracies are running means over 20 steps on held-out problems. ± is one standard error over "
            f"{len(seeds)} seeds; KL(p‖q) is that of the last 20 steps, in nats per token.",
        ),
        sections=sections,
        provenance=provenance(
            [
                ("study", name),
                ("configuration's hash", manifest.get("config_hash")),
                ("command", "python -m jackpot_sim.training --config FILE, with the configuration below"),
                ("seeds", ", ".join(map(str, seeds))),
                ("runs", len(outcomes)),
                *versions(manifest),
            ]
        ),
        configuration=as_yaml(manifest.get("config")),
    )


def _verdict(outcomes: pd.DataFrame, settings: Sequence[str]) -> Iterator[str]:
    """A sentence for each setting: the best method at the end, and the runs lost."""
    for setting in settings:
        mine = outcomes[outcomes["setting"] == setting]
        groups = {str(method): rows for method, rows in mine.groupby("method", sort=False)}
        last = {method: rows["last_accuracy"].mean() for method, rows in groups.items()}
        known = [method for method in last if not math.isnan(last[method])]
        ends = {method: summary.ended(rows) for method, rows in groups.items()}
        bad = [f"{method} ({words})" for method, words in ends.items() if words != "not collapsed"]
        where = f"{setting}: " if len(settings) > 1 else ""
        best = ""
        if known:
            first = max(known, key=lambda method: last[method])
            accuracy = summary.mean_and_error(groups[first]["last_accuracy"])
            best = f"{first} ends with the highest accuracy, {accuracy}; "
        yield f"{where}{best}{'runs were lost with ' + ', '.join(bad) if bad else 'no run was lost'}."


def _curves(panel: _Panel, steps: pd.DataFrame, outcomes: pd.DataFrame, looks: dict[str, Look]) -> Plot | None:
    if panel.column not in steps:
        return None
    known = steps[steps[panel.column].map(math.isfinite)]
    if panel.log:
        known = known[known[panel.column] > ROUNDING]
    if known.empty or known[panel.column].nunique() < 2:  # e.g. a rate that is 1 throughout
        return None
    lines = known.groupby(["setting", "method"]).ngroups + known.groupby(["setting", "method", "seed"]).ngroups
    points = max(_FEWEST, min(_MOST, POINTS // lines))
    views, table = [], list[list[str]]()
    for setting, group in known.groupby("setting", sort=False):
        traces = list[Described]()
        for method, own in group.groupby("method", sort=False):
            wide = _smoothed(own, panel)
            traces += _traces(str(method), looks[str(method)], wide, panel, points)
            traces += _crosses(str(setting), str(method), looks[str(method)], wide, panel, outcomes)
            table += _rows([str(setting), str(method)], wide, panel)
        y = Axis(panel.label, log=panel.log, from_zero=not panel.log)
        shapes = [level(*panel.line)] if panel.line else []
        views.append(View(str(setting), traces, layout(Axis("step"), y, shapes=shapes)))
    headings = ("setting", "method", "step", panel.label)
    caption = f"{panel.title}: means over seeds ± standard error{' of the logarithm' * panel.log}"
    return Plot(panel.title, views, panel.reading, Table(caption, headings, table, 3), "Setting")


def _smoothed(rows: pd.DataFrame, panel: _Panel) -> pd.DataFrame:
    """Running means of a method's runs, of logarithms on a logarithmic axis: a column for each seed."""
    columns = {}
    for seed, run in rows.sort_values("step").groupby("seed"):
        values = run[panel.column].to_numpy(dtype=np.float64)
        columns[seed] = pd.Series(
            running_mean(run["step"].tolist(), (np.log(values) if panel.log else values).tolist()), index=run["step"]
        )
    return pd.DataFrame(columns).sort_index()


def _traces(method: str, look: Look, wide: pd.DataFrame, panel: _Panel, points: int) -> Iterator[Described]:
    """The mean over seeds and, where there are several, the lines of single seeds behind it."""
    shown = np.exp if panel.log else np.asarray
    every = max(1, math.ceil(len(wide) / points))
    few = wide[(np.arange(len(wide)) % every == 0) | (np.arange(len(wide)) == len(wide) - 1)]
    if wide.shape[1] > 1:
        for _, line in few.items():
            run = line.dropna()
            yield trace(method, look, run.index, shown(run), thin=True, log_y=panel.log)
    mean = few.mean(axis=1)
    texts = [f"{method}, step {step}: {_with_error(few.loc[step].dropna().to_numpy(), panel)}" for step in mean.index]
    yield trace(method, look, mean.index, shown(mean), mode="lines", texts=texts, log_y=panel.log)


def _with_error(values: Floats, panel: _Panel) -> str:
    """A mean over seeds with its standard error, in per cent for geometric means."""
    if not len(values):
        return "–"
    mean = float(np.mean(values))
    if len(values) < 2:
        return number(math.exp(mean) if panel.log else mean)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{number(math.exp(mean))} ± {error:.0%}" if panel.log else f"{number(mean)} ± {number(error, 2)}"


def _crosses(
    setting: str, method: str, look: Look, wide: pd.DataFrame, panel: _Panel, outcomes: pd.DataFrame
) -> Iterator[Described]:
    """A cross on the line of each run that is lost, where it is lost."""
    mine = outcomes[(outcomes["setting"] == setting) & (outcomes["method"] == method)]
    at, heights, texts = [], [], []
    for run in mine.to_dict("records"):
        diverged = run["ended"] not in ENDS
        step = run["steps"] if diverged else run["collapsed_at"]
        if run["seed"] not in wide or step is None or math.isnan(step):
            continue
        line = wide[run["seed"]].dropna()
        height = float(np.interp(step, line.index.to_numpy(dtype=np.float64), line.to_numpy()))
        at.append(float(step))
        heights.append(math.exp(height) if panel.log else height)
        texts.append(f"{method}, seed {run['seed']}: {'diverged' if diverged else 'collapsed'} at step {step:g}")
    if at:
        yield trace(method, Look(look.color, "X"), at, heights, mode="markers", texts=texts, log_y=panel.log)


def _rows(names: list[str], wide: pd.DataFrame, panel: _Panel) -> Iterator[list[str]]:
    """The numbers at a few steps, from the first to the last."""
    places = np.unique(np.linspace(0, len(wide) - 1, _ROWS).round().astype(int))
    for place in places:
        row = wide.iloc[int(place)]
        yield [*names, f"{wide.index[int(place)]}", _with_error(row.dropna().to_numpy(), panel)]
