"""Jackpot, OBRS and truncated importance sampling agree up to a factor and to noise: I1 to I3 (ours).

I1. obrs(λ = C) and tis(C) have the same effective law, hence the same KL(p‖q_w).
I2. In expectation over its mask Jackpot weighs a token by Z·min(r, c1/Z): TIS with a clip and a factor
    that depend on the state's overlap Z. The estimator overlap-tis is exactly that, without a mask.
I3. So the Rao-Blackwell form of Jackpot has the variance of overlap-tis, Z²·Var[TIS(c1/Z)], and
    Jackpot's own is larger: the difference is the noise of its mask.

Panel (a) shows one state of the records; its curves depend on the overlap of the state alone. The band is the
mean of m·w over the mask ± one standard deviation, w·sqrt(a(1 − a)); the axis cuts it at 0. Laws are lm-like
(near-certain states beside open ones), the actor differs by noise on its logits, λ = 1, c1 = 2.

    python -m paper_figures.unification
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from rich.table import Table

from jackpot_sim.core.arrays import Floats
from jackpot_sim.studies.estimator_spec import EstimatorSpec

from . import style
from .analysed import Options, bootstrap
from .command import Made, report_table, run
from .records import Loaded, study

NAME = "unification"

LAM, C1 = 1.0, 2.0
TYPICAL_OVERLAP = 0.6
"""The overlap to which that of panel (a)'s state is closest: small enough for the factor Z to show."""

