"""The report of a sweep: which correction is best where, and what each does to acceptance, KL, bias and variance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from jackpot_sim.sweep import legends, records, summary
from jackpot_sim.sweep.resolved import KEYS, lost, thin
from jackpot_sim.sweep.rollout_summary import rollout_tables
from jackpot_sim.sweep.threshold_summary import threshold_tables
from jackpot_sim.sweep.verdicts import LEGEND, verdicts
from jackpot_sim.sweep.worse import worse

from ..looks import Look, of_estimators
from . import sweep_figures
from .page import Plot, Run, Section, Table, View, as_yaml, number, provenance, told, versions
from .plots import Axis, layout, level, trace
from .sweep_figures import Figures

_ON_FIGURES = (
    "Every figure with its 95 % interval, where it has one. "
    f"{legends.ON_KLS.replace('KL acc. and KL eff.', 'kl accepted, kl effective')} "
    "gain: the share of the gradient that is left. variance: of one proposal, over that of one of the policy's own. "
    f"{legends.ON_MSE}"
)
_ALL = 1 - 1e-9
"""An acceptance rate from which on an estimator rejects nothing."""


def of_run(root: Path) -> Run:
    """The report of a run's folder.

    Raises:
        StudyError: no cell is finished, or records cannot be read.
    """
    manifest, figures = records.read_manifest(root), sweep_figures.of_run(root)
    looks = of_estimators(list(dict.fromkeys(figures.values["name"])))
    judged = verdicts(root)
    best = [_best(rows) for _, rows in figures.records.groupby("environment", sort=False)]
    seeds, n = figures.records["seed"].nunique(), int(figures.records["n_samples"].iloc[0])
    environments = len(best)
    planned, finished = len(manifest["cells"]), figures.records["cell"].nunique()
    unfinished = [f"{finished} of {planned} cells are finished: the figures are those of these."]
    kinds = list(dict.fromkeys(figures.about["family"].str.partition(",")[0]))
    return Run(
        name=str(manifest.get("study", root.name)),
        noun="sweep",
        question=(
            f"Where the actor that writes is not the policy that learns, which of {len(looks)} corrections gives the "
            f"best update from {n} samples, and at what cost? Asked in {_count(environments, 'environment')} "
            f"({', '.join(kinds)}) with {_count(seeds, 'seed')}."
        ),
        verdict=[*(judged or _verdict(best, n)), *(unfinished if finished < planned else [])],
        headline=_headline(figures, best, n),
        sections=_sections(root, figures, looks, bool(judged)),
        provenance=provenance(
            [
                ("study", manifest.get("study")),
                ("configuration's hash", manifest.get("config_hash")),
                ("command", "python -m jackpot_sim.sweep --config FILE, with the configuration below"),
                ("seeds", ", ".join(map(str, sorted(figures.records["seed"].unique())))),
                ("figures", ", ".join(f"{each} ({_METHODS[each]})" for each in figures.records["method"].unique())),
                *versions(manifest),
            ]
        ),
        configuration=as_yaml(manifest.get("config")),
    )


_METHODS = {
    "exact": "exact for the states drawn; intervals show the draw of states and seeds",
    "monte_carlo": "sampled; intervals over seeds, of one seed those of its standard errors",
}


def _count(number_: int, noun: str) -> str:
    return f"{number_} {noun}{'' if number_ == 1 else 's'}"


class _Best(NamedTuple):
    """The estimator with the least MSE in one environment."""

    environment: str
    name: str
    """Empty where no MSE is resolved."""
    mse: float
    ties: list[str]
    """The estimators that are not told apart from it."""


def _best(rows: pd.DataFrame) -> _Best:
    unresolved, means = thin(rows), summary.means_of(rows)
    means = means[[tuple(row) not in unresolved for row in means[KEYS].itertuples(index=False)]]
    names = sweep_figures.with_names(means, rows["denominator"].nunique() > 1)["name"]
    known = [] if lost(rows) else list(zip(worse(rows, means, KEYS), names, strict=True))
    least = [name for cell, name in known if cell == "least"]
    return _Best(
        str(rows["environment"].iloc[0]),
        least[0] if least else "",
        float(means["mse"].min()) if least else math.nan,
        [name for cell, name in known if cell == "tie"],
    )


def _verdict(best: Sequence[_Best], n: int) -> list[str]:
    known = [each for each in best if each.name]
    if not known:
        return ["The true gradient is lost in its noise everywhere: no MSE is resolved, and none is the least."]
    useless = [each for each in known if each.mse >= 1]
    useful = [each for each in known if each.mse < 1]
    wins = Counter(each.name for each in useful).most_common()
    sentences = []
    if wins:
        told_ = ", ".join(f"{name} in {count}" for name, count in wins[:4])
        more = f", others in {sum(count for _, count in wins[4:])}" if wins[4:] else ""
        alone = sum(not each.ties for each in useful)
        sentences.append(
            f"At {n} samples the least MSE is that of {told_}{more} of {_count(len(known), 'environment')}; in "
            f"{alone} of {len(useful)} it is told apart from all others."
        )
    if useless:
        sentences.append(
            f"In {len(useless)} of {_count(len(known), 'environment')} no correction is worth its noise at {n} "
            "samples: every MSE is above 1, that of no update at all."
        )
    return sentences


def _headline(figures: Figures, best: Sequence[_Best], n: int) -> Table:
    of_mse = figures.values[figures.values["figure"] == "mse"]
    mses = {(row["environment"], row["name"]): row for row in of_mse.to_dict("records")}
    rows = []
    for each, about in zip(best, figures.about.to_dict("records"), strict=True):
        cells = ["not resolved", "–", "–"]
        if each.name:
            mse = mses[each.environment, each.name]
            ties = ", ".join(each.ties[:3]) + (f" and {len(each.ties) - 3} more" if each.ties[3:] else "")
            shown = told(*(float(mse[end]) for end in ("value", "low", "high")))
            cells = [each.name, shown + (" (no update: 1)" if each.mse >= 1 else ""), ties or "none"]
        rows.append([f"{about['family']}, {about['knob']}", str(about["distance"]), *cells])
    headings = ("environment", "KL before, nats", "least MSE", f"its MSE at {n} samples", "not told apart from it")
    note = (
        "MSE: squared error of the update over the squared true gradient, [95 % interval]; no update at all has 1. "
        "Paired by seeds, the corrections of the last column may be as good."
    )
    return Table("The correction with the least error in each environment", headings, rows, 1, note)


def _sections(root: Path, figures: Figures, looks: dict[str, Look], real: bool) -> list[Section]:
    plots = [
        _against_kl(
            figures,
            looks,
            "acceptance_rate",
            "Acceptance against KL",
            Axis("share of tokens accepted", from_zero=True),
            "Each point is an environment: to the right the actor is farther from the policy, and higher up more of "
            "its tokens are kept. A line that falls early belongs to a correction that throws data away; corrections "
            "that reject nothing are left out.",
        ),
        _against_kl(
            figures,
            looks,
            "kl_effective",
            "KL that is left after correction",
            Axis("KL(policy‖corrected actor), nats", log=True),
            "Lower is closer to the policy; the dotted diagonal is where a correction changes nothing. A point that is "
            "missing has a KL that is 0, infinite (a token of the policy is out of reach) or not defined.",
            diagonal=True,
        ),
        _bias_variance(figures, looks),
        _against_n(figures, looks),
        *_by_threshold(figures, looks),
    ]
    sections = [Section("What each correction does", plots=[plot for plot in plots if plot is not None])]
    if tables := [Table.of(each) for each in threshold_tables(root)]:
        sections.append(Section("Best thresholds", tables=tables))
    if tables := [Table.of(each) for each in rollout_tables(root)]:
        sections.append(Section("The distance between the models", [LEGEND] * real, tables=tables))
    every = [_figures_table(label, rows) for label, rows in sweep_figures.named(figures.about, figures.values)]
    sections.append(Section("All figures", [_ON_FIGURES], tables=every))
    return sections


def _ends(rows: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    return rows["low"], rows["high"]


def _texts(rows: pd.DataFrame, what: str) -> list[str]:
    return [
        f"{row['name']}: {what} {told(row['value'], row['low'], row['high'])} ({row['label']})"
        for row in rows.to_dict("records")
    ]


def _against_kl(
    figures: Figures, looks: dict[str, Look], figure: str, title: str, y: Axis, reading: str, *, diagonal: bool = False
) -> Plot | None:
    """A figure against the KL before: a line for each estimator, a view for each family of environments."""
    rows = figures.values[figures.values["figure"] == figure].merge(figures.about, on="environment")
    if figure == "acceptance_rate":
        rejects = rows.groupby("name")["value"].min() < _ALL
        rows = rows[rows["name"].map(rejects)]
    rows = rows[rows["kl"].between(0, math.inf, inclusive="neither") & rows["value"].map(math.isfinite)]
    if y.log:  # a KL that is 0 but for rounding has no place on the axis
        rows = rows[rows["value"].abs() > summary.ROUNDING]
    if rows.empty:
        return None
    views = []
    for family, group in rows.groupby("family", sort=False):
        traces = [
            trace(
                str(name), looks[str(name)], own["kl"], own["value"],
                error_y=_ends(own), texts=_texts(own, y.title), log_x=True, log_y=y.log,
            )
            for name, own in group.sort_values("kl", kind="stable").groupby("name", sort=False)
        ]  # fmt: skip
        shapes = []
        if diagonal:
            ends = sorted(group["kl"])
            if group["of"].iloc[0] == "KL(policy‖actor)":
                shapes = [
                    {"type": "line", "x0": ends[0], "y0": ends[0], "x1": ends[-1], "y1": ends[-1], "line": _DOTTED}
                ]
        views.append(
            View(str(family), traces, layout(Axis(f"{group['of'].iloc[0]} before, nats", log=True), y, shapes=shapes))
        )
    wide = _wide(rows, ["family", "kl"], ["environment", "KL before, nats"], title)
    return Plot(title, views, reading, wide, "Environments")


_DOTTED = {"width": 1, "dash": "dot"}


def _wide(rows: pd.DataFrame, keys: list[str], headings: list[str], caption: str) -> Table:
    """A table with a row for each value of `keys`, and a column for each estimator."""
    names = list(dict.fromkeys(rows["name"]))
    out = []
    for key, group in rows.groupby(keys, sort=False):
        cells = {row["name"]: told(row["value"], row["low"], row["high"]) for row in group.to_dict("records")}
        first = [each if isinstance(each, str) else number(float(str(each))) for each in key]
        out.append([*first, *(cells.get(name, "–") for name in names)])
    return Table(caption, [*headings, *names], out, len(keys))


def _bias_variance(figures: Figures, looks: dict[str, Look]) -> Plot | None:
    wide = figures.values[figures.values["figure"].isin(["bias", "variance"])]
    x = Axis("bias, in units of the true gradient", from_zero=True)
    views, rows = [], []
    for label, group in sweep_figures.named(figures.about, wide):
        # A variance that is 0 but for rounding has no place on a logarithmic axis.
        log = bool((group[group["figure"] == "variance"]["value"].dropna() > summary.ROUNDING).all())
        y = Axis("variance of one proposal", log=log, from_zero=not log)
        traces = []
        for name, own in group.groupby("name", sort=False):
            both = own.set_index("figure")
            bias, variance = (
                both.loc[[each]] if each in both.index else both.iloc[:0] for each in ("bias", "variance")
            )
            if bias.empty or variance.empty or bias["value"].isna().all() or variance["value"].isna().all():
                continue
            told_ = [told(*map(float, each[["value", "low", "high"]].iloc[0])) for each in (bias, variance)]
            rows.append([label, str(name), *told_])
            traces.append(
                trace(
                    str(name), looks[str(name)], bias["value"], variance["value"], mode="markers",
                    error_x=_ends(bias), error_y=_ends(variance), log_y=log,
                    texts=[f"{name}: bias {told_[0]}, variance {told_[1]}"],
                )
            )  # fmt: skip
        if traces:
            views.append(View(label, traces, layout(x, y)))
    if not views:
        return None
    reading = (
        "Left is less bias and down is less variance, so that the best corrections lie in the lower left corner; the "
        "variance is that of one proposal over that of one of the policy's own. A correction with another one to its "
        "lower left is beaten in both."
    )
    headings = ("environment", "correction", "bias", "variance")
    return Plot("Bias and variance", views, reading, Table("Bias and variance", headings, rows, 2))


def _against_n(figures: Figures, looks: dict[str, Look]) -> Plot | None:
    frame = figures.at_n[figures.at_n["value"].notna()]
    x, y = Axis("samples a state, n", log=True), Axis("MSE over the squared true gradient", log=True)
    views = []
    for label, group in sweep_figures.named(figures.about, frame):
        traces = [
            trace(
                str(name), looks[str(name)], own["n_samples"], own["value"], error_y=_ends(own), log_x=True, log_y=True,
                texts=[
                    f"{name}: MSE {told(row['value'], row['low'], row['high'])} at n = {row['n_samples']}"
                    for row in own.to_dict("records")
                ],
            )
            for name, own in group.groupby("name", sort=False)
        ]  # fmt: skip
        views.append(View(label, traces, layout(x, y, shapes=[level(1, "no update at all")])))
    if not views:
        return None
    reading = (
        "Variance falls with the number of samples and bias does not: a line that flattens has met its bias. Where two "
        "lines cross, the better correction changes; above the dotted line no update would be better."
    )
    rows = frame.merge(figures.about, on="environment")
    table = _wide(rows, ["label", "n_samples"], ["environment", "n"], "MSE at n samples a state")
    return Plot("MSE against the number of samples", views, reading, table)


def _by_threshold(figures: Figures, looks: dict[str, Look]) -> list[Plot]:
    """The share kept against the threshold, for corrections that a study has with several values of one parameter."""
    rows = figures.records
    shown = figures.values[figures.values["figure"] == "acceptance_rate"]
    plots = []
    for kind, group in rows.groupby("estimator_kind", sort=False):
        asked = group.drop_duplicates("estimator").set_index("estimator")
        for parameter in _varied(asked):
            values = asked[parameter].astype(float)
            own = shown[shown["estimator"].isin(values.index)].merge(figures.about, on="environment")
            if own.empty or (own["value"] > _ALL).all():
                continue
            own = own.assign(threshold=own["estimator"].map(values)).sort_values("threshold", kind="stable")
            names = of_estimators([*dict.fromkeys(own["label"])])
            traces = [
                trace(
                    str(label), names[str(label)], lines["threshold"], lines["value"],
                    error_y=_ends(lines), texts=_texts(lines, "share kept"),
                )
                for label, lines in own.groupby("label", sort=False)
            ]  # fmt: skip
            described = layout(Axis(f"{parameter} of {kind}"), Axis("share of tokens kept", from_zero=True))
            table = _wide(
                own.assign(name=own["label"]), ["estimator", "threshold"], ["correction", parameter], "Share kept"
            )
            reading = (
                "Each line is an environment, and each point the same correction with another threshold. A threshold "
                "to the left or right of a steep part hardly changes what is kept."
            )
            title = f"Share kept against the threshold of {kind}"
            plots.append(Plot(title, [View("", traces, described)], reading, table))
    return plots


def _varied(asked: pd.DataFrame) -> list[str]:
    """The parameters in which estimators of one kind differ, where each has a value of its own."""
    parameters = [each for each in ("lam", "c1", "clip", "high", "bound") if each in asked]
    return [each for each in parameters if len(asked) > 1 and asked[each].notna().all() and asked[each].is_unique]


def _figures_table(label: str, rows: pd.DataFrame) -> Table:
    names = [each for each in dict.fromkeys(rows["figure"]) if each != "kl_policy_actor"]
    names = [each for each in names if rows[rows["figure"] == each]["value"].notna().any()]
    out = []
    for name, own in rows.groupby("name", sort=False):
        cells = {row["figure"]: told(row["value"], row["low"], row["high"]) for row in own.to_dict("records")}
        out.append([str(name), *(cells[each] for each in names)])
    return Table(label, ["correction", *(each.replace("_", " ") for each in names)], out)
