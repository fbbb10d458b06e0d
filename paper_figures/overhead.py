"""The cost of corrections in a GRPO step, beside the paper's claim: less than 3 % of the step.

The records are those of `python -m jackpot_sim.bench overhead --out FILE`, one file for each machine; those
that ship with the figure are in `paper_figures/measured`. Nothing is measured here.

    python -m paper_figures.overhead
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.table import Table

from jackpot_sim.studies.errors import StudyError

from . import command, records, shipped, style
from .command import Made, report_table
from .style import Look

NAME = "overhead"

SHARE, STEP, MEMORY, ROLLOUT = "weights share", "step / none", "memory / none", "top-k at rollout"
"""The names of the benchmark's figures."""
OURS, PAPERS, EXACT = ("jackpot", "bracket"), ("jackpot", "kappa"), ("jackpot", "exact")

_METHODS = {
    ("tis", ""): ("TIS", "TIS", style.LOOKS["tis"]),
    OURS: ("Jackpot, Z from the stored top-k", "Jackpot, stored", style.LOOKS["jackpot"]),
    PAPERS: ("Jackpot, κ·$Z_k$ (paper)", "Jackpot, κ·Z_k", Look("#0072B2", "o")),
    EXACT: ("Jackpot, exact Z", "Jackpot, exact Z", Look("#000000", "D")),
}
"""The name in the legend, the name in the table and the look, by correction and way to Z."""

_KEY = ["device", "parameters", "shape", "vocabulary", "precision", "batch", "length", "k"]
_NEEDED = {"figure", "correction", "way", "mode", "threads", *_KEY}


