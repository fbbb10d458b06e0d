"""Figure 2 of the paper: the effect of rejection on the KL between actor and policy, and its cost.

Panel (a) is a toy of four tokens, whose numbers are our choice, since the paper prints none.
Panels (b) and (c) are measured: p ~ Dirichlet(2) over 1000 tokens, q = (1 − ε)p + ε·u with
u ~ Dirichlet(1), λ = 1, with ε solved for the KL that the paper shows. The paper does not state its generator; this
one was found by fitting. Agreement therefore shows that such a generator exists and that the formulas are the same,
not that the paper used it. The paper's points are read off its plots.

    python -m paper_figures.figure2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core import divergences, obrs

from . import records, style
from .command import Made, report_table, run
from .records import Loaded

NAME = "figure2"

POLICY = (0.45, 0.30, 0.20, 0.05)
ACTOR = (0.20, 0.35, 0.15, 0.30)
"""The laws of the toy over four tokens: our choice."""

MARKERS = {
    "64-step staleness": 4e-4,
    "FP8 KV cache": 2e-3,
    "sparse attention": 2e-2,
    "two different\nmodels": 0.1,
}
"""The KL between actor and policy that the paper gives for each cause, nats."""

ACCEPTANCE_TOLERANCE = 0.002
KL_TOLERANCE = 1e-4
KL_RELATIVE_TOLERANCE = 0.08
"""A KL after rejection agrees if it is within either tolerance: the plots are coarse where it is small."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure and compares it with the paper's points."""
    return run(NAME, "Acceptance and KL before and after rejection, with the paper's points.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its table."""
    curve = _curve(loaded)
    points = deviations(loaded)
    figure, (toy, acceptance, after) = style.canvas(3, 2.5, [0.95, 1.15, 1.0])
    _draw_toy(toy)
    _draw_acceptance(acceptance, curve, points)
    _draw_kl(after, curve, points)
    agreeing = int(points["within"].sum())
    verdict = (
        f"VERDICT: {agreeing} of {len(points)} published points within tolerance (acceptance {ACCEPTANCE_TOLERANCE}, "
        f"KL after {KL_RELATIVE_TOLERANCE:.0%} or {KL_TOLERANCE:g})."
    )
    return Made(figure, [_table(points)], verdict, agreeing == len(points))


def _curve(loaded: Loaded) -> pd.DataFrame:
    """A row for each KL before rejection: acceptance and KL after it, each with its interval."""
    figures = loaded.figures()
    wide = figures.pivot(index="target_kl", columns="figure", values=["value", "se", "low", "high"])
    wide.columns = pd.Index([f"{pair[1]}_{pair[0]}" for pair in wide.columns.to_list()])
    return wide.sort_index().reset_index()


def deviations(loaded: Loaded) -> pd.DataFrame:
    """The comparison of these records with the paper, see `compare`."""
    return compare(_curve(loaded), records.published("figure2_simulation"))


def compare(curve: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """A row for each published number: ours, the deviation, and whether it is within tolerance."""
    rows = []
    for figure, ours, tolerance in (
        ("acceptance", "acceptance_rate", ACCEPTANCE_TOLERANCE),
        ("kl_after", "kl_accepted", KL_TOLERANCE),
    ):
        shown = paper[["kl_before", figure]].dropna()
        for kl_before, value in zip(shown["kl_before"], shown[figure], strict=True):
            at = curve.loc[np.isclose(curve["target_kl"], kl_before, rtol=1e-9)].iloc[0]
            allowed = max(tolerance, KL_RELATIVE_TOLERANCE * value) if figure == "kl_after" else tolerance
            deviation = at[f"{ours}_value"] - value
            rows.append(
                {
                    "kl_before": kl_before,
                    "figure": figure,
                    "paper": value,
                    "ours": at[f"{ours}_value"],
                    "se": at[f"{ours}_se"],
                    "deviation": deviation,
                    "allowed": allowed,
                    "within": bool(abs(deviation) <= allowed),
                }
            )
    return pd.DataFrame(rows)


def _table(points: pd.DataFrame) -> Table:
    table = report_table(
        "Published points and ours", "", "KL before", "paper", "ours", "se", "deviation", "allowed", "within"
    )
    for figure, rows in points.groupby("figure", sort=False):
        digits = 4 if figure == "acceptance" else 6
        for _, row in rows.iterrows():
            table.add_row(
                str(figure).replace("_", " "),
                f"{row['kl_before']:.5f}",
                f"{row['paper']:.{4 if figure == 'acceptance' else 5}f}",
                f"{row['ours']:.{digits}f}",
                f"{row['se']:.1e}",
                f"{row['deviation']:+.{digits}f}",
                f"{row['allowed']:.{digits}f}",
                "yes" if row["within"] else "NO",
            )
        table.add_section()
    return table


def _draw_toy(axes: Axes) -> None:
    log_p, log_q = np.log(POLICY), np.log(ACTOR)
    accepted = obrs.accepted_log_probs(log_p, log_q, 1.0)
    rate = float(obrs.overlap(log_p, log_q))
    before, after = float(divergences.kl(log_p, log_q)), float(divergences.kl(log_p, accepted))
    place = np.arange(1, len(POLICY) + 1)
    laws = (
        (r"actor $q$", np.array(ACTOR), style.ACTOR),
        (r"accepted $\tilde{q}$", np.exp(np.asarray(accepted)), style.LOOKS["obrs"].color),
        (r"policy $p$", np.array(POLICY), style.POLICY),
    )
    for offset, (label, law, color) in zip((-0.27, 0.0, 0.27), laws, strict=True):
        axes.bar(place + offset, law, width=0.25, color=color, label=label)
    axes.set(ylabel="probability", xticks=place, ylim=(0, 0.68))
    axes.set_xlabel(f"token (our choice)\naccepted {rate:.2f}, KL {before:.2f} → {after:.2f}")
    axes.set_yticks([0, 0.2, 0.4])
    axes.grid(visible=False)
    axes.set_title("(a) Four tokens, λ = 1")
    axes.legend(loc="upper left", handlelength=0.8, labelspacing=0.2, borderaxespad=0)


def _draw_acceptance(axes: Axes, curve: pd.DataFrame, points: pd.DataFrame) -> None:
    _draw_curve(axes, curve, "acceptance_rate")
    shown = points[points["figure"] == "acceptance"]
    axes.plot(shown["kl_before"], shown["paper"], label="paper", **style.PUBLISHED)
    for label, kl in MARKERS.items():
        axes.axvline(kl, color="#777777", linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
        axes.annotate(
            label,
            (kl, 0.02),
            xycoords=axes.get_xaxis_transform(),
            xytext=(-1.5, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            color="#444444",
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"},
            zorder=1.5,
        )
    axes.set(xscale="log", xlim=(2e-4, 0.2), ylim=(0.70, 1.005))
    axes.set(xlabel="KL before (nats)", ylabel="acceptance rate")
    axes.set_title("(b) What rejection costs")


def _draw_kl(axes: Axes, curve: pd.DataFrame, points: pd.DataFrame) -> None:
    _draw_curve(axes, curve, "kl_accepted")
    shown = points[points["figure"] == "kl_after"]
    axes.plot(shown["kl_before"], shown["paper"], label="paper", **style.PUBLISHED)
    span = np.array([2e-4, 0.2])
    for factor, label in ((1.0, "unchanged"), (0.1, "a tenth")):
        axes.plot(span, factor * span, color="#999999", linewidth=0.8, zorder=1)
        axes.text(
            4e-4,
            4e-4 * factor * 1.35,
            label,
            color="#666666",
            rotation=np.degrees(np.arctan(factor * 1.35)),  # along the line, on logarithmic axes
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    axes.set(xscale="log", yscale="log", xlim=(2e-4, 0.2), ylim=(5e-6, 0.2))
    axes.set(xlabel="KL before (nats)", ylabel="KL after (nats)")
    axes.set_title("(c) What it gains")
    axes.legend(loc="lower right")


def _draw_curve(axes: Axes, curve: pd.DataFrame, figure: str) -> None:
    color = style.LOOKS["obrs"].color
    x = curve["target_kl"].to_numpy()
    axes.plot(x, curve[f"{figure}_value"], color=color, marker=".", markersize=4, label="ours")
    axes.fill_between(x, curve[f"{figure}_low"], curve[f"{figure}_high"], color=color, alpha=0.3, linewidth=0)


if __name__ == "__main__":
    sys.exit(main())
