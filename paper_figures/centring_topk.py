"""The error of score centring from the actor's top-k, against centring with whole laws, by k.

A centred correction subtracts at each state h = E_q[a·w·∇log p] (arXiv 2609.20807). A rollout stores the k likeliest
tokens of the actor, and trainers take the rest from a model of the tail, with k = 128. Left: the error of h from k
tokens, as a share of h. A correction that makes h small leaves little of it on likely tokens, so that its share is
large where the error itself is not. Right: the same error as a share of the h of an update without a correction,
which is what centring is for. h is the vector in logits; Z, where a correction needs it, is exact in both. Lines are
means over seeds.

    python -m paper_figures.centring_topk
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from rich.table import Table

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import write_atomically
from jackpot_sim.sweep import plan
from jackpot_sim.sweep.spec import Study
from jackpot_sim.sweep.topk_centring import errors

from . import records, shipped, style
from .command import Made, report_table, run_from

NAME = "centring_topk"

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""The numbers of tokens stored."""
USUAL, MOST = 128, 0.05
"""Trainers' k, and the largest share of an uncorrected h that may stay."""
FLAT = "dirichlet"
"""The law without likely tokens, which is a warning and no target: no model's text has such states."""
LAWS = {"lm-like": "text-like", "zipf": "Zipf", "ngram": "model of text", FLAT: "flat"}
"""The names of the laws, by the kind of their base."""

_DASHES: dict[str, Literal["-", "--", ":", "-."]] = {"lm-like": "-", "zipf": "--", "ngram": "-.", FLAT: ":"}


@dataclass(frozen=True)
class Errors:
    """The errors: a row for each law, correction and k, with means over seeds."""

    root: Path
    rows: pd.DataFrame


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and judges the usual k."""
    return run_from(load, NAME, "The error of score centring from the actor's top-k, by k.", make, argv)


def load(name: str, given: Path | None, rerun: bool = False) -> Errors:
    """The errors that ship with the figure, those in the folder given, or those in runs/figures/NAME, measured first.

    Raises:
        StudyError: the folder holds none; what ships is of another configuration.
    """
    if rerun:
        records.exclusive(given)
        file = shipped.own(name) / f"{name}.parquet"
        if not (file.exists() and _is_of(records.study(name), pd.read_parquet(file))):
            _measure(name, file)
    else:
        file = given / f"{name}.parquet" if given else shipped.measured(f"{name}.parquet")
        if not file.exists():
            raise StudyError(f"{file.parent} holds no {file.name}: --rerun measures it")
        if given is None and not _is_of(records.study(name), pd.read_parquet(file)):
            raise StudyError(f"the errors that ship are not of configs/{name}.yaml as it is: --rerun measures those")
    return Errors(file.parent, summarised(pd.read_parquet(file)))


def _is_of(study: Study, rows: pd.DataFrame) -> bool:
    """True for the errors of this study's cells and corrections, at our numbers of tokens."""
    asked = itertools.product(((cell.environment, cell.seed) for cell in plan.cells(study)), study.estimators, KS)
    keys = rows[["environment", "seed", "estimator", "k"]].itertuples(index=False, name=None)
    return sorted(keys) == sorted((*cell, spec.label, k) for cell, spec, k in asked)