TOLERANCE = 1e-9
"""The largest relative deviation: the identities are exact up to rounding."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure and reports the deviation of each identity."""
    return run(NAME, "Jackpot in terms of truncated importance sampling: identities I1 to I3.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its table."""
    overlap = _one_state(loaded)
    deviations = identities(loaded, overlap)
    figures = loaded.figures()
    noise = masking_noise(loaded)
    figure, (expected, laws, variance) = style.canvas(3, 2.7)
    _draw_expected(expected, overlap)
    _draw_laws(laws, figures)
    _draw_variance(variance, figures)
    largest = float(deviations["deviation"].max())
    agrees = largest <= TOLERANCE
    holds = "hold" if agrees else "DO NOT hold"
    verdict = f"VERDICT: the identities {holds}: the largest deviation is {largest:.1e} (tolerance {TOLERANCE:g})."
    return Made(figure, [_table(deviations), _noise_table(noise)], verdict, agrees)


def specs() -> dict[str, EstimatorSpec]:
    """The estimators of I2 and I3 by short name."""
    named = {}
    for each in study(NAME).estimators:
        if each.kind in ("jackpot", "overlap-tis"):
            named["rao-blackwell(jackpot)" if each.rao_blackwell else each.kind] = each
    return named


def by_threshold(kind: str) -> dict[float, str]:
    """The labels of tis(C) or obrs(λ = C) in the records, by C."""
    specs = [each for each in study(NAME).estimators if each.kind == kind]
    return {float(next(iter(each.parameters.values()))): each.label for each in specs}


def identities(loaded: Loaded, overlap: float) -> pd.DataFrame:
    """The largest relative deviation of each identity, and the number of its comparisons."""
    states = loaded.states.set_index(["estimator", "cell", "state"]).sort_index()
    obrs, tis = (pd.concat([states.loc[label] for label in by_threshold(kind).values()]) for kind in ("obrs", "tis"))
    jackpot, blackwell, product = (
        states.loc[specs()[name].label] for name in ("jackpot", "rao-blackwell(jackpot)", "overlap-tis")
    )
    ratio = _ratios()
    accept, weight = _weights(ratio, overlap)
    formula = overlap * np.minimum(ratio, C1 / overlap)
    gap = (jackpot["second_moment"] - blackwell["second_moment"]) / blackwell["second_moment"]
    rows = [
        # Compared row by row, by C, cell and state.
        ("I1", "KL of the update: obrs(λ = C) and tis(C)", _deviation(obrs["kl_effective"], tis["kl_effective"])),
        ("I2", "E[mw | r] and Z·min(r, c1/Z)", _deviation(accept * weight, formula)),
        ("I2", "bias: jackpot and overlap-tis", _deviation(jackpot["error_sq"], product["error_sq"])),
        ("I2", "E[mw]: jackpot and overlap-tis", _deviation(jackpot["weight_mean"], product["weight_mean"])),
        (
            "I3",
            "E[mw²‖f‖²]: rao-blackwell(jackpot) and overlap-tis",
            _deviation(blackwell["second_moment"], product["second_moment"]),
        ),
        ("I3", "jackpot above rao-blackwell(jackpot): shortfall", np.maximum(0, -gap.to_numpy())),
    ]
    return pd.DataFrame(
        [
            {"identity": name, "compared": what, "comparisons": len(each), "deviation": float(np.max(each))}
            for name, what, each in rows
        ]
    )


def masking_noise(loaded: Loaded) -> pd.DataFrame:
    """A row for each KL before: the variances of Jackpot and of its Rao-Blackwell form, and their paired difference."""
    names = [specs()[name].label for name in ("jackpot", "rao-blackwell(jackpot)")]
    chosen = loaded.records[loaded.records["estimator"].isin(names)]
    kl_before = chosen.groupby("environment")["target_kl"].first()
    options = Options()
    rows = []
    for environment in bootstrap.environments(chosen, loaded.states, options):
        candidates = {candidate.estimator: candidate for candidate in environment.candidates}
        masked, blackwell = (candidates[name].draws("variance") for name in names)
        gap = bootstrap.interval(masked.combined(np.subtract, blackwell), options)
        rows.append(
            {
                "kl_before": kl_before[environment.name],
                "jackpot": masked.centre,
                "rao_blackwell": blackwell.centre,
                "gap": gap.value,
                "gap_se": gap.se,
            }
        )
    return pd.DataFrame(rows).sort_values("kl_before", ignore_index=True)


def _deviation(first: object, second: object) -> Floats:
    """|first − second| over the larger of the two, (n,); 0 where both are 0 up to rounding."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-15)
    out: Floats = np.abs(a - b) / scale
    return out


def _one_state(loaded: Loaded) -> float:
    """The overlap Z(1) of the state in panel (a), which is the acceptance rate of jackpot there."""
    rates = loaded.states.loc[loaded.states["estimator"] == specs()["jackpot"].label, "acceptance_rate"].to_numpy()
    return float(rates[np.argmin(np.abs(rates - TYPICAL_OVERLAP))])


def _weights(ratio: Floats, overlap: float) -> tuple[Floats, Floats]:
    """Accept probability and weight of jackpot at some ratios, (n,), in a state of this overlap."""
    accept, weight = specs()["jackpot"].correction().weights(np.log(ratio), np.asarray(overlap))
    return np.asarray(accept), np.asarray(weight)


def _ratios() -> Floats:
    return np.linspace(0.002, 5, 2500)


def _table(deviations: pd.DataFrame) -> Table:
    table = report_table("Identities: largest relative deviation", "", "compared", "of", "deviation")
    table.columns[1].justify = "left"
    for _, row in deviations.iterrows():
        table.add_row(row["identity"], row["compared"], f"{row['comparisons']}", f"{row['deviation']:.1e}")
    return table


def _noise_table(noise: pd.DataFrame) -> Table:
    title = "Variance over the on-policy one, and the part of it that is the mask's noise"
    table = report_table(title, "KL before", "jackpot", "rao-blackwell", "difference", "se")
    for _, row in noise.iterrows():
        figures = (f"{row[name]:.4f}" for name in ("jackpot", "rao_blackwell", "gap", "gap_se"))
        table.add_row(f"{row['kl_before']:g}", *figures)
    return table


def _draw_expected(axes: Axes, overlap: float) -> None:
    ratio = _ratios()
    accept, weight = _weights(ratio, overlap)
    mean, noise = accept * weight, weight * np.sqrt(accept * (1 - accept))
    look, tis = style.LOOKS["jackpot"], style.LOOKS["tis"]
    axes.fill_between(ratio, mean - noise, mean + noise, color=look.color, alpha=0.25, linewidth=0)
    axes.plot(ratio, np.minimum(ratio, C1), color=tis.color)
    axes.plot(ratio, mean, color=look.color, linewidth=2.2, label="Jackpot, mean of m·w")
    axes.plot(ratio, overlap * np.minimum(ratio, C1 / overlap), label=r"$Z\,\min(r, c_1/Z)$", **style.CLOSED_FORM)
    axes.set(
        xlim=(0, 4.2), ylim=(0, 3.1), xlabel=r"importance ratio $r = p/q$", ylabel=r"expected weight $E[mw\,|\,r]$"
    )
    axes.set_title(f"(a) One state, Z = {overlap:.2f}")
    axes.text(4.15, 2.05, "TIS(2)", color=tis.color, ha="right", va="bottom")
    axes.annotate(
        "band: mean ± 1 s.d.\nof m·w over the mask,\n" + r"$w\sqrt{a(1-a)}$, cut at 0",
        (0.75, 0.22),
        xytext=(1.3, 0.02),
        color=look.color,
        fontsize=7,
        va="bottom",
        arrowprops={"arrowstyle": "-", "color": look.color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0},
    )
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.02), fontsize=7)


def _draw_laws(axes: Axes, figures: pd.DataFrame) -> None:
    chosen = figures[figures["figure"] == "kl_effective"]
    shown = [kl for kl in sorted(chosen["target_kl"].unique()) if kl >= 0.01][::2]
    for index, kl in enumerate(shown):
        rows = chosen[chosen["target_kl"] == kl].set_index("estimator")
        for name in ("tis", "obrs"):
            look, labels = style.LOOKS[name], by_threshold(name)
            values, thresholds = rows.loc[list(labels.values())], list(labels)
            if name == "tis":
                axes.fill_between(thresholds, values["low"], values["high"], color=look.color, alpha=0.3, linewidth=0)
            drawn = {"linestyle": "-", "linewidth": 2.4} if name == "tis" else {"linestyle": "none"}
            axes.plot(
                thresholds,
                values["value"],
                color=look.color,
                marker=look.marker if name == "obrs" else None,
                label=("TIS(C)" if name == "tis" else "OBRS(λ = C)") if index == 0 else None,
                **drawn,
            )
        axes.annotate(
            f"KL before {kl:g}",
            (thresholds[0], values["value"].iloc[0]),
            xytext=(0, 5),
            textcoords="offset points",
            color="#444444",
        )
    axes.set(xscale="log", yscale="log", xlabel="C", ylabel="KL of the update (nats)", ylim=(1e-6, 4))
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    axes.minorticks_off()
    axes.set_title("(b) The same law (I1)")
    axes.legend(loc="lower left")


def _draw_variance(axes: Axes, figures: pd.DataFrame) -> None:
    chosen = figures[figures["figure"] == "variance"]
    lines = {name: chosen[chosen["estimator"] == spec.label] for name, spec in specs().items()}
    upper, lower = lines["jackpot"], lines["rao-blackwell(jackpot)"]
    color = style.LOOKS["jackpot"].color
    axes.fill_between(upper["target_kl"], lower["value"], upper["value"], color=color, alpha=0.25, linewidth=0)
    drawn: dict[str, tuple[str, dict[str, Any]]] = {
        "jackpot": ("Jackpot", {"linestyle": "-"}),
        "rao-blackwell(jackpot)": ("Rao-Blackwell form", {"linestyle": "-"}),
        "overlap-tis": (r"$Z^2$ Var TIS($c_1/Z$)", {"linestyle": "none", "markersize": 5.5}),
    }
    for name, (label, options) in drawn.items():
        look, rows = style.LOOKS[name], lines[name]
        marker = look.marker if name != "rao-blackwell(jackpot)" else None
        axes.plot(rows["target_kl"], rows["value"], color=look.color, marker=marker, label=label, **options)
    axes.set(xscale="log", ylim=(0, 1.05), xlabel="KL before (nats)", ylabel="variance / on-policy variance")
    axes.set_title("(c) What the mask adds (I3)")
    axes.legend(loc="lower left")


if __name__ == "__main__":
    sys.exit(main())
