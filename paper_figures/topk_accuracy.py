"""The share of the overlap Z on the k likeliest tokens, and the accuracy of the ways to estimate the rest.

A rollout stores the top-k of the actor's law, not the whole law. [J] estimates Z by its part on
TopK(q) ∪ TopK(p), which is reported to hold more than 87 % of it at k = 20, and corrects for the rest by one factor κ
for the batch. Here this estimate is compared, state by state, with the exact Z: on states as along the text of a
language model, and on those that rollouts of a small trained model visit. κ and the calibration of the bracket use
batches of 256 tokens. Lines are means over seeds; bars are two standard errors.

The study takes ten minutes and more, so that its records ship with the figure, as measured/topk_accuracy.parquet.
`--rerun` makes them anew, as runs/figures/topk_accuracy/topk_accuracy.parquet. The trained models are those of
`python -m jackpot_sim.environments.language_models.example runs/example`, which then runs first where they are missing.

    python -m paper_figures.topk_accuracy
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from rich.table import Table

from jackpot_sim.studies.errors import StudyError

from . import command, records, shipped, style
from .command import Made, report_table
from .style import Look

NAME = "topk_accuracy"

K, MOST_KL = 20, 0.02
"""The k, and the largest KL, of the paper's number and of our targets."""
MOST_ERROR, LEAST_LOST = 0.01, 0.10
"""Our targets: the largest mean error of Z by the calibrated bracket, where plain top-k loses at least the second."""
_FAR = 4.0
"""The number of standard errors from which a miss of the batch's mean counts."""
TRAINED, SEPARATE = "trained LM", "two trained LMs"

_EXAMPLE = Path("runs") / "example"
_WAYS = {
    "top-k": ("$Z_k$", Look("#999999", "x")),
    "bias-corrected": ("κ·$Z_k$", Look("#0072B2", "o")),
    "calibrated": ("calibrated bracket", Look("#D55E00", "s")),
    "server-calibrated": ("the same, actor's top-k only", Look("#009E73", "^")),
}
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Compared:
    """The ways to Z compared: a row for each law, KL, way and k, with means over seeds and standard errors."""

    root: Path
    rows: pd.DataFrame


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and judges κ and the calibrated bracket."""
    about = "The share of Z that the k likeliest tokens keep, and the error of each way to the rest."

    def figure(
        *, records: Path | None = None, rerun: Annotated[bool, command.RERUN] = False, out: Path = Path("figures")
    ) -> int:
        """Read and draw.

        Args:
            records: The folder of a run that compares ways to Z; by default the records that ship with the figure.
            rerun: Run the figure's own study, in runs/figures/topk_accuracy; needs torch and ten minutes or more.
            out: The folder for the PDF and the PNG.
        """
        return command.draw(NAME, load(NAME, records, rerun), make, out)

    return command.answer(NAME, about, figure, argv)


def load(name: str, given: Path | None, rerun: bool = False) -> Compared:
    """The records that ship with the figure, those of its own study, run first, or another run that compares ways to Z.

    Raises:
        StudyError: the folder holds no such run, or the trained models cannot be made.
    """
    if given is None and not rerun:
        file = shipped.measured(f"{NAME}.parquet")
        return Compared(file, summarised(pd.read_parquet(file)))
    if rerun:
        records.exclusive(given)
    if rerun and not (_EXAMPLE / "prompts.jsonl").exists():
        _make_example()
    root = records.finished(name, given, rerun)
    ways = records.table(root, "normalizers")
    if ways.empty:
        raise StudyError(f"{root} compares no ways to Z: {name} needs a study with `normalizers`")
    kl = records.table(root, "records").drop_duplicates("cell").set_index("cell")["kl_policy_actor"]
    ways = ways.assign(kl=ways["cell"].map(kl))
    if rerun:
        ways.to_parquet(root / f"{NAME}.parquet", compression="zstd", index=False)
    return Compared(root, summarised(ways))


def _make_example() -> None:
    sys.stderr.write(f"{NAME}: training two small models into {_EXAMPLE}, about two minutes\n")
    what = "jackpot_sim.environments.language_models.example"
    done = subprocess.run([sys.executable, "-m", what, str(_EXAMPLE)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise StudyError(f"the trained models could not be made: python -m {what} {_EXAMPLE} says why")


def summarised(ways: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, with the law of each environment.

    Args:
        ways: the table `normalizers` of a run, with the `kl` of each cell, nats.
    """
    labelled = ways.assign(law=ways["environment"].map(lambda text: law_of(json.loads(text))))
    grouped = labelled.groupby(["law", "environment", "way", "k"], sort=False)
    means = grouped[["kl", "overlap", "kept", "error", "above_one", "outside", "width"]].mean()
    for name in ("kept", "error"):
        means[f"{name}_se"] = np.sqrt(grouped[f"{name}_se"].agg(lambda each: (each**2).sum())) / grouped.size()
    means["tokens"] = grouped["tokens"].sum()
    return means.reset_index()


def law_of(environment: Mapping[str, Any]) -> str:
    """The name of the law of an environment's states."""
    if environment["kind"] != "hf":
        certain = environment["base"].get("near_certain")
        return str(environment["base"]["kind"]) + ("" if certain is None else f", {certain:.0%} certain")
    return SEPARATE if environment["actor"]["kind"] == "checkpoint" else TRAINED


