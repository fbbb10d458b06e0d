"""When training is lost: the distance of the frozen actor at the beginning × what is done about it.

Left, the median step at which runs are lost; right, the last accuracy. The paper shows single distances only;
that a farther actor is lost sooner, and Jackpot later than others, is what it leads one to expect.

    python -m paper_figures.collapse_map
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats

from paper_figures import style, training_curves, training_records
from paper_figures.command import Made
from paper_figures.training_curves import name_of
from paper_figures.training_records import Trained
from paper_figures.training_statistics import Claim, difference, group, of, per_run, told_lost, verdict

NAME = "collapse_map"

_LEVEL = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the figure, and says whether distance and method decide when training is lost."""
    return training_records.draw(NAME, "When training collapses, by initial KL and method.", make, argv)


def make(found: Trained) -> Made:
    """The figure and its tables."""
    found.need(("none",), found.settings)
    ours = next((each for each in ("jackpot", "rao-blackwell") if each in found.methods), "jackpot")
    found.need((ours,), found.settings)
    runs = per_run(found)
    runs["survived"] = runs["lost_at"].fillna(runs["asked"]) / runs["asked"]
    figure, (left, right) = style.canvas(2, 0.36 * len(found.settings) + 1.6)
    _map(left, found, runs, "survived", _when)
    _map(right, found, runs, "accuracy", lambda cell: f"{cell['accuracy'].mean():.2f}")
    left.set(title="(a) Step at which runs are lost", ylabel="KL of the actor at first, nats")
    right.set(title="(b) Last accuracy")
    right.set_yticklabels([])
    claims = [_sooner(found, runs), *(_later(runs, ours, other) for other in ("none", "tis") if other in found.methods)]
    told, agrees = verdict(found, claims)
    return Made(figure, training_curves.tables(found, runs, "Frozen actors"), told, agrees)


def distance(found: Trained, setting: str) -> float | None:
    """The KL that the frozen actor of a setting was distilled to, nats; None where methods do not share one."""
    asked = {training["actor"].get("kl") for training in found.grid[setting].values()} - {None}
    return float(asked.pop()) if len(asked) == 1 else None


def _map(axes: Axes, found: Trained, runs: pd.DataFrame, column: str, text: Any) -> None:
    shades: NDArray[np.float64] = np.full((len(found.settings), len(found.methods)), np.nan)
    for row, setting in enumerate(found.settings):
        for place, method in enumerate(found.methods):
            if method in found.grid[setting]:
                cell = group(runs, setting, method)
                shades[row, place] = shade = float(cell[column].mean())
                color = "white" if shade > 0.6 else "black"
                axes.text(place, row, text(cell), ha="center", va="center", color=color, fontsize=7)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(range(len(found.methods)), [name_of(each) for each in found.methods], rotation=35, ha="right")
    labels = [setting if (kl := distance(found, setting)) is None else f"{kl:g}" for setting in found.settings]
    axes.set_yticks(range(len(found.settings)), labels)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _when(cell: pd.DataFrame) -> str:
    at = cell["lost_at"].dropna()
    if not len(at):
        return "stable"
    return f"{at.median():.0f}" if len(at) == len(cell) else f"{at.median():.0f}\n{len(at)} of {len(cell)}"


def _sooner(found: Trained, runs: pd.DataFrame) -> Claim:
    """Whether runs without a correction survive less, the farther the actor is: Kendall's τ over runs."""
    survived = of(runs, "none", "survived")
    far = [distance(found, str(setting)) for setting in survived.index.get_level_values("setting")]
    known = pd.DataFrame({"survived": survived.to_numpy(), "kl": pd.Series(far, dtype=float).to_numpy()}).dropna()
    varies = known.nunique().min() > 1
    tau, p = stats.kendalltau(known["kl"], known["survived"]) if varies else (0.0, 1.0)
    told = f"no correction: {told_lost(of(runs, 'none', 'lost_at'))}; Kendall's τ {tau:+.2f}, p = {p:.2g}"
    text = "without a correction a farther actor is lost sooner"
    return Claim(text, bool(tau < 0) if p < _LEVEL else None, told)


def _later(runs: pd.DataFrame, ours: str, other: str) -> Claim:
    gain = difference(of(runs, ours, "survived"), of(runs, other, "survived"))
    told = f"share of the steps that runs survive, {name_of(ours)} − {name_of(other)}, over distances and seeds: {gain}"
    return Claim(f"{name_of(ours)} is lost later than {name_of(other)}", gain.above, told)


if __name__ == "__main__":
    sys.exit(main())