@dataclass(frozen=True)
class Measured:
    """The findings of one machine or several: a row for each, with its `value` and its labels."""

    root: Path
    rows: pd.DataFrame
    machines: Sequence[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure and compares Jackpot's share of a step with the paper's claim."""
    about = "What the corrections cost in a GRPO step, beside the paper's claim."

    def figure(*, records: Path | None = None, out: Path = Path("figures")) -> int:
        """Read and draw.

        Args:
            records: A file that `python -m jackpot_sim.bench overhead --out FILE` wrote, or a folder of such
                files, overhead-*.json; by default those that ship with the figure.
            out: The folder for the PDF and the PNG.
        """
        return command.draw(NAME, load(NAME, records), make, out)

    return command.answer(NAME, about, figure, argv)


def load(name: str, given: Path | None) -> Measured:
    """The findings in `given`, a file or a folder, or in the files that ship with the figure.

    Raises:
        StudyError: the file is missing, cannot be read, or holds nothing that the figure shows.
    """
    root = given or shipped.bundled("measured")
    files = sorted(root.glob("overhead-*.json")) if root.is_dir() else [root]
    how = "write one with `python -m jackpot_sim.bench overhead --out FILE`"
    if not files:
        raise StudyError(f"{root} holds no overhead-*.json: {how}")
    tables, machines = [], []
    for path in files:
        machine, rows = _read(path)
        if not set(rows.columns) >= _NEEDED or not (rows["figure"] == SHARE).any():
            raise StudyError(f"{path} holds no {name} of a GRPO step: {how}")
        tables.append(rows)
        machines.append(machine)
    rows = pd.concat(tables, ignore_index=True)
    rows = rows[rows["mode"] == "eager"]
    twice = rows[rows.duplicated([*_KEY, "figure", "correction", "way"])]
    if len(twice):
        raise StudyError(f"{root} holds {name} of {_described(twice.iloc[0])} twice: {name} can show only one")
    return Measured(root, rows.sort_values(_KEY, kind="stable", ignore_index=True), machines)


def _read(path: Path) -> tuple[str, pd.DataFrame]:
    """The name of the machine in a file, and a row for each finding with labels."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        labelled = [{**each["labels"], "value": each["value"]} for each in held["findings"] if each["labels"]]
        machine = held["machine"]
        device = machine.get("graphics", machine["processor"])
        return f"{device}, torch {machine['torch']}", pd.DataFrame(labelled)
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(f"{path} is not what `python -m jackpot_sim.bench --out FILE` writes") from error


def make(findings: Measured) -> Made:
    """The figure and its table."""
    claim = float(records.published(NAME)["percent"].iloc[0])
    points = wide(findings.rows)
    figure, (time, memory) = style.canvas(2, 3.3, [1.15, 1])
    _draw_time(time, points, claim)
    _draw_memory(memory, points)
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    verdict, agrees = judge(points, claim)
    return Made(figure, [_table(points, findings.machines)], verdict, agrees)


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting and method, a column for each figure; `place` numbers the settings."""
    table = rows.pivot(index=[*_KEY, "correction", "way"], columns="figure", values="value").reset_index()
    for figure in (SHARE, STEP, MEMORY, ROLLOUT):
        if figure not in table:
            table[figure] = float("nan")
    table["place"] = table.groupby(_KEY, sort=True).ngroup()
    return table[table["correction"] != "none"]


def judge(points: pd.DataFrame, claim: float) -> tuple[str, bool]:
    """The sentence that compares our shares with the claim, and whether Jackpot's stay below it everywhere."""
    ours, papers, exact = (_of(points, method)[SHARE] for method in (OURS, PAPERS, EXACT))
    if ours.empty:
        raise StudyError("the records hold no Jackpot with Z from the stored top-k: measure it with --out")
    agrees = bool((ours < claim).all())
    relation = "agrees with" if agrees else "DOES NOT agree with"
    others = [
        f"{name} takes {_range(shares)}"
        for name, shares in (("the paper's own κ·Z_k", papers), ("an exact Z", exact))
        if len(shares)
    ]
    rollout = points[ROLLOUT].dropna()
    if len(rollout):
        others.append(f"keeping the top-k at rollout takes {_range(rollout)} of a step's time outside it")
    verdict = (
        f"VERDICT: with Z from the stored top-k, Jackpot's weights take {_range(ours)} of a step, which {relation} "
        f"the paper's less than {claim:g} %"
    )
    return "; ".join([verdict, *others]) + ".", agrees


def _of(points: pd.DataFrame, method: tuple[str, str]) -> pd.DataFrame:
    correction, way = method
    return points[(points["correction"] == correction) & (points["way"] == way)]


def _range(shares: pd.Series[float]) -> str:
    low, high = f"{shares.min():.2g}", f"{shares.max():.2g}"
    return f"{low} %" if low == high else f"{low} to {high} %"


def _described(row: pd.Series[float]) -> str:
    return f"{row['shape']} at vocabulary {row['vocabulary']:,} on {row['device']}"


def _table(points: pd.DataFrame, machines: Sequence[str]) -> Table:
    columns = ("vocabulary", "tokens", "correction", "share of step", "step", "memory")
    title = f"A correction's part of a GRPO step, and step and memory over none ({'; '.join(machines)})"
    table = report_table(title, "model", *columns)
    for _, rows in points.groupby("place"):
        for method, (_, short, _) in _METHODS.items():
            for _, row in _of(rows, method).iterrows():
                figures = (f"{row[SHARE]:.3f} %", f"{row[STEP]:.3f}", f"{row[MEMORY]:.3f}")
                table.add_row(*_setting(row), short, *figures)
        for _, row in rows.dropna(subset=[ROLLOUT]).iterrows():
            table.add_row(*_setting(row), "top-k, at rollout", f"{row[ROLLOUT]:.3f} %", "", "")
        table.add_section()
    return table


def _setting(row: pd.Series[float]) -> tuple[str, str, str]:
    return f"{row['shape']} ({row['device']})", f"{row['vocabulary']:,}", f"{row['batch'] * row['length']:,}"


def _draw_time(axes: Axes, points: pd.DataFrame, claim: float) -> None:
    axes.axhline(claim, label=f"paper: less than {claim:g} %", **style.CLOSED_FORM)
    _draw(axes, points, SHARE)
    rollout = points.dropna(subset=[ROLLOUT])
    axes.plot(
        rollout["place"],
        rollout[ROLLOUT],
        linestyle="none",
        marker="v",
        markerfacecolor="none",
        color="#666666",
        label="storing the top-k, at rollout",
    )
    axes.set(yscale="log", ylabel="share of a GRPO step")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title("(a) Time of the weights")


def _draw_memory(axes: Axes, points: pd.DataFrame) -> None:
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    _draw(axes, points, MEMORY)
    axes.set(ylabel="memory over no correction")
    axes.set_title("(b) Memory, stored rollouts included")


def _draw(axes: Axes, points: pd.DataFrame, figure: str) -> None:
    for method, (label, _, look) in _METHODS.items():
        rows = _of(points, method)
        # An exact Z and the paper's form need the same memory, so one is drawn around the other.
        size: dict[str, Any] = {"markersize": 6.5, "linewidth": 2.6, "zorder": 1.9} if method == EXACT else {}
        for number, (_, line) in enumerate(rows.groupby(["device", "shape"], sort=False)):
            axes.plot(
                line["place"],
                line[figure],
                color=look.color,
                marker=look.marker,
                label=None if number else label,
                **size,
            )
    places = points.drop_duplicates("place").sort_values("place")
    axes.set_xticks(places["place"], [_tick(row) for _, row in places.iterrows()])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel("vocabulary, model and device")
    axes.grid(visible=False, axis="x")


def _tick(row: pd.Series[float]) -> str:
    device = {"cpu": "CPU", "cuda": "GPU"}.get(str(row["device"]), row["device"])
    vocabulary = f"{row['vocabulary'] / 1000:.0f}k" if row["vocabulary"] >= 1000 else row["vocabulary"]
    model = str(row["shape"]).split("-")
    return "\n".join([str(vocabulary), *model, *([] if model[0] == str(row["device"]) else [str(device)])])


if __name__ == "__main__":
    sys.exit(main())