def make(comparison: Compared) -> Made:
    """The figure and its table."""
    rows = comparison.rows
    paper = float(records.published(NAME)["percent"].iloc[0]) / 100
    laws = [law for law in rows["law"].unique() if law != SEPARATE]
    figure, (batch, error, distance) = style.canvas(3, 3.2)
    near = rows[rows["kl"] <= MOST_KL * 1.5]
    shown = near[near["environment"].isin(near.groupby("law")["kl"].idxmax().map(near["environment"]))]
    _draw(batch, shown, laws, "k", "kept")
    batch.axhline(1, color="#444444", linewidth=0.7)
    batch.plot([K], [paper], marker="*", markersize=9, color="black", linestyle="none", label="paper: more than 87 %")
    batch.set(xscale="log", xlabel="k", ylabel="mean of the estimate / mean Z", title=f"For the batch, KL {MOST_KL:g}")
    _draw(error, shown, laws, "k", "error")
    error.set(xscale="log", yscale="log", xlabel="k", ylabel="mean |error| / Z", title="State by state")
    at_k = rows[(rows["k"] == K) & rows["law"].isin(laws)]
    _draw(distance, at_k, laws, "kl", "error")
    distance.axhline(MOST_ERROR, color="#444444", linewidth=0.7, linestyle=":")
    distance.set(xscale="log", yscale="log", xlabel="KL(policy‖actor), nats", title=f"State by state, k = {K}")
    handles, labels = batch.get_legend_handles_labels()
    for law, dash in zip(laws, _DASHES, strict=False):
        handles.append(Line2D([], [], color="black", linestyle=dash))
        labels.append(law)
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    verdict, agrees = judge(rows)
    return Made(figure, [_table(rows)], verdict, agrees)


def _draw(axes: Axes, rows: pd.DataFrame, laws: list[str], across: str, figure: str) -> None:
    for way, (label, look) in _WAYS.items():
        for law, dash in zip(laws, _DASHES, strict=False):
            line = rows[(rows["way"] == way) & (rows["law"] == law)].sort_values(across)
            axes.errorbar(
                line[across],
                line[figure],
                2 * line[f"{figure}_se"],
                color=look.color,
                marker=look.marker,
                linestyle=dash,
                label=label if law == laws[0] else None,
            )


def judge(rows: pd.DataFrame) -> tuple[str, bool]:
    """The sentence about the bracket and κ at k = 20, and whether the bracket reaches its target."""
    at_k = rows[rows["k"] == K].set_index(["environment", "way"])
    small = at_k[(at_k["kl"] <= MOST_KL * 1.5) & (at_k["law"] != SEPARATE)]
    if small.empty:
        raise StudyError(f"the records hold no law at k = {K} and KL up to {MOST_KL:g}")
    plain, ours, kappa = (small.xs(way, level="way") for way in ("top-k", "calibrated", "bias-corrected"))
    lossy = plain["kept"] <= 1 - LEAST_LOST
    reached = bool((ours["error"][lossy] <= MOST_ERROR).all() and (at_k["outside"] == 0).all())
    worse = int((kappa["error"] > plain["error"]).sum())
    misses = (kappa["kept"] - 1).abs()
    off, errors = float(misses.max()), float((misses / kappa["kept_se"]).max())
    verdict = (
        f"VERDICT: at k = {K} and KL up to {MOST_KL:g} plain top-k keeps {plain['kept'].min():.0%} to "
        f"{plain['kept'].max():.0%} of Z. Where it loses {LEAST_LOST:.0%} or more, the calibrated bracket errs by "
        f"{ours['error'][lossy].min():.2%} to {ours['error'][lossy].max():.2%} of Z, state by state: the target of "
        f"{MOST_ERROR:.0%} is {'reached' if reached else 'NOT reached'}. That κ removes the bias "
        f"{'holds' if errors < _FAR else 'DOES NOT hold'} for the batch's mean (it misses by at most {off:.1%}, "
        f"{errors:.1f} standard errors). State by state κ leaves {kappa['error'].min():.0%} to "
        f"{kappa['error'].max():.0%}: worse than doing nothing in {worse} of {len(kappa)} cases, and up to "
        f"{kappa['above_one'].max():.0%} of its estimates exceed 1."
    )
    return verdict, reached


def _table(rows: pd.DataFrame) -> Table:
    table = report_table(
        f"Mean |error| of Z state by state at k = {K} (± one standard error)",
        *("law", "KL", "tokens", "kept", "Z_k", "κZ_k", "> 1", "calibrated"),
    )
    for _, group in rows[rows["k"] == K].groupby("environment", sort=False):
        ways = {str(row["way"]): row for row in group.to_dict("records")}
        ours = ways["calibrated"]
        first = ways["top-k"]
        table.add_row(
            str(first["law"]),
            f"{first['kl']:.3g}",
            f"{first['tokens']:,}",
            f"{first['kept']:.0%}",
            f"{first['error']:.1%}",
            f"{ways['bias-corrected']['error']:.1%}",
            f"{ways['bias-corrected']['above_one']:.0%}",
            f"{ours['error']:.2%} ± {ours['error_se']:.2%}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
