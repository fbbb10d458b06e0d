"""The share of prefixes in the bias that corrections of single tokens leave: ours.

A correction of single tokens makes each token's own law right, or nearly so, and leaves the tokens before
and after it to the actor. ĝ differs from g in three parts: the law of the prefixes, the value of the
continuation of a token, and the token's own weight. Their shares in ĝ − g are Shapley values and add up to 1; a
negative share reduces the bias. For plain importance sampling the share of the weight is 0, so only the rest of the
sequence is left. The figure also shows the part of prefixes in the KL of the update, KL(p‖q_w) over visits to
(prefix, token).

Shares are pooled over seeds, weighted by the squared bias, with jackknifed standard errors. The
records are those of `bias_variance_length`.

    python -m paper_figures.prefix_shift
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rich.table import Table

from . import fits, style
from .bias_variance_length import measured as with_rewards
from .bias_variance_panels import MAIN_REWARD
from .command import Made, report_table, run
from .records import Loaded

NAME = "prefix_shift"

PARTS = {"prefix": "prefixes", "continuation": "continuations", "weight": "the token's weight"}
COLORS = {"prefix": "#0072B2", "continuation": "#56B4E9", "weight": "#E69F00"}
TOKEN = {"is": "IS", "tis": "TIS", "rao-blackwell(jackpot)": "Jackpot"}
LINES = {
    "none": "none",
    "is": "",
    "tis": "",
    "rao-blackwell(jackpot)": "IS, TIS, Jackpot",
    "sequence-tis": "IS of sequences,\ntruncated",
}
"""The labels at the ends of lines in panel (d); the three lines of tokens coincide, and nearly with their prefixes."""

TOLERANCE = 1e-6
"""The largest relative deviation of an identity by rounding."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says how much of the remaining bias lies outside the token."""
    return run(NAME, "The parts of the bias that corrections of single tokens leave.", make, argv)


def make(loaded: Loaded) -> Made:
    """The figure and its tables."""
    rows = with_rewards(loaded)
    rows = rows[(rows["reward"] == MAIN_REWARD) & (rows["length"] > 1)]
    table = shares(rows)
    kl, length = shown_kl(rows), rows["length"].max()
    at = table[(table["target_kl"] == kl) & (table["length"] == length)].set_index("estimator")
    corrected = at.loc[["tis", "rao-blackwell(jackpot)"]]
    outside = 1 - corrected["weight"]
    exact = identities(rows)
    agrees = bool((exact <= TOLERANCE).all() and (outside - 2 * corrected["weight_se"] > 0.5).all())
    parts = "; ".join(
        f"{TOKEN[str(name)]} prefixes {row['prefix']:.0%} ± {row['prefix_se']:.0%} (half of the seeds "
        f"{row['prefix_low']:.0%} to {row['prefix_high']:.0%}), continuations {row['continuation']:.0%} ± "
        f"{row['continuation_se']:.0%}, its own weight {round(row['weight'], 2) + 0.0:.0%} ± {row['weight_se']:.0%}"
        for name, row in corrected.iterrows()
    )
    verdict = (
        f"VERDICT: at T = {length} and KL {kl:g} the bias that is left {'lies' if agrees else 'DOES NOT lie'} mostly "
        f"outside the token: {parts}. Identities (shares add up to 1, IS has none of its own, and its KL is "
        f"that of prefixes) are exact to {exact.max():.0e}."
    )
    return Made(_draw(rows, table, kl), [_shares_table(table), _kl_table(rows)], verdict, agrees)


