"""The report of a study of training: which method learns, which is lost, and what the mismatch did meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jackpot_sim.estimators.mismatch.lines import STABLE
from jackpot_sim.training import summary
from jackpot_sim.training.conduct import manifest

from ..looks import Look, of_methods
from ..training import tables
from ..training.records import Trained, of_folder
from ..training.statistics import courses, group, interval, lost
from .page import Described, Plot, Run, Section, Table, View, as_yaml, number, provenance, told, versions
from .plots import Axis, layout, level, trace

POINTS = 8_000
"""The most points of a plot, so that a page stays small."""
_FEWEST, _MOST = 16, 150
"""The points that a line has at least and at most."""
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
    "Thick lines are means over seeds of running means over 20 steps, or a tenth of a shorter run, thin lines single "
    "seeds, × a run that is lost, which keeps its last value."
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
        f"{_LINES} Higher is better, and a line that falls for good is a collapse; a run that diverged has left no "
        "policy, and counts as 0 from there on.",
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
    trained, about = of_folder(root), manifest(root)
    name = str(about.get("study", root.name))
    looks, settings = of_methods(trained.methods), trained.settings
    built = tables.build(trained)
    headline, *more = map(Table.of, tables.fitted(trained, built))
    plots = [plot for panel in PANELS if (plot := _curves(panel, trained, looks)) is not None]
    where = f" in {len(settings)} settings ({', '.join(settings)})" if len(settings) > 1 else ""
    sections = [Section("The course of training", plots=plots)]
    if more:
        sections.insert(0, Section("Methods compared", tables=more))
    if ended := summary.divergences(root.relative_to(root.parent), trained.outcomes):
        sections.append(Section("Runs that could not go on", [each.partition(";")[0] + "." for each in ended]))
    return Run(
        name=name,
        noun="study of training",
        question=(
            f"A policy learns from the rollouts of another actor: which of {len(looks)} methods "
            f"({', '.join(looks)}) still learns{where}, and which is lost? Asked with "
            f"{trained.seeds} seed{'s' * (trained.seeds > 1)}, up to {int(trained.outcomes['steps'].max()):,} steps "
            "each."
        ),
        verdict=list(_verdict(trained, built["cells"])),
        headline=headline,
        sections=sections,
        provenance=provenance(
            [
                ("study", name),
                ("configuration's hash", about.get("config_hash")),
                ("command", "python -m jackpot_sim.training --config FILE, with the configuration below"),
                ("seeds", ", ".join(map(str, sorted(trained.outcomes["seed"].unique())))),
                ("runs", len(trained.outcomes)),
                *versions(about),
            ]
        ),
        configuration=as_yaml(about.get("config")),
    )


def _verdict(trained: Trained, cells: pd.DataFrame) -> Iterator[str]:
    """A sentence for each setting: the best method at the end, and the runs lost."""
    for setting in trained.settings:
        mine = cells[cells["setting"] == setting]
        ended = trained.outcomes[trained.outcomes["setting"] == setting].groupby("method", sort=False)
        ends = {str(method): summary.ended(rows) for method, rows in ended}
        bad = [f"{method} ({words})" for method, words in ends.items() if words != "not collapsed"]
        where = f"{setting}: " if len(trained.settings) > 1 else ""
        best = ""
        if mine["accuracy"].notna().any():
            first = mine.sort_values("accuracy", ascending=False, kind="stable").to_dict("records")[0]
            ends_at = "" if first["seeds"] < 2 else f" [{first['accuracy_low']:.3f}, {first['accuracy_high']:.3f}]"
            best = f"{first['method']} ends with the highest accuracy, {first['accuracy']:.3f}{ends_at}; "
        yield f"{where}{best}{'runs were lost with ' + ', '.join(bad) if bad else 'no run was lost'}."


def _curves(panel: _Panel, trained: Trained, looks: dict[str, Look]) -> Plot | None:
    if panel.column not in trained.steps or trained.steps[panel.column].nunique() < 2:  # as a rate that is 1 throughout
        return None
    wides = {setting: courses(trained, setting, panel.column, log=panel.log) for setting in trained.settings}
    if panel.log:
        wides = {setting: wide.transform(np.log) for setting, wide in wides.items()}
    wides = {setting: own for setting, wide in wides.items() if len((own := wide.dropna(axis=1, how="all")).columns)}
    if not wides:
        return None
    lines = sum(wide.shape[1] + wide.columns.get_level_values(0).nunique() for wide in wides.values())
    points = max(_FEWEST, min(_MOST, POINTS // lines))
    views, table = [], list[list[str]]()
    for setting, wide in wides.items():
        traces = list[Described]()
        for method in dict.fromkeys(wide.columns.get_level_values(0)):
            own = wide[method].dropna(how="all")
            traces += _traces(str(method), looks[str(method)], own, panel, points)
            traces += _crosses(setting, str(method), looks[str(method)], own, panel, trained)
            table += _rows([setting, str(method)], own, panel)
        y = Axis(panel.label, log=panel.log, from_zero=not panel.log)
        shapes = [level(*panel.line)] if panel.line else []
        views.append(View(setting, traces, layout(Axis("step"), y, shapes=shapes)))
    headings = ("setting", "method", "step", panel.label)
    kind = "geometric means" if panel.log else "means"
    caption = f"{panel.title}: {kind} over seeds{' [95 %]' * (trained.seeds > 1)}"
    return Plot(panel.title, views, panel.reading, Table(caption, headings, table, 3), "Setting")


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
    texts = [f"{method}, step {step}: {_ranged(few.loc[step], panel)}" for step in mean.index]
    yield trace(method, look, mean.index, shown(mean), mode="lines", texts=texts, log_y=panel.log)


def _ranged(seeds: pd.Series[float], panel: _Panel) -> str:
    """A mean over seeds with its 95 % interval, geometric on a logarithmic axis."""
    mean, low, high, count = interval(seeds.dropna())
    if panel.log:
        mean, low, high = np.exp([mean, low, high]).tolist()
    return told(mean, low, high) if count > 1 else number(mean)


def _crosses(
    setting: str, method: str, look: Look, wide: pd.DataFrame, panel: _Panel, trained: Trained
) -> Iterator[Described]:
    """A cross on the line of each run that is lost, where it is lost."""
    ends = group(lost(trained.outcomes), setting, method).dropna(subset=["lost_at"])
    at, heights, texts = [], [], []
    for seed, step, diverged in zip(ends.index, ends["lost_at"], ends["diverged"], strict=True):
        if seed not in wide:
            continue
        line = wide[seed].dropna()
        height = float(np.interp(step, line.index.to_numpy(dtype=np.float64), line.to_numpy()))
        at.append(float(step))
        heights.append(math.exp(height) if panel.log else height)
        texts.append(f"{method}, seed {seed}: {'diverged' if diverged else 'collapsed'} at step {step:g}")
    if at:
        yield trace(method, Look(look.color, "X"), at, heights, mode="markers", texts=texts, log_y=panel.log)


def _rows(names: list[str], wide: pd.DataFrame, panel: _Panel) -> Iterator[list[str]]:
    """The numbers at a few steps, from the first to the last."""
    for place in np.unique(np.linspace(0, len(wide) - 1, _ROWS).round().astype(int)):
        yield [*names, f"{wide.index[int(place)]}", _ranged(wide.iloc[int(place)], panel)]
