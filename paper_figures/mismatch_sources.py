"""The KL between actor and policy under real sources of mismatch, and the share that rejection at λ = 1 discards.

Every source starts from the same tiny models: weights and KV cache in coarse formats, a short attention
window, stale steps, a distilled student, another model trained on its own. The paper gives the KL of four
causes and claims that two different models are an order of magnitude further apart than stale or quantised
ones. Tiny models show mechanisms, not magnitudes: the order of the sources, and whether the rejected share follows
from the KL alone, as by the closed form for Gaussian log-ratios, 2Φ(σ/2) − 1 with KL = σ²/2. A format has no
parameter; the distance of stale steps depends on the learning rate, which is our choice.

Open points are those of `real_model`, a language model of 135 million parameters in the same formats, from the records
that ship with it: it lies hundreds of times further, and int4 that is harmless here is not harmless there.

Points are geometric means over seeds, with standard errors.

    python -m paper_figures.mismatch_sources
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core import gaussian
from jackpot_sim.core.arrays import Floats

from . import fits, real_model, records, style
from .command import Made, report_table, run
from .records import Loaded

NAME = "mismatch_sources"

ORDER_OF_MAGNITUDE = 10.0
TWO_MODELS = "another model"
FASTER = "× lr"
"""The mark of a learning rate above the least, in labels of stale steps."""
JUDGED = ("quantized-weights", "quantized-kv")
"""The kinds of sources in the paper's claim that have no parameter; staleness has the learning rate, our choice."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether two models are ten times further apart than quantised or stale ones."""
    return run(NAME, "KL and acceptance of real sources of mismatch, beside the paper's markers.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its table."""
    real = real_model.load(real_model.NAME).actors.set_index("label")
    points, paper = summary(measured(loaded)), records.published(NAME)
    points["real"] = points["label"].map(real["kl"]).where(points["judged"])  # steps depend on the learning rate
    figure, (strip, plane) = style.canvas(2, 4.1, [1.05, 1.0])
    _draw_strip(strip, points, paper)
    _draw_plane(plane, points, paper, real)
    judged = points[points["judged"]]
    short = judged[judged["ratio"] < ORDER_OF_MAGNITUDE]
    nearest = judged.iloc[int(judged["ratio"].argmin())]
    missed = "" if short.empty else f", not of {', '.join(short['label'])}"
    verdict = (
        f"VERDICT: that two models are {ORDER_OF_MAGNITUDE:g} times further apart than quantised ones "
        f"{'holds' if short.empty else 'DOES NOT hold'} for these tiny models: the KL of another model over theirs is "
        f"at least {ORDER_OF_MAGNITUDE:g} for {len(judged) - len(short)} of {len(judged)} formats{missed}. "
        f"The least is {nearest['label']}: {_ratio_with_range(nearest)}. {_beside(points)}{_of_real(points)}"
    )
    return Made(figure, [_table(points)], verdict, short.empty)


def measured(loaded: Loaded) -> pd.DataFrame:
    """A row for each source and seed: label, KL, rejected share, and the KL of two models over the KL."""
    environments = {text: json.loads(text) for text in loaded.records["environment"].unique()}
    rates = [each["source"]["learning_rate"] for each in environments.values() if each["source"]["kind"] == "stale"]
    labels = {text: label(each, min(rates, default=0.0)) for text, each in environments.items()}
    rows = loaded.records.assign(label=loaded.records["environment"].map(labels))
    two_models = rows[rows["label"] == TWO_MODELS].set_index("seed")["kl_policy_actor"]
    rows["ratio"] = rows["seed"].map(two_models) / rows["kl_policy_actor"]
    rows["rejected"] = 1 - rows["acceptance_rate"]
    return rows[["label", "env_kind", "seed", "kl_policy_actor", "rejected", "ratio"]]


def label(environment: Mapping[str, Any], least_rate: float) -> str:
    """The label of a source."""
    source = environment["source"]
    kind = source["kind"]
    if kind in ("quantized-weights", "quantized-kv"):
        return f"{'weights' if kind == 'quantized-weights' else 'KV cache'} {source['format']}"
    if kind == "sliding-window":
        return f"attends to {source['window']} tokens"
    if kind == "stale":
        rate = source["learning_rate"] / least_rate
        steps = f"stale {source['steps']} step{'s' if source['steps'] != 1 else ''}"
        return f"{steps}, {rate:g}{FASTER}" if rate > 1 else steps
    if kind == "distilled":
        return f"student, {source['steps']} steps"
    return TWO_MODELS if source["actor"] == environment["model"] else "a smaller model"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each source, in the order of the study: geometric means over seeds, errors in logarithms, extremes."""
    out = []
    for (name, kind), of in rows.groupby(["label", "env_kind"], sort=False):
        row = {"label": name, "kind": kind, "judged": kind in JUDGED}
        for column in ("kl_policy_actor", "rejected", "ratio"):
            mean = fits.geometric(of[column])
            row |= {column: np.exp(mean.value), f"{column}_log_se": mean.se}
        out.append(row | {"least": of["ratio"].min(), "most": of["ratio"].max()})
    points = pd.DataFrame(out)
    points["expected"] = gaussian.total_variation(np.sqrt(2 * points["kl_policy_actor"].to_numpy()))
    return points


def _ratio_with_range(row: pd.Series[float]) -> str:
    return f"{_short(row['ratio'])} ({_short(row['least'])} to {_short(row['most'])} over seeds)"


def _beside(points: pd.DataFrame) -> str:
    """The ratios of stale steps, which are shown but not judged: they depend on the learning rate, our choice."""
    ratios = "; ".join(
        f"{row['label']}: {_ratio_with_range(row)}" for _, row in points[points["kind"] == "stale"].iterrows()
    )
    return f"For stale steps it depends on steps and learning rate, our choice: {ratios}. " if ratios else ""


def _of_real(points: pd.DataFrame) -> str:
    """The same formats of a real model: the reason why these KLs are mechanisms, not magnitudes."""
    both = points[points["real"].notna()]
    if both.empty:
        return "Mechanisms, not magnitudes."
    listed = ", ".join(
        f"{row['label']} {_short(row['real'])} instead of {_short(row['kl_policy_actor'])}"
        for _, row in both.iterrows()
    )
    return f"Mechanisms, not magnitudes: a real model's KLs are {listed} nats (`real_model`)."


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):,g}"


def _table(points: pd.DataFrame) -> Table:
    title = "Sources: KL per token (×/ standard error), rejected at λ = 1, and KL of another model over it"
    columns = ("KL", "rejected", "formula", "ratio", "over seeds", f"≥ {ORDER_OF_MAGNITUDE:g}", "real LM")
    table = report_table(title, "source", *columns)
    for _, rows in points.groupby("kind", sort=False):
        for _, row in rows.iterrows():
            table.add_row(
                row["label"],
                f"{row['kl_policy_actor']:.1e} ×/ {np.exp(row['kl_policy_actor_log_se']):.1f}",
                f"{row['rejected']:.4f}",
                f"{row['expected']:.4f}",
                _short(row["ratio"]),
                f"{_short(row['least'])}–{_short(row['most'])}",
                "" if not row["judged"] else "yes" if row["ratio"] >= ORDER_OF_MAGNITUDE else "NO",
                "" if np.isnan(row["real"]) else f"{row['real']:.1e}",
            )
        table.add_section()
    return table


def _draw_strip(axes: Axes, points: pd.DataFrame, paper: pd.DataFrame) -> None:
    place, places = 0.0, []
    for kind, rows in points.groupby("kind", sort=False):
        look = style.SOURCES[str(kind)]
        heights = place + np.arange(len(rows))
        axes.errorbar(
            rows["kl_policy_actor"],
            heights,
            xerr=_bars(rows, "kl_policy_actor"),
            color=look.color,
            marker=look.marker,
            linestyle="none",
            elinewidth=1.0,
        )
        axes.plot(rows["real"], heights, **_of_kind(look))
        places += list(zip(heights, rows["label"], [look.color] * len(rows), strict=True))
        place = heights[-1] + 1.5
    axes.set(xscale="log", ylim=(place - 0.7, -0.8), xlabel="KL between actor and policy (nats per token)")
    axes.set_yticks([each[0] for each in places], [each[1] for each in places], fontsize=7)
    for tick, (_, _, color) in zip(axes.get_yticklabels(), places, strict=True):
        tick.set_color(color)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(1e-7, 3)
    _decades(axes)
    style.draw_papers_kls(axes, paper)
    axes.set_title("(a) How far apart")


def _of_kind(look: style.Look) -> dict[str, Any]:
    """The look of a point of the real model."""
    return {
        "color": look.color,
        "marker": look.marker,
        "markerfacecolor": "white",
        "markeredgecolor": look.color,
        "linestyle": "none",
        "zorder": 3,
    }


def _draw_plane(axes: Axes, points: pd.DataFrame, paper: pd.DataFrame, real: pd.DataFrame) -> None:
    kl = np.geomspace(1e-7, 10, 200)
    axes.plot(kl, gaussian.total_variation(np.sqrt(2 * kl)), **style.CLOSED_FORM)
    for kind, rows in points.groupby("kind", sort=False):
        look = style.SOURCES[str(kind)]
        axes.errorbar(
            rows["kl_policy_actor"],
            rows["rejected"],
            xerr=_bars(rows, "kl_policy_actor"),
            yerr=_bars(rows, "rejected"),
            color=look.color,
            marker=look.marker,
            linestyle="none",
            elinewidth=0.8,
        )
    for _, row in real.iterrows():
        axes.plot(row["kl"], row["rejected"], **_of_kind(style.SOURCES[row["kind"]]))
    axes.set(xscale="log", yscale="log", xlim=(1e-7, 10), ylim=(1e-4, 1))
    axes.set(xlabel="KL between actor and policy (nats per token)", ylabel="rejected at λ = 1")
    axes.set_yticks([1e-4, 1e-3, 1e-2, 0.1, 1], ["0.01%", "0.1%", "1%", "10%", "100%"])
    _decades(axes)
    style.draw_papers_kls(axes, paper, named=True)
    axes.set_title("(b) What rejection discards")
    axes.text(
        0.02,
        0.98,
        "dashed: Gaussian log-ratios\ndotted: KLs in the paper\nopen: a real model",
        transform=axes.transAxes,
        va="top",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
    )


def _bars(rows: pd.DataFrame, column: str) -> Floats:
    mean, factor = rows[column].to_numpy(), np.exp(rows[f"{column}_log_se"].to_numpy())
    bars: Floats = np.stack([mean - mean / factor, mean * factor - mean])
    return bars


def _decades(axes: Axes) -> None:
    axes.set_xticks([1e-6, 1e-4, 1e-2, 1])
    axes.set_xticks([1e-7, 1e-5, 1e-3, 1e-1], minor=True, labels=[""] * 4)


if __name__ == "__main__":
    sys.exit(main())
