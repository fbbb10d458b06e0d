"""The panels of `bias_variance_length`: points are geometric means over seeds, bars their standard errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from jackpot_sim.core.arrays import Floats

from . import fits, style

MAIN_REWARD = "sum-modulo"
"""The reward of the panels, and of the fits that name no other."""
TOKEN = ("none", "is", "tis", "rao-blackwell(jackpot)")
SEQUENCE = ("sequence-is", "sequence-tis", "sequence-mis", "geometric-tis")
NAMES = {
    "none": "none",
    "is": "IS of tokens",
    "tis": "TIS of tokens",
    "rao-blackwell(jackpot)": "Jackpot, Rao-Blackwell",
    "sequence-is": "IS of sequences",
    "sequence-tis": "truncated IS of sequences",
    "sequence-mis": "masked IS of sequences",
    "geometric-tis": "geometric TIS",
}
_GUIDE: dict[str, Any] = {"color": "#777777", "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}
SHOWN_KL = 0.01
"""The KL of panels (a) and (b); truncation and masks of sequences have next to no bias there."""
_FLOOR = 1e-9
"""The bias relative to the gradient below which it is rounding, and not drawn."""


def draw(rows: pd.DataFrame) -> Figure:
    """The figure: six panels and one legend."""
    shown = rows[rows["reward"] == MAIN_REWARD]
    figure, axes = style.canvas(3, 4.9, rows=2)
    _bias(axes[0], shown, "absolute", "(a) Bias", "‖ĝ − g‖")
    _bias(axes[1], shown, "bias", "(b) Relative to g", "‖ĝ − g‖ / ‖g‖")
    _distance(axes[2], shown)
    _second_moment(axes[3], shown)
    _variance(axes[4], shown)
    _error(axes[5], shown)
    handles = [
        Line2D([], [], color=style.LOOKS[name].color, marker=style.LOOKS[name].marker, label=NAMES[name])
        for name in (*TOKEN, *SEQUENCE)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.4)
    return figure


def _bias(axes: Axes, shown: pd.DataFrame, size: str, title: str, label: str) -> None:
    kl = SHOWN_KL
    at = shown[np.isclose(shown["target_kl"], kl)]
    _lines(axes, at[at["bias"] > _FLOOR], (*TOKEN, "geometric-tis"), "length", size)
    lengths = np.arange(2, at["length"].max() + 1, dtype=np.float64)
    start = np.exp(fits.geometric(at[(at["estimator"] == "is") & (at["length"] == 2)][size]).value)
    pairs = start * lengths * (lengths - 1) / 2
    axes.plot(lengths, pairs, **_GUIDE)
    axes.annotate(
        "∝ T(T − 1)",
        (lengths[-2], pairs[-2]),
        xytext=(-4, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="#555555",
    )
    axes.set(yscale="log", ylabel=label)
    axes.set_title(f"{title}, KL {kl:g}")
    _lengths(axes, at)


def _distance(axes: Axes, shown: pd.DataFrame) -> None:
    longest = shown[shown["length"] == shown["length"].max()]
    points = longest[(longest["bias"] > _FLOOR) & longest["estimator"].isin(TOKEN)]
    for name in TOKEN:
        of = points[points["estimator"] == name].groupby("target_kl")
        x = of["total_variation"].apply(lambda each: np.exp(fits.geometric(each).value))
        _with_bars(axes, name, x.to_numpy(), [fits.geometric(each) for _, each in of["absolute"]])
    of_is = points[points["estimator"] == "is"].groupby("target_kl")
    x, y = (
        of_is[name].apply(lambda each: np.exp(fits.geometric(each).value)) for name in ("total_variation", "absolute")
    )
    axes.plot(x, y.iloc[0] * x / x.iloc[0] / 1.6, **_GUIDE)
    axes.annotate(
        "∝ Δ",
        (x.iloc[1], y.iloc[0] * x.iloc[1] / x.iloc[0] / 1.6),
        xytext=(4, -3),
        textcoords="offset points",
        va="top",
        color="#555555",
    )
    axes.set(xscale="log", yscale="log", xlabel="Δ, total variation per token", ylabel="‖ĝ − g‖")
    axes.set_xticks([0.01, 0.1], ["0.01", "0.1"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"(c) Bias at T = {longest['length'].max()}")


def _second_moment(axes: Axes, shown: pd.DataFrame) -> None:
    cells = shown.drop_duplicates("cell")
    for color, (kl, of) in zip(style.LEVELS, cells.groupby("target_kl"), strict=False):
        by_length = of.groupby("length")
        measured = [fits.geometric(np.log1p(each)) for _, each in by_length["chi_square_sequence"]]
        per_token = [np.exp(fits.geometric(np.log1p(each)).value) for _, each in by_length["chi_square"]]
        lengths = np.array(sorted(of["length"].unique()), dtype=np.float64)
        mean, error = (np.array([each[i] for each in measured]) for i in (0, 1))
        axes.errorbar(lengths, np.exp(mean), _bars(mean, error), color=color, marker="o", elinewidth=0.9)
        axes.plot(lengths, lengths * per_token, **style.CLOSED_FORM | {"linewidth": 0.9})
        axes.annotate(
            f"KL {kl:g}",
            (lengths[-1], np.exp(mean[-1])),
            xytext=(0, -9),
            textcoords="offset points",
            color=color if color != style.LEVELS[0] else style.LEVELS[1],
            ha="right",
            va="top",
        )
    axes.set(yscale="log", ylabel=r"$\log E[e^{2S}] = \log(1+\chi^2_{\mathrm{seq}})$")
    axes.set_ylim(top=8)
    axes.set_title("(d) Second moment of IS")
    axes.text(0.04, 0.97, r"dashed: $(1+\chi^2_{\mathrm{token}})^T$", transform=axes.transAxes, va="top", fontsize=7.5)
    _lengths(axes, cells)


def _variance(axes: Axes, shown: pd.DataFrame) -> None:
    kl = shown["target_kl"].max()
    at = shown[shown["target_kl"] == kl]
    _lines(axes, at, ("is", "tis", "rao-blackwell(jackpot)", *SEQUENCE), "length", "variance")
    axes.set(yscale="log", ylabel="variance / on-policy variance")
    axes.set_title(f"(e) Variance, KL {kl:g}")
    _plain(axes, (0.5, 1, 2, 5, 10, 20))
    _lengths(axes, at)


def _error(axes: Axes, shown: pd.DataFrame) -> None:
    """The MSE at n sequences in units of the mean ‖g‖², as ratios of means over seeds."""
    kl, longest = shown["target_kl"].max(), shown["length"].max()
    at = shown[(shown["target_kl"] == kl) & (shown["length"] == longest)]
    n = np.geomspace(10, 1e5, 60)
    for name in (*TOKEN, *SEQUENCE):
        of = at[at["estimator"] == name]
        noise = (of["variance"] * of["on_policy_variance"]).sum() / of["grad_norm_sq"].sum()
        axes.plot(n, (of["absolute"] ** 2).sum() / of["grad_norm_sq"].sum() + noise / n, color=style.LOOKS[name].color)
    axes.set(xscale="log", yscale="log", xlabel="n, sequences per prompt", ylabel="MSE / ‖g‖²")
    axes.set_title(f"(f) MSE, KL {kl:g}, T = {longest}")


def _lines(axes: Axes, at: pd.DataFrame, names: tuple[str, ...], x: str, y: str) -> None:
    for name in names:
        of = at[at["estimator"] == name].groupby(x)
        means = {place: fits.geometric(each) for place, each in of[y]}
        _with_bars(axes, name, np.array(list(means), dtype=np.float64), list(means.values()))


def _with_bars(axes: Axes, name: str, x: Floats, means: list[fits.Fitted]) -> None:
    look = style.LOOKS[name]
    mean, error = (np.array([each[i] for each in means]) for i in (0, 1))
    axes.errorbar(x, np.exp(mean), _bars(mean, error), color=look.color, marker=look.marker, elinewidth=0.9)


def _bars(mean: Floats, error: Floats) -> Floats:
    return np.stack([np.exp(mean) - np.exp(mean - error), np.exp(mean + error) - np.exp(mean)])


def _lengths(axes: Axes, of: pd.DataFrame) -> None:
    axes.set(xlabel="T, tokens")
    axes.set_xticks(sorted(of["length"].unique()))


def _plain(axes: Axes, ticks: tuple[float, ...]) -> None:
    low, high = axes.get_ylim()
    shown = [each for each in ticks if low <= each <= high]
    axes.set_yticks(shown, [f"{each:g}" for each in shown])
    axes.minorticks_off()
