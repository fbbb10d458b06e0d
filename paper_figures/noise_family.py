"""The gain of rejection depends on the noise: ours, beside the paper's Figure 2.

The paper shows a tenfold fall of the KL. It is a property of additive noise, q = (1 − ε)p + ε·u. Gaussian
noise on the logits is closer to the effect of kernels, precisions and updates. Under it the KL falls to
1/2 − 1/(2π) of its value and no further, however small it is. The closed form assumes a Gaussian log-ratio,
and hence a large vocabulary with no dominant token; it is in `jackpot_sim.core.gaussian`. Points are measured, and
lines are the formula.

    python -m paper_figures.noise_family
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core import gaussian

from . import records, style
from .analysed import Options, bootstrap
from .command import Made, report_table, run
from .records import Loaded

NAME = "noise_family"

ADDITIVE, LOGIT = "dirichlet-mixture", "logit-noise"
_LABELS = {ADDITIVE: ("additive noise (Fig. 2)", "additive"), LOGIT: ("noise on the logits", "logits")}

TOLERANCE = 0.02
"""The largest relative deviation of the measured ratio from the closed form, since a vocabulary is finite."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure and compares logit noise with its closed form."""
    return run(NAME, "The gain of rejection under additive noise and under noise on the logits.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its table."""
    points = measure(loaded)
    figure, (ratio, acceptance) = style.canvas(2, 2.6)
    _draw_ratio(ratio, points)
    _draw_acceptance(acceptance, points)
    logit = points[points["env_kind"] == LOGIT]
    largest = float(logit["deviation"].abs().max())
    additive = points[points["env_kind"] == ADDITIVE]["ratio"]
    verdict = (
        f"VERDICT: logit noise is within {largest:.2%} of the closed form (tolerance {TOLERANCE:.0%}), and at "
        f"the least KL its ratio is {logit['ratio'].iloc[0]:.4f} where the limit is "
        f"{gaussian.SMALL_NOISE_KL_RATIO:.4f}; additive noise is lowered {1 / additive.max():.1f} to "
        f"{1 / additive.min():.1f} times."
    )
    return Made(figure, [_table(points)], verdict, largest <= TOLERANCE)


def measure(loaded: Loaded) -> pd.DataFrame:
    """A row for each environment: KL after / KL before and acceptance, with intervals and the closed form.

    The ratio is resampled as a ratio, since a state that raises one KL raises the other.
    """
    options = Options()
    rows = []
    about = loaded.records.groupby("environment", sort=False)[["env_kind", "target_kl"]].first()
    for environment in bootstrap.environments(loaded.records, loaded.states, options):
        (candidate,) = environment.candidates
        after, before = "kl_accepted", "kl_policy_actor"
        ratio = bootstrap.interval(candidate.draws(after).combined(np.divide, candidate.draws(before)), options)
        rate = bootstrap.interval(candidate.draws("acceptance_rate"), options)
        kl = candidate.draws(before).centre
        rows.append(
            {
                "env_kind": about.loc[environment.name, "env_kind"],
                "kl_before": kl,
                "ratio": ratio.value,
                "ratio_se": ratio.se,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "acceptance": rate.value,
                "acceptance_se": rate.se,
                "acceptance_low": rate.low,
                "acceptance_high": rate.high,
            }
        )
    points = pd.DataFrame(rows).sort_values(["env_kind", "kl_before"], ignore_index=True)
    sigma = np.sqrt(2 * points["kl_before"].to_numpy())
    closed = points["env_kind"] == LOGIT
    points["closed_ratio"] = np.where(closed, gaussian.kl_accepted(sigma) / points["kl_before"], np.nan)
    points["closed_acceptance"] = np.where(closed, gaussian.overlap(sigma), np.nan)
    points["deviation"] = points["ratio"] / points["closed_ratio"] - 1
    return points


def _table(points: pd.DataFrame) -> Table:
    columns = ("KL before", "ratio", "se", "formula", "deviation", "accepted", "formula")
    table = report_table("KL after / KL before at λ = 1", "noise", *columns)
    for kind, rows in points.groupby("env_kind", sort=False):
        for _, row in rows.iterrows():
            known = np.isfinite(row["closed_ratio"])
            table.add_row(
                _LABELS[str(kind)][1],
                f"{row['kl_before']:.4f}",
                f"{row['ratio']:.4f}",
                f"{row['ratio_se']:.4f}",
                f"{row['closed_ratio']:.4f}" if known else "",
                f"{row['deviation']:+.2%}" if known else "",
                f"{row['acceptance']:.4f}",
                f"{row['closed_acceptance']:.4f}" if known else "",
            )
        table.add_section()
    return table


def _draw_ratio(axes: Axes, points: pd.DataFrame) -> None:
    kl = np.geomspace(1e-4, 2, 200)
    axes.plot(kl, gaussian.kl_accepted(np.sqrt(2 * kl)) / kl, label="closed form", **style.CLOSED_FORM)
    _draw_points(axes, points, "ratio")
    limit = gaussian.SMALL_NOISE_KL_RATIO
    axes.axhline(limit, color="#999999", linewidth=0.8, zorder=1)
    axes.annotate(
        f"1/2 − 1/(2π) = {limit:.2f}",
        (1.9, limit),
        xytext=(0, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        color="#666666",
    )
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=1)
    axes.annotate("no gain", (1.3e-4, 1), xytext=(0, -3), textcoords="offset points", va="top", color="#666666")
    paper = records.published("figure2_simulation").dropna(subset=["kl_after"])
    axes.plot(paper["kl_before"], paper["kl_after"] / paper["kl_before"], label="paper", **style.PUBLISHED)
    axes.set(xscale="log", yscale="log", xlim=(1e-4, 2), ylim=(0.03, 1.3))
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1], ["0.05", "0.1", "0.2", "0.5", "1"])
    axes.set(xlabel="KL before (nats)", ylabel="KL after / KL before")
    axes.set_title("(a) How much of the KL is left")
    axes.legend(loc="lower right")
    for kind, place in ((ADDITIVE, (2.2e-4, 0.042)), (LOGIT, (2.2e-4, 0.39))):
        axes.text(*place, _LABELS[kind][0], color=style.NOISES[kind].color)


def _draw_acceptance(axes: Axes, points: pd.DataFrame) -> None:
    kl = np.geomspace(1e-4, 2, 200)
    axes.plot(kl, gaussian.overlap(np.sqrt(2 * kl)), label="closed form", **style.CLOSED_FORM)
    _draw_points(axes, points, "acceptance", named=True)
    paper = records.published("figure2_simulation").dropna(subset=["acceptance"])
    axes.plot(paper["kl_before"], paper["acceptance"], label="paper", **style.PUBLISHED)
    axes.set(xscale="log", xlim=(1e-4, 2), ylim=(0.3, 1.02))
    axes.set(xlabel="KL before (nats)", ylabel="acceptance rate")
    axes.set_title("(b) What it costs: much the same")
    axes.legend(loc="lower left")


def _draw_points(axes: Axes, points: pd.DataFrame, figure: str, named: bool = False) -> None:
    for kind, look in style.NOISES.items():
        rows = points[points["env_kind"] == kind]
        joined = "none" if kind == LOGIT else "-"  # logit noise has a formula to join its points
        name = _LABELS[kind][0] if named else None
        axes.plot(rows["kl_before"], rows[figure], color=look.color, marker=look.marker, linestyle=joined, label=name)
        axes.fill_between(
            rows["kl_before"], rows[f"{figure}_low"], rows[f"{figure}_high"], color=look.color, alpha=0.3, linewidth=0
        )


if __name__ == "__main__":
    sys.exit(main())