def shown_kl(rows: pd.DataFrame) -> float:
    """The largest KL, at which truncation and Jackpot's factor add most."""
    return float(rows["target_kl"].max())


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each estimator, KL and length: Σ share·‖ĝ − g‖² / Σ ‖ĝ − g‖² over seeds, its error, and quartiles."""
    out = []
    for (name, kl, length), of in rows[rows["estimator"].isin(TOKEN)].groupby(
        ["estimator", "target_kl", "length"], sort=False
    ):
        row = {"estimator": name, "target_kl": kl, "length": length}
        size = of["absolute"] ** 2
        for part in PARTS:
            share = of[f"bias_share_{part}"]
            pooled = fits.jackknifed(share * size, size)
            low, high = share.quantile([0.25, 0.75])
            row |= {part: pooled.value, f"{part}_se": pooled.se, f"{part}_low": low, f"{part}_high": high}
        out.append(row)
    return pd.DataFrame(out)


def identities(rows: pd.DataFrame) -> pd.Series:
    """The largest deviation of each identity."""
    token = rows[rows["estimator"].isin(TOKEN)]
    plain = rows[rows["estimator"] == "is"]
    return pd.Series(
        {
            "shares add up to 1": (token[[f"bias_share_{part}" for part in PARTS]].sum(axis=1) - 1).abs().max(),
            "the weight of IS has no share": plain["bias_share_weight"].abs().max(),
            "the KL of IS is that of prefixes": (plain["kl_prefix"] / plain["kl_effective"] - 1).abs().max(),
        }
    )


def _shares_table(table: pd.DataFrame) -> Table:
    kls = sorted(table["target_kl"].unique())
    title = "Shares of the remaining bias (± standard error), and the middle half of the seeds"
    out = report_table(title, "estimator", "KL", "T", *PARTS.values(), "prefixes, by seed")
    longest = table["length"].max()
    for name, of in table.groupby("estimator", sort=False):
        shown = of[(of["length"] == longest) | (of["target_kl"] == kls[-1])].sort_values(["target_kl", "length"])
        for _, row in shown.iterrows():
            figures = (f"{_rounded(row[part])} ± {row[f'{part}_se']:.2f}" for part in PARTS)
            spread = f"{_rounded(row['prefix_low'])} to {_rounded(row['prefix_high'])}"
            out.add_row(TOKEN[str(name)], f"{row['target_kl']:g}", f"{row['length']}", *figures, spread)
        out.add_section()
    return out


def _rounded(share: float) -> str:
    return f"{round(share, 2) + 0.0:.2f}"  # no −0.00


def _kl_table(rows: pd.DataFrame) -> Table:
    kl, lengths = shown_kl(rows), sorted(rows["length"].unique())
    title = f"KL of the update (and what is due to prefixes), nats, at KL {kl:g} per token: mean over seeds"
    out = report_table(title, "estimator", *(f"T = {length}" for length in lengths))
    at = rows[rows["target_kl"] == kl]
    for name, of in at.groupby("estimator", sort=False):
        means = of.groupby("length")[["kl_effective", "kl_prefix"]].mean()
        out.add_row(str(name), *(f"{a:.2f} ({b:.2f})" for a, b in means.to_numpy()))
    return out


def _draw(rows: pd.DataFrame, table: pd.DataFrame, kl: float) -> Figure:
    figure, axes = style.canvas(4, 2.8, [1, 1, 1, 2.1])
    top = 1.0
    for panel, letter, (name, label) in zip(axes, "abc", TOKEN.items(), strict=False):
        of = table[(table["estimator"] == name) & (table["target_kl"] == kl)].sort_values("length")
        top = max(top, _stack(panel, of))
        panel.set_title(f"({letter}) {label}")
    for panel in axes[:3]:
        panel.set_ylim(1 - 1.05 * top, 1.05 * top)
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"] if panel is axes[0] else [""] * 5)
    axes[0].set_ylabel(f"share of the bias, KL {kl:g}")
    _kl(axes[3], rows[rows["target_kl"] == kl])
    handles = [Patch(color=COLORS[part], label=label) for part, label in PARTS.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


def _stack(axes: Axes, of: pd.DataFrame) -> float:
    """Draws stacked bars, negative shares below 0; the height of the highest error bar."""
    lengths = of["length"].to_numpy()
    above, below, top = np.zeros(len(of)), np.zeros(len(of)), 0.0
    for part, color in COLORS.items():
        share, error = of[part].to_numpy(), of[f"{part}_se"].to_numpy()
        bottom = np.where(share >= 0, above, below)
        axes.bar(lengths, share, bottom=bottom, color=color, width=0.8)
        drawn = np.abs(share) > 1e-6
        axes.errorbar(
            lengths[drawn] + {"prefix": -0.2, "continuation": 0.0, "weight": 0.2}[part],
            (bottom + share)[drawn],
            error[drawn],
            color="#222222",
            linestyle="none",
            elinewidth=0.9,
        )
        top = max(top, float(np.max(bottom + share + error)))
        above, below = above + np.maximum(share, 0), below + np.minimum(share, 0)
    axes.axhline(0, color="#000000", linewidth=0.7)
    axes.set(xlabel="T, tokens")
    axes.set_xticks(lengths)
    axes.grid(visible=False, axis="x")
    return top


def _kl(axes: Axes, at: pd.DataFrame) -> None:
    lengths = sorted(at["length"].unique())
    for name, label in LINES.items():
        look = style.LOOKS[name]
        by_length = at[at["estimator"] == name].groupby("length")
        for column, line in (("kl_effective", "-"), ("kl_prefix", (0, (2, 1.5)))):
            means = [fits.geometric(each) for _, each in by_length[column]]
            mean, error = (np.array([each[i] for each in means]) for i in (0, 1))
            bars = np.stack([np.exp(mean) - np.exp(mean - error), np.exp(mean + error) - np.exp(mean)])
            marker = look.marker if line == "-" else "none"
            axes.errorbar(lengths, np.exp(mean), bars, color=look.color, marker=marker, linestyle=line, elinewidth=0.8)
            if line == "-" and label:
                axes.text(lengths[-1] + 0.2, np.exp(mean[-1]), label, color=look.color, va="center", fontsize=7.5)
    axes.set(yscale="log", xlabel="T, tokens", ylabel="KL of the update (nats)")
    axes.set_xticks(lengths)
    axes.set_xlim(lengths[0] - 0.3, lengths[-1] + 0.75 * (lengths[-1] - lengths[0]))
    axes.set_title("(d) KL (dashed: of prefixes)")


if __name__ == "__main__":
    sys.exit(main())