def _measure(name: str, file: Path) -> None:
    study = records.study(name)
    sys.stderr.write(f"{name}: measuring {len(study.env) * len(study.seeds)} cells into {file.parent}\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    measured = pd.DataFrame(errors(study, KS))
    write_atomically(file, partial(measured.to_parquet, index=False, compression="zstd"))


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, with the law of each environment and the `left`: the error as a share of the h of `none`.

    Raises:
        StudyError: the rows lack `none`.
    """
    rows = rows.assign(law=rows["environment"].map(lambda text: str(json.loads(text)["base"]["kind"])))
    plain = rows[rows["estimator"] == "none"].drop_duplicates(["environment", "seed"])
    if plain.empty:
        raise StudyError("the errors lack those of none, beside which the others are shown")
    norm = plain.set_index(["environment", "seed"])["norm"].rename("plain")
    rows = rows.join(norm, on=["environment", "seed"])
    rows["left"] = rows["error"] * rows["norm"] / rows["plain"]
    means = rows.groupby(["law", "environment", "estimator", "k"], sort=False)[["kl", "vocab", "error", "left"]].mean()
    return means.reset_index()


def make(measured: Errors) -> Made:
    """The figure and its table."""
    rows = measured.rows
    figure, (own, left) = style.canvas(2, 3.2)
    for axes, column, title in ((own, "error", "of the correction's own h"), (left, "left", "of the uncorrected h")):
        _draw(axes, rows, column)
        axes.axvline(USUAL, color="#444444", linewidth=0.7, linestyle=":")
        axes.annotate(f"k = {USUAL}", (USUAL, 1.1e-3), (2, 0), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", yscale="log", ylim=(1e-3, 1.5), title=f"Share {title}")
        axes.set(xlabel="stored tokens k", ylabel="error of the mean term h / ‖h‖")
    left.axhline(MOST, color="#444444", linewidth=0.7)
    left.annotate(f"{MOST:.0%}", (KS[0], MOST), (0, 2), textcoords="offset points", fontsize=7)
    names = list(dict.fromkeys(rows["estimator"]))
    handles = [Line2D([], [], color=_look(name).color, marker=_look(name).marker) for name in names]
    laws = [law for law in LAWS if law in set(rows["law"])]
    handles += [Line2D([], [], color="black", linestyle=_DASHES[law]) for law in laws]
    figure.legend(handles, [*names, *(LAWS[law] for law in laws)], loc="outside lower center", ncols=4)
    verdict, enough = judge(rows)
    return Made(figure, [_table(rows)], verdict, enough)


def _look(estimator: str) -> style.Look:
    return style.LOOKS[estimator.split("(", maxsplit=1)[0]]


def _draw(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    for (law, name), line in rows.groupby(["law", "estimator"], sort=False):
        look, shown = _look(str(name)), line[line[column] > 1e-9]
        axes.plot(shown["k"], shown[column], color=look.color, marker=look.marker, linestyle=_DASHES[str(law)])


def judge(rows: pd.DataFrame) -> tuple[str, bool]:
    """The sentence about k, and whether the usual k leaves little of an uncorrected h on all laws but the flat one."""
    likely = rows[rows["law"] != FLAT]
    enough = [k for k in KS if likely.loc[likely["k"] == k, "left"].max() <= MOST]
    at_usual = rows[rows["k"] == USUAL]
    usual, flat = at_usual[at_usual["law"] != FLAT], at_usual[at_usual["law"] == FLAT]
    own = usual.sort_values("error").iloc[-1]
    found = f"k = {min(enough)} is enough" if enough else f"no k up to {max(KS)} is enough"
    sentence = (
        f"VERDICT: to leave at most {MOST:.0%} of an uncorrected update's mean term h, on each law with likely tokens, "
        f"{found}; trainers' k = {USUAL} leaves up to {usual['left'].max():.1%}. Of its own smaller h a correction "
        f"still misses up to {own['error']:.0%} there ({own['estimator']}, {LAWS[str(own['law'])]})"
    )
    if not flat.empty:
        missed = flat[flat["estimator"] == "none"]["error"].max()
        sentence += f", and on a flat law an update without one misses {missed:.0%}"
    return f"{sentence}.", bool(usual["left"].max() <= MOST)


def _table(rows: pd.DataFrame) -> Table:
    shown = (16, USUAL, 1024)
    table = report_table(
        "Error of the mean term h from k stored tokens, as a share of the correction's own h (of the uncorrected h)",
        *("law", "KL", "correction", *(f"k = {k}" for k in shown)),
    )
    for (law, name), line in rows.groupby(["law", "estimator"], sort=False):
        at = line.set_index("k")
        own, left = (at[name].to_dict() for name in ("error", "left"))
        cells = (f"{own[k]:.1%} ({left[k]:.1%})" for k in shown)
        first = line.iloc[0]
        table.add_row(LAWS[str(law)], f"{first['kl']:.2g}", str(name), *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
