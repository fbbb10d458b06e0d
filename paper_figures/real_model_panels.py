"""The panels of `real_model`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from jackpot_sim.core import gaussian

from . import records, style
from .real_model_actors import WAYS, K, at_k
from .style import Look


def _look(kind: str) -> Look:
    return style.SOURCES[kind]


def draw_strip(axes: Axes, actors: pd.DataFrame, paper: pd.DataFrame) -> None:
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
    style.draw_papers_kls(axes, paper)
    axes.set_title("(a) How far apart")


def draw_plane(axes: Axes, actors: pd.DataFrame, paper: pd.DataFrame) -> None:
    """The share that rejection discards, on average and in the worst twentieth of the states."""
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
    axes.set(xscale="log", yscale="log", xlabel="KL, as filled in (a)", ylabel="rejected at λ = 1")
    style.draw_papers_kls(axes, paper, named=True)
    axes.set_title("(b) What rejection discards")
    axes.set_ylim(top=4)
    legend = "dashed: Gaussian log-ratios; dotted: the paper's\nlines: to the worst 5 % of states"
    axes.text(0.01, 0.99, legend, transform=axes.transAxes, va="top", fontsize=7)


def draw_share(axes: Axes, actors: pd.DataFrame, ways: pd.DataFrame) -> None:
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


def draw_errors(axes: Axes, actors: pd.DataFrame, ways: pd.DataFrame) -> None:
    """The error of each way to Z, state by state."""
    kl = actors.set_index("label")["kl"]
    for way, (_, name, look) in WAYS.items():
        rows = at_k(actors, ways, way)
        axes.plot(kl[rows.index], rows["error"], color=look.color, marker=look.marker, linestyle="none", label=name)
    axes.set(xscale="log", yscale="log", xlabel="KL, as filled in (a)", ylabel="mean |error| / Z")
    axes.set_title(f"(d) The ways to Z, state by state, k = {K}")
